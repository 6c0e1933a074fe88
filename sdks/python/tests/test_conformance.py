"""The scenarios that all SDKs share, played against an app under uvicorn: crashes, outages, refusals, full spools, two processes."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(240)
def test_every_scenario_holds() -> None:
    command = [sys.executable, str(HERE.parents[1] / "conformance" / "drive.py"), "--app", f"{sys.executable} {HERE / 'app.py'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert " 0 do not" in done.stdout
