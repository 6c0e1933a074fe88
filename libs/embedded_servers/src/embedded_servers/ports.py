"""Which port a server gets: the wanted one, else the next that is free."""

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from embedded_servers.errors import ServerError

HOST = "127.0.0.1"
TRIES = 200
PROMISE_SECONDS = 60
POLL_SECONDS = 0.05


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_free(port: int, seconds: float) -> bool:
    """Wait until nobody holds the port: a process that was just killed may hold it a moment longer."""
    end = time.monotonic() + seconds
    while not is_free(port):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def require_free(port: int) -> None:
    """Refuse a taken port before a server starts: else we would take the answers of another for its own."""
    if not is_free(port):
        raise ServerError(f"Port {port} is in use: stop what holds it, or choose another.")


def choose_port(preferred: int, taken: Collection[int] = ()) -> int:
    """Return the preferred port or the next free one; `taken` are promised to others that have not opened them yet.

    A chosen port is kept for this process for a minute, so that two stacks that start at once never choose the same.
    """
    for port in range(preferred, min(preferred + TRIES, 65536)):
        if port not in taken and is_free(port) and _reserve(port):
            return port
    raise ServerError(f"No free port between {preferred} and {preferred + TRIES - 1}: stop what holds them.")


def _reserve(port: int) -> bool:
    """Promise the port to this process; False when another live process was promised it less than a minute ago."""
    folder = Path(tempfile.gettempdir()) / f"turnpike-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        promise = folder / str(port)
        try:
            owner, age = int(promise.read_text()), time.time() - promise.stat().st_mtime
        except (FileNotFoundError, ValueError):
            owner, age = 0, PROMISE_SECONDS
        if owner not in {0, os.getpid()} and age < PROMISE_SECONDS and psutil.pid_exists(owner):
            return False
        promise.write_text(str(os.getpid()))
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
