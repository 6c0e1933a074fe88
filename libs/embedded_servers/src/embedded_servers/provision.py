"""The database of the product: a schema and a role per service, and no way from one into another."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

CONNECTIONS_PER_ROLE = 25


async def provision_database(dsn: str, services: Mapping[str, str], *, database: str = "turnpike") -> dict[str, str]:
    """Make the database and each service's role (name -> password) and schema; return each service's own URL.

    `dsn` is a superuser's. It may run any number of times; the passwords given are the ones that hold afterwards.
    """
    _check_names([database, *services])
    await _create_database(dsn, database)
    connection = await asyncpg.connect(with_database(dsn, database))
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext('turnpike-provision'))")
            await connection.execute(f"revoke all on database {database} from public")
            await connection.execute("revoke all on schema public from public")
            for service, password in services.items():
                await _create_role_and_schema(connection, database, service, password)
    finally:
        await connection.close()
    return {service: service_dsn(dsn, database, service, password) for service, password in services.items()}


def _check_names(names: list[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
            raise ValueError(f"{name!r} cannot name a schema, role or database")


async def _create_database(dsn: str, database: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        if not await connection.fetchval("select true from pg_database where datname = $1", database):
            await connection.execute(f"create database {database}")
    except asyncpg.DuplicateDatabaseError:
        pass  # another one made it between the question and the answer
    finally:
        await connection.close()


async def _create_role_and_schema(connection: asyncpg.Connection, database: str, service: str, password: str) -> None:
    known = await connection.fetchval("select true from pg_roles where rolname = $1", service)
    literal = await connection.fetchval("select quote_literal($1)", password)
    verb = "alter" if known else "create"
    await connection.execute(f"{verb} role {service} login connection limit {CONNECTIONS_PER_ROLE} password {literal}")
    await connection.execute(f"grant connect on database {database} to {service}")
    await connection.execute(f"create schema if not exists {service} authorization {service}")
    await connection.execute(f"alter role {service} in database {database} set search_path = {service}")


def with_database(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


def service_dsn(dsn: str, database: str, role: str, password: str) -> str:
    parts = urlsplit(dsn)
    address = f"{parts.hostname}:{parts.port or 5432}"
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{address}", path=f"/{database}"))
