"""Detached processes: started in a session of their own, found again and stopped by pid and start time."""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_TIME_TOLERANCE_SECONDS = 2.0  # the system clock may have been stepped since
POLL_SECONDS = 0.02
KEPT_LOG_BYTES = 50_000_000


@dataclass(frozen=True)
class Identity:
    """A pid alone may have been given to another process since; with the start time it names just one."""

    pid: int
    created: float


def start_detached(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    user: str | None = None,
) -> Identity:
    """Start a process that outlives us, with its output in `log`; the log of the run before is kept as `.1`. Its files are its owner's."""
    keep_former(log)
    with open(log, "wb", opener=_private) as output:
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
            umask=0o077,
            **as_user(user),
        )
    process.returncode = 0  # it is meant to outlive us: without this Popen warns at exit
    return Identity(process.pid, _created(process.pid))


def _private(path: str, flags: int) -> int:
    """Open a log that only its owner reads."""
    return os.open(path, flags, 0o600)


def as_user(user: str | None) -> dict[str, Any]:
    """Return the options of `subprocess` that give up root for this user."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def keep_former(log: Path) -> None:
    """Put the log of the run before aside as `.1`; one that grew very large is dropped."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size:
        if log.stat().st_size > KEPT_LOG_BYTES:
            log.unlink()
        else:
            log.replace(log.with_name(log.name + ".1"))


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0  # it has died already: no process will ever match


def is_alive(identity: Identity) -> bool:
    """Tell whether just this process runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(identity.pid, os.WNOHANG)
    try:
        process = psutil.Process(identity.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - identity.created) < START_TIME_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return False


def signal_process(identity: Identity, number: signal.Signals) -> None:
    if is_alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def wait_until_gone(identity: Identity, limit_seconds: float) -> bool:
    end = time.monotonic() + limit_seconds
    while is_alive(identity):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def stop(identity: Identity, *, how: signal.Signals = signal.SIGTERM, limit_seconds: float = 20.0) -> bool:
    """Ask the process to end and return True; when it has not within the limit, kill it and return False."""
    signal_process(identity, how)
    if wait_until_gone(identity, limit_seconds):
        return True
    kill(identity)
    return False


def kill(identity: Identity) -> None:
    signal_process(identity, signal.SIGKILL)
    wait_until_gone(identity, 10.0)


def tail(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log that say something, for an error sentence: those of a stack trace are left out."""
    with contextlib.suppress(OSError):
        return "\n".join([line for line in log.read_text(errors="replace").splitlines() if _speaks(line)][-lines:])
    return ""


def _speaks(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and not line.startswith("Traceback")
