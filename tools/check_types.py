"""mypy --strict over every workspace member and the tests that share modules, in one run: loading what they share is what takes long."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("integration", "invoices")  # folders of tests whose modules are imported by their names


def packages(members: list[str]) -> list[str]:
    """Return the package each member holds under `src`."""
    return [folder.name for member in members for folder in sorted((ROOT / member / "src").iterdir()) if (folder / "__init__.py").exists()]


def main(members: list[str]) -> int:
    modules = sorted(file.stem for folder in SHARED for file in (ROOT / "tests" / folder).glob("*.py") if file.stem != "conftest")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    command += [word for name in packages(members) for word in ("-p", name)] + [word for name in modules for word in ("-m", name)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
