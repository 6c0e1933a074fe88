"""Postgres: the pool every service uses and the runner of its migrations."""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from faststream import Context

Pool: TypeAlias = Annotated[asyncpg.Pool, Context("pool")]
Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

COMMON_MIGRATIONS = Path(__file__).parent / "migrations"


class MigrationError(Exception):
    """The migrations on disk and in the database disagree."""


async def create_pool(dsn: str, *, schema: str, size: int = 6) -> asyncpg.Pool:
    """Return a pool whose connections see only `schema`. Statements end after 30 s."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        command_timeout=30,
        server_settings={"search_path": schema, "application_name": schema, "statement_timeout": "30000"},
    )


@asynccontextmanager
async def listening(pool: asyncpg.Pool, channel: str, hear: Callable[[], None]) -> AsyncIterator[Connection]:
    """Call `hear` at each NOTIFY on the channel. Look with `require_open` now and then: a connection that is lost hears nothing."""
    connection = await pool.acquire()
    try:
        await connection.add_listener(channel, lambda *_: hear())
        yield connection
    finally:
        with suppress(Exception):
            await connection.reset(timeout=2)
        await pool.release(connection)


def require_open(connection: Connection) -> None:
    """Raise ConnectionError when the server went away; the pool then has taken the connection back already."""
    try:
        closed = connection.is_closed()
    except asyncpg.InterfaceError:
        closed = True
    if closed:
        raise ConnectionError("the database ended the connection that listens")


async def migrate(dsn: str, schema: str, directory: Path) -> list[str]:
    """Apply what is missing: the common tables first, then the service's own files in order of name.

    Safe to run twice at once (advisory lock). Returns the names applied. Raises MigrationError when a file was edited after it was applied.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", schema):
        raise MigrationError(f"not a schema name: {schema!r}")
    connection = await asyncpg.connect(dsn, server_settings={"search_path": schema, "lock_timeout": "30s"})
    try:
        await connection.execute("select pg_advisory_lock(hashtext($1))", f"migrate:{schema}")
        if not await connection.fetchval("select to_regnamespace($1)", schema):
            await connection.execute(f"create schema {schema}")
        await connection.execute(
            "create table if not exists schema_migrations("
            "name text primary key, sha text not null, applied_at timestamptz not null default now())"
        )
        return await _apply(connection, [COMMON_MIGRATIONS, directory])
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, directories: Sequence[Path]) -> list[str]:
    applied = {row["name"]: row["sha"] for row in await connection.fetch("select name, sha from schema_migrations")}
    done = []
    for directory in directories:
        for file in sorted(directory.glob("[0-9]*.sql")):
            name = f"{'common' if directory == COMMON_MIGRATIONS else 'own'}/{file.name}"
            sql = file.read_text()
            sha = hashlib.sha256(sql.encode()).hexdigest()
            if applied.get(name) == sha:
                continue
            if name in applied:
                raise MigrationError(f"{file.name} was edited after it was applied: write a new migration instead")
            async with connection.transaction():
                await connection.execute(sql)
                await connection.execute("insert into schema_migrations(name, sha) values ($1, $2)", name, sha)
            done.append(name)
    return done
