"""Kafka and Postgres for tests: by testcontainers where Docker answers, embedded otherwise; one of each per test run.

In a conftest: `pytest_plugins = ["embedded_servers.testing"]`, which gives the fixtures `postgres_dsn` and `kafka_bootstrap`.
`TEST_DATABASE_URL` and `TEST_KAFKA_BOOTSTRAP_SERVERS` name servers that run already.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedded_servers.kafka import Kafka
from embedded_servers.postgres import Postgres
from embedded_servers.processes import Identity, is_alive, kill

POSTGRES_IMAGE = "postgres:17-alpine"
KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.0"


def docker_answers() -> bool:
    if os.environ.get("NO_DOCKER") or not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    import docker  # type: ignore[import-untyped]  # slow to import, and comes only with testcontainers

    try:
        docker.from_env(timeout=3).ping()
    except docker.errors.DockerException:
        return False
    return True


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield a superuser's URL of a Postgres that ends with the block."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif docker_answers():
        from testcontainers.community.postgres import PostgresContainer

        with PostgresContainer(POSTGRES_IMAGE, username="postgres", password="postgres", dbname="postgres", driver=None) as container:  # noqa: S106
            yield container.get_connection_url()
    else:
        with _temporary_folder("turnpike-postgres-") as folder, Postgres(folder, fast=True) as server:
            yield server.dsn()


@contextmanager
def kafka_server() -> Iterator[str]:
    """Yield the bootstrap servers of a Kafka that ends with the block."""
    if servers := os.environ.get("TEST_KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
    elif docker_answers():
        from testcontainers.community.kafka import KafkaContainer

        with KafkaContainer(KAFKA_IMAGE).with_kraft().with_env("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "2000") as container:
            yield container.get_bootstrap_server()
    else:
        with _temporary_folder("turnpike-kafka-") as folder, Kafka(folder) as server:
            yield server.bootstrap_servers


@contextmanager
def _temporary_folder(prefix: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)  # under root, Postgres runs as a user without rights and must get through
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's URL; each test makes databases of its own in it."""
    yield from _shared("postgres", postgres_server, _start_postgres, tmp_path_factory)


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers; each test uses topics and groups of its own in it."""
    yield from _shared("kafka", kafka_server, _start_kafka, tmp_path_factory)


def _start_postgres(folder: Path) -> tuple[str, Identity | None]:
    server = Postgres(folder, fast=True).start()
    return server.dsn(), server.identity


def _start_kafka(folder: Path) -> tuple[str, Identity | None]:
    server = Kafka(folder).start()
    return server.bootstrap_servers, server.identity


def _shared(
    name: str,
    alone: Callable[[], AbstractContextManager[str]],
    start: Callable[[Path], tuple[str, Identity | None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Give every xdist worker the same embedded server: the first to ask starts it, the last to leave ends it."""
    given = os.environ.get("TEST_DATABASE_URL" if name == "postgres" else "TEST_KAFKA_BOOTSTRAP_SERVERS")
    if "PYTEST_XDIST_WORKER" not in os.environ or given or docker_answers():
        with alone() as address:
            yield address
        return
    register = tmp_path_factory.getbasetemp().parent / f"{name}.json"
    address = _join(register, name, start)
    try:
        yield address
    finally:
        _leave(register)


def _join(register: Path, name: str, start: Callable[[Path], tuple[str, Identity | None]]) -> str:
    with _locked(register):
        known = _read(register)
        if known is None or not is_alive(Identity(**known["identity"])):
            folder = Path(tempfile.mkdtemp(prefix=f"turnpike-{name}-"))
            folder.chmod(0o711)
            address, identity = start(folder)
            assert identity is not None
            known = {"address": address, "identity": asdict(identity), "folder": str(folder), "users": []}
        known["users"] = [*known["users"], os.getpid()]
        register.write_text(json.dumps(known))
        return str(known["address"])


def _leave(register: Path) -> None:
    with _locked(register):
        known = _read(register)
        if known is None:
            return
        known["users"] = [pid for pid in known["users"] if pid != os.getpid() and psutil.pid_exists(pid)]
        register.write_text(json.dumps(known))
        if not known["users"]:
            kill(Identity(**known["identity"]))  # its data is thrown away: no need to be gentle
            shutil.rmtree(known["folder"], ignore_errors=True)
            register.unlink()


def _read(register: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(register.read_text())
    except FileNotFoundError:
        return None
    return content


@contextmanager
def _locked(register: Path) -> Iterator[None]:
    with register.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
