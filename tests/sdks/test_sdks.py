"""The SDKs of other languages are tested by their own runners, where their tools are on the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SDKS = Path(__file__).parents[2] / "sdks"
pytestmark = pytest.mark.timeout(280)
NODE_OLDEST = (20, 15)
GO_OLDEST = (1, 23)


def run(command: list[str], folder: Path, **variables: str) -> None:
    """Run a test runner; its output is the reason when it fails. Its Python is this one."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20_000:]}{done.stderr[-5000:]}"


def version_of(command: list[str], prefix: str) -> tuple[int, ...]:
    """Return major and minor version of a tool; (0,) where it is missing."""
    if shutil.which(command[0]) is None:
        return (0,)
    words = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    found = next(word for word in words if word.startswith(prefix) and word[len(prefix) :][:1].isdigit())
    return tuple(int(part) for part in found.removeprefix(prefix).split(".")[:2])


def test_the_express_middleware() -> None:
    if (found := version_of(["node", "--version"], "v")) < NODE_OLDEST:
        pytest.skip(f"sdks/express was NOT tested: it needs Node {'.'.join(map(str, NODE_OLDEST))}, this machine has {found}")
    run(["node", "--test", *map(str, sorted((SDKS / "express" / "test").glob("*.test.js")))], SDKS / "express")


def test_the_go_middleware() -> None:
    if (found := version_of(["go", "version"], "go")) < GO_OLDEST:
        pytest.skip(f"sdks/go was NOT tested: it needs Go {'.'.join(map(str, GO_OLDEST))}, this machine has {found}")
    # No registry, no other toolchain, no C compiler.
    run(["go", "test", "-timeout", "260s", "./..."], SDKS / "go", CGO_ENABLED="0", GOPROXY="off", GOTOOLCHAIN="local", GOFLAGS="-mod=mod")
