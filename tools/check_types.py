"""mypy --strict over the sources of every workspace member, in one run: they share what they import, and that is what takes long."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def packages(members: list[str]) -> list[str]:
    """Return the package each member holds under `src`."""
    return [folder.name for member in members for folder in sorted((ROOT / member / "src").iterdir()) if (folder / "__init__.py").exists()]


def main(members: list[str]) -> int:
    names = packages(members)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *(word for name in names for word in ("-p", name))]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
