"""Fixtures for every service's tests: a real Postgres rolled back after each test, and a broker in memory.

A service's conftest.py states `pytest_plugins = ["embedded_servers.testing"]` (the server) and uses these functions.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import uvicorn
from fast_depends.pydantic import PydanticSerializer
from faststream.kafka import KafkaBroker, KafkaRouter, TestKafkaBroker
from starlette.types import ASGIApp

from billing_common.db import migrate
from billing_common.events import Event


class OneConnectionPool:
    """Hands out the test's own connection, so that what a handler commits is a savepoint of the test's transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        yield self._connection

    def __getattr__(self, name: str) -> Any:
        if name in {"fetch", "fetchrow", "fetchval", "execute", "executemany"}:
            return getattr(self._connection, name)
        raise AttributeError(name)


async def make_schema(superuser_dsn: str, service: str, migrations: Path) -> str:
    """Make a fresh database with the service's migrated schema; returns its address. Drop it with `drop_database`."""
    name = f"test_{re.sub('[^a-z0-9_]', '_', service)}_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(superuser_dsn)
    try:
        await admin.execute(f"drop database if exists {name} with (force)")
        await admin.execute(f"create database {name}")
    finally:
        await admin.close()
    dsn = urlunsplit(urlsplit(superuser_dsn)._replace(path=f"/{name}"))
    await migrate(dsn, service, migrations)
    return dsn


async def drop_database(superuser_dsn: str, dsn: str) -> None:
    """Drop what `make_schema` made."""
    admin = await asyncpg.connect(superuser_dsn)
    try:
        await admin.execute(f"drop database if exists {urlsplit(dsn).path[1:]} with (force)")
    finally:
        await admin.close()


async def empty(database: asyncpg.Pool | asyncpg.Connection, tables: str) -> None:
    """Truncate those of the tables and their partitions, and what refers to them, that were written to since the last time.

    To truncate one means to make it and its indexes anew, which takes longer than most tests.
    """
    used = (
        "select coalesce(relid, name::regclass)::text as name from unnest($1::text[]) name "
        "left join pg_partition_tree(name::regclass) on true where pg_relation_size(coalesce(relid, name::regclass)) > 0"
    )
    names = [row["name"] for row in await database.fetch(used, tables.split(", "))]
    if names:
        await database.execute(f"truncate {', '.join(names)} cascade")


@asynccontextmanager
async def served(app: ASGIApp, *, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[str]:
    """Yield the address of an application behind a real socket; what it still does at the end is cancelled.

    Without the server's main loop and its slow goodbye, whose ticks would cost every test 0.2 s.
    """
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan=lifespan))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    await server.on_tick(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        left = list(server.server_state.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.lifespan.shutdown()


@asynccontextmanager
async def rolled_back_connection(dsn: str, service: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection inside a transaction that is undone at the end."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": service})
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


@asynccontextmanager
async def memory_kafka(router: KafkaRouter, **context: Any) -> AsyncIterator[Callable[[Event], Any]]:
    """Yield `publish(event)`: the router's handlers run in memory and their exceptions come out of it."""
    broker = KafkaBroker(serializer=PydanticSerializer(use_fastdepends_errors=True))
    broker.include_router(router)
    for name, value in context.items():
        broker.context.set_global(name, value)
    async with TestKafkaBroker(broker) as memory:

        async def publish(event: Event) -> None:
            await memory.publish(event, event.topic, key=event.key.encode(), headers=event.headers())

        yield publish


async def topics_in_outbox(connection: asyncpg.Connection) -> list[str]:
    """Return the topics of the waiting events, oldest first."""
    return [row["topic"] for row in await connection.fetch("select topic from outbox order by id")]


async def events_in_outbox(connection: asyncpg.Connection, event: type[Event]) -> list[Any]:
    """Return the waiting events of one class, oldest first."""
    rows = await connection.fetch("select value from outbox where topic = $1 order by id", event.topic)
    return [event.model_validate_json(row["value"]) for row in rows]
