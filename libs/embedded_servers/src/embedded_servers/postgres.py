"""One Postgres on 127.0.0.1: makes its cluster, starts, says when it answers, stops; never as root."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from embedded_servers import places, processes
from embedded_servers.errors import ServerError
from embedded_servers.ports import HOST, free_port, require_free
from embedded_servers.postgres_binaries import find_postgres
from embedded_servers.processes import Identity

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"  # as whom the server runs when we are root: it refuses root itself
MAX_CONNECTIONS = 200
# A commit still reaches the operating system before it is answered: a killed server has it, as it has in production.
MEMORY_ONLY = ("-c", "fsync=off", "-c", "full_page_writes=off")


class Postgres:
    """A server whose state is in `folder` (or, under root, where the server's user can reach it: see `data`)."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        log: Path | None = None,
        fast: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`fast` gives up durability against a power cut, for tests; `settings` go before those of a laptop, for measurements."""
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.log = log or self.folder / "postgres.log"
        self.fast = fast
        self.settings = settings
        self.identity: Identity | None = None

    @property
    def data(self) -> Path:
        if places.is_root() and not places.traversable_by_all(self.folder / "data"):
            return places.system_folder_for(self.folder) / "data"
        return self.folder / "data"

    @property
    def password(self) -> str:
        return (self.folder / "superuser-password").read_text().strip()

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@{HOST}:{self.port}/{database}"

    def launch(self) -> Identity:
        """Start the process without waiting until it answers."""
        require_free(self.port)
        binaries = find_postgres()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._create_cluster(binaries)
        self._check_version(binaries)
        command = [str(binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        command += ["-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=", "-c", "shared_buffers=32MB"]
        command += ["-c", f"max_connections={MAX_CONNECTIONS}", "-c", "max_wal_size=256MB", "-c", "jit=off", "-c", "timezone=UTC"]
        command += MEMORY_ONLY if self.fast else ()
        command += [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        self.identity = processes.start_detached(command, log=self.log, folder=Path("/"), user=_server_user())
        return self.identity

    def wait_ready(self, limit_seconds: float = READY_SECONDS) -> None:
        end = time.monotonic() + limit_seconds
        while not self.is_ready():
            if self.identity is not None and not processes.is_alive(self.identity):
                raise ServerError(f"Postgres ended while starting; its log {self.log} says:\n{processes.tail(self.log)}")
            if time.monotonic() > end:
                raise ServerError(f"Postgres did not answer on port {self.port} within {limit_seconds:.0f} s; see {self.log}.")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        """Read the state that the server keeps in its pid file: no connection is spent on asking."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        ours = self.identity is None or (bool(lines) and lines[0].strip() == str(self.identity.pid))
        return ours and len(lines) > 7 and lines[7].strip() == "ready"

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End it the fast way: sessions are cut, everything committed is on disk."""
        if self.identity is not None:
            processes.stop(self.identity, how=signal.SIGINT, limit_seconds=STOP_SECONDS)

    def kill(self) -> None:
        """Kill the server alone; its sessions notice and end by themselves."""
        if self.identity is not None:
            processes.kill(self.identity)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _create_cluster(self, binaries: Path) -> None:
        user = _server_user()
        shutil.rmtree(self.data, ignore_errors=True)  # only what an interrupted initdb left: it has no PG_VERSION
        self.data.mkdir(parents=True, mode=0o700)
        _write_private(self.folder / "superuser-password", secrets.token_urlsafe(24))
        password_file = self.data.with_name("initdb-password")  # a second copy, which the server's user can read
        _write_private(password_file, self.password)
        if user is not None:
            shutil.chown(self.data, user)
            shutil.chown(password_file, user)
        try:
            self._initdb(binaries, password_file)
        finally:
            password_file.unlink(missing_ok=True)

    def _initdb(self, binaries: Path, password_file: Path) -> None:
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        command = [str(binaries / "initdb"), "-D", str(self.data), "-U", SUPERUSER, "-A", "scram-sha-256"]
        command += [f"--pwfile={password_file}", "-E", "UTF8", f"--locale={locale}", "--no-sync"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=READY_SECONDS,
            check=False,
            **processes.as_user(_server_user()),
        )
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ServerError(f"Postgres could not make its cluster in {self.data}: {done.stderr.strip()[-500:]}")

    def _check_version(self, binaries: Path) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        answer = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        if f" {made_by}." not in answer and not answer.strip().endswith(f" {made_by}"):
            raise ServerError(
                f"The data in {self.data} was made by PostgreSQL {made_by}, and this machine has {answer.strip()}; "
                "install that release again, or delete the folder to start with empty data."
            )


def _server_user() -> str | None:
    return UNPRIVILEGED_USER if places.is_root() else None


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
