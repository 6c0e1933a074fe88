"""One Kafka broker (KRaft) on 127.0.0.1: formats its folder, starts, says when it answers, stops."""

import base64
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Self
from uuid import uuid4

from embedded_servers import java as java_runtime
from embedded_servers import places, processes
from embedded_servers.errors import ServerError
from embedded_servers.jars import class_path, fingerprint
from embedded_servers.java import Java
from embedded_servers.kafka_properties import LOG4J, server_properties
from embedded_servers.ports import HOST, free_port, require_free
from embedded_servers.processes import Identity

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
AOT_SINCE = 25  # this release and later keep their class archive as an AOT cache
# Metadata, version 1, correlation 1, client "turnpike", no topics: the answer lists the brokers that serve.
_METADATA_BODY = struct.pack(">hhih8si", 3, 1, 1, 8, b"turnpike", 0)
_METADATA_REQUEST = struct.pack(">i", len(_METADATA_BODY)) + _METADATA_BODY


def jars_folder() -> Path:
    return places.software() / "kafka"


def installed_java() -> Java:
    note = places.software() / "java.json"
    found = java_runtime.recall(note)
    if found is None:
        found = java_runtime.find_java()
        java_runtime.remember(found, note)
    return found


def archive_path(java: Java) -> Path:
    """Return where the class archive of this runtime and these jars is, or would be: without it a start takes twice as long."""
    suffix = "aot" if java.major >= AOT_SINCE else "jsa"
    return places.software() / f"kafka-{fingerprint()}-java{java.major}.{suffix}"


class Kafka:
    """A broker whose whole state is in `folder`; ports may change between runs."""

    def __init__(self, folder: Path, *, port: int | None = None, controller_port: int | None = None, log: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.controller_port = controller_port or free_port()
        self.log = log or self.folder / "kafka.log"
        self.identity: Identity | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    def launch(self, extra_flags: tuple[str, ...] = ()) -> Identity:
        """Start the process without waiting until it answers."""
        require_free(self.port)
        java = installed_java()
        self._write_configuration()
        command = [*_java_command(java, self.folder), *extra_flags, *_archive_flags(java)]
        if not (self._data / "meta.properties").exists():
            self._format(_java_command(java, self.folder))
        self.identity = processes.start_detached(
            [*command, "-cp", class_path(jars_folder()), "kafka.Kafka", str(self.folder / "server.properties")],
            log=self.log,
            environment=java_runtime.clean_environment(),
            folder=self.folder,
        )
        return self.identity

    def wait_ready(self, limit_seconds: float = READY_SECONDS) -> None:
        end = time.monotonic() + limit_seconds
        while not answers(self.port):
            if self.identity is not None and not processes.is_alive(self.identity):
                raise ServerError(f"Kafka ended while starting; its log {self.log} says:\n{processes.tail(self.log)}")
            if time.monotonic() > end:
                raise ServerError(f"Kafka did not answer on port {self.port} within {limit_seconds:.0f} s; see {self.log}.")
            time.sleep(0.02)

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def stop(self) -> None:
        if self.identity is not None:
            processes.stop(self.identity, how=signal.SIGTERM, limit_seconds=STOP_SECONDS)

    def kill(self) -> None:
        if self.identity is not None:
            processes.kill(self.identity)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _write_configuration(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        properties = server_properties(port=self.port, controller_port=self.controller_port, data=self._data)
        (self.folder / "server.properties").write_text(properties)
        (self.folder / "log4j2.properties").write_text(LOG4J)

    def _format(self, command: list[str]) -> None:
        tool = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            new_cluster_id(),
            "-c",
            str(self.folder / "server.properties"),
            "--ignore-formatted",
        ]
        done = subprocess.run(
            [*command, *_archive_flags(installed_java()), "-cp", class_path(jars_folder()), *tool],
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=False,
            env=java_runtime.clean_environment(),
        )
        if done.returncode != 0:
            raise ServerError(f"Kafka could not prepare {self._data}: {(done.stderr or done.stdout).strip()[-500:]}")


def new_cluster_id() -> str:
    """Return 22 characters that do not begin like an option."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()
        if not cluster_id.startswith("-"):
            return cluster_id


def answers(port: int) -> bool:
    """Tell whether a broker lists itself as serving: its port opens well before it does."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(_METADATA_REQUEST)
            head = _receive(connection, 12)
    except OSError:
        return False
    if len(head) < 12:
        return False
    _, _, brokers = struct.unpack(">iii", head)
    return bool(brokers > 0)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            break
        received += piece
    return received


def _java_command(java: Java, folder: Path) -> list[str]:
    flags = ["-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable", "-Xlog:all=error:stderr"]
    if java.major >= 23:
        flags.append("--sun-misc-unsafe-memory-access=allow")
    if java.major >= 24:
        flags.append("--enable-native-access=ALL-UNNAMED")
    return [str(java.path), *flags, f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"]


def _archive_flags(java: Java) -> list[str]:
    """Return the flag that reads the class archive; one that does not fit is ignored by the JVM."""
    archive = archive_path(java)
    if not archive.exists():
        return []
    return [f"-XX:AOTCache={archive}" if java.major >= AOT_SINCE else f"-XX:SharedArchiveFile={archive}"]


def write_archive(scratch: Path) -> None:
    """Run a broker once in `scratch` to record its classes: later starts take half as long."""
    java = installed_java()
    archive = archive_path(java)
    if archive.exists():
        return
    part = archive.with_name("part-" + archive.name)
    option = f"-XX:AOTCacheOutput={part}" if java.major >= AOT_SINCE else f"-XX:ArchiveClassesAtExit={part}"
    kafka = Kafka(scratch)
    try:
        kafka.launch((option,))
        kafka.wait_ready()
    finally:
        kafka.stop()
    if part.exists():  # a runtime that cannot write one still serves, only slower
        part.replace(archive)
