"""The demo is a test: its story, told through its command, has to hold in every check."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from whole_system import reserve_ports

pytestmark = pytest.mark.timeout(660)
STORY_SECONDS = 540
CHECKS_MIN = 60


def test_the_demo_tells_its_story_to_the_end_and_every_check_holds(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("turnpike-demo")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # Postgres runs as another user under root
    reserve_ports(folder)
    command = [sys.executable, "-m", "turnpike_cli", "demo", "--exit"]
    try:
        done = subprocess.run(
            command, env=os.environ | {"TURNPIKE_HOME": str(folder)}, capture_output=True, text=True, timeout=STORY_SECONDS, check=False
        )
    finally:
        subprocess.run([sys.executable, "-m", "turnpike_cli", "down", "--data", str(folder)], capture_output=True, timeout=60, check=False)
    told = done.stdout.strip().splitlines()
    lines = "\n".join(told[-80:]) + done.stderr[-2000:]
    verdict = [line for line in told if line.startswith("demo: ")]
    assert done.returncode == 0, lines
    found = re.fullmatch(r"demo: (\d+) checks passed, 0 failed", verdict[-1] if verdict else "")
    assert found, lines
    assert int(found[1]) >= CHECKS_MIN, "the story has lost checks"
    assert verdict == told[-1:], f"the verdict is not the last line:\n{lines}"
    assert not processes_of(folder), "the demo left processes behind"


def processes_of(folder: Path) -> list[str]:
    """Return the processes that still work in a stack's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text() or folder == (process / "cwd").readlink():
                found.append(process.name)
        except OSError:
            continue
    return found
