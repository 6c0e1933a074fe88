"""mypy --strict, once per workspace member, two at a time: `python tools/check_types.py libs/* services/* ...`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check(member: str) -> tuple[str, int, str]:
    """Run mypy on the member's `src`; its cache is its own, so that two runs never share one."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", ".mypy_cache", "src"]
    done = subprocess.run(command, cwd=ROOT / member, capture_output=True, text=True, check=False)
    return member, done.returncode, done.stdout + done.stderr


def main(members: list[str]) -> int:
    failed = []
    with ThreadPoolExecutor(2) as pool:
        for member, code, output in pool.map(check, members):
            if code:
                failed.append(member)
                print(f"{member}:\n{output}", end="")
    print(f"types: {len(members) - len(failed)} members right, {len(failed)} wrong{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
