"""The SDKs of other languages are tested by their own runners, where their tools are on the machine."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SDKS = Path(__file__).parents[2] / "sdks"
EXPRESS, GO = SDKS / "express", SDKS / "go"
pytestmark = pytest.mark.timeout(280)
NODE_OLDEST = (20, 15)
GO_OLDEST = (1, 23)
GO_ALONE = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}  # no registry, no other toolchain
NO_REGISTRY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT", "ENETUNREACH", "EHOSTUNREACH")


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Run a test runner and return what it says; that is the reason when it fails. Its Python is this one."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20_000:]}{done.stderr[-5000:]}"
    return done.stdout


def version_of(command: list[str], prefix: str) -> tuple[int, ...]:
    """Return major and minor version of a tool; (0,) where it is missing."""
    if shutil.which(command[0]) is None:
        return (0,)
    words = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    found = next(word for word in words if word.startswith(prefix) and word[len(prefix) :][:1].isdigit())
    return tuple(int(part) for part in found.removeprefix(prefix).split(".")[:2])


@pytest.fixture(scope="module")
def node() -> None:
    if (found := version_of(["node", "--version"], "v")) < NODE_OLDEST:
        pytest.skip(f"sdks/express was NOT tested: it needs Node {'.'.join(map(str, NODE_OLDEST))}, this machine has {found}")


@pytest.fixture(scope="module")
def packages(node: None) -> None:
    """Install what the lock file pins, unless it is there already."""
    lock = hashlib.sha256((EXPRESS / "package-lock.json").read_bytes()).hexdigest()
    installed = EXPRESS / "node_modules" / ".installed"
    if installed.exists() and installed.read_text() == lock:
        return
    if shutil.which("npm") is None:
        pytest.skip("Express 4 and the types of sdks/express were NOT tested: npm is not on this machine")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    done = subprocess.run(command, cwd=EXPRESS, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode != 0 and (reason := next((word for word in NO_REGISTRY if word in done.stderr), "")):
        pytest.skip(f"Express 4 and the types of sdks/express were NOT tested: npm's registry does not answer ({reason})")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
    installed.write_text(lock)


@pytest.fixture(scope="module")
def go() -> None:
    if (found := version_of(["go", "version"], "go")) < GO_OLDEST:
        pytest.skip(f"sdks/go was NOT tested: it needs Go {'.'.join(map(str, GO_OLDEST))}, this machine has {found}")


@pytest.fixture(scope="module")
def race_detector(go: None) -> bool:
    """Whether Go's race detector works here: it needs a C compiler and one of a few platforms."""
    compiler = run(["go", "env", "CC"], GO, **GO_ALONE).split()
    if not compiler or shutil.which(compiler[0]) is None:
        return False
    variables = {**os.environ, **GO_ALONE, "CGO_ENABLED": "1"}
    probe = ["go", "test", "-race", "-run", "^$", "sync/atomic"]  # links against the detector, runs nothing
    return subprocess.run(probe, cwd=GO, env=variables, capture_output=True, timeout=200, check=False).returncode == 0


def scenarios(**variables: str) -> None:
    run(["node", "--test", *map(str, sorted((EXPRESS / "test").glob("*.test.js")))], EXPRESS, **variables)


def test_the_express_middleware_on_express_5(node: None) -> None:
    scenarios()


def test_the_express_middleware_on_express_4(packages: None) -> None:
    scenarios(TURNPIKE_TEST_EXPRESS="express4")


def test_the_types_of_the_express_middleware_hold_for_who_is_strict(packages: None) -> None:
    run([str(EXPRESS / "node_modules" / ".bin" / "tsc"), "--noEmit", "--strict", "--project", "test/types"], EXPRESS)


def test_the_lock_file_of_the_express_middleware_names_no_registry() -> None:
    text = (EXPRESS / "package-lock.json").read_text()
    assert '"integrity"' in text
    assert '"resolved"' not in text


def test_go_vet_finds_nothing_in_the_go_middleware(go: None) -> None:
    run(["go", "vet", "./..."], GO, CGO_ENABLED="0", **GO_ALONE)
    assert not run([str(Path(run(["go", "env", "GOROOT"], GO, **GO_ALONE).strip(), "bin", "gofmt")), "-l", "."], GO)


def test_the_go_middleware_without_a_c_compiler(race_detector: bool) -> None:
    played_below = ["-skip", "TestEveryScenarioHolds"] if race_detector else []
    run(["go", "test", "-timeout", "260s", *played_below, "./..."], GO, CGO_ENABLED="0", **GO_ALONE)


def test_the_go_middleware_has_no_data_race(race_detector: bool) -> None:
    if not race_detector:
        pytest.skip("sdks/go was NOT watched for data races: Go's race detector needs a C compiler and does not work on this machine")
    run(["go", "test", "-race", "-timeout", "260s", "./..."], GO, CGO_ENABLED="1", **GO_ALONE)
