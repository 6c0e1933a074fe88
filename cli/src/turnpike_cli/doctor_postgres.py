"""Looks at Postgres with each service's own credentials."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg

from turnpike_cli.findings import Finding, failed, fine, warning
from turnpike_cli.parts import SERVICE_NAMES

AREA = "Postgres"
OLDEST = 15
TIMEOUT_SECONDS = 5.0


async def examine(settings: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    with_url = {name: given["DATABASE_URL"] for name, given in settings.items() if given.get("DATABASE_URL")}
    groups = await asyncio.gather(*(_examine_service(name, url) for name, url in with_url.items()))
    return [finding for group in groups for finding in group]


async def _examine_service(service: str, url: str) -> list[Finding]:
    try:
        connection = await asyncpg.connect(url, timeout=TIMEOUT_SECONDS)
    except (OSError, TimeoutError):
        parts = urlsplit(url)
        return [failed(AREA, f"{service}: {parts.hostname}:{parts.port or 5432} does not answer", "start Postgres or correct DATABASE_URL")]
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        return [failed(AREA, f"{service}: the password is refused", "correct DATABASE_URL")]
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        return [failed(AREA, f"{service}: {type(error).__name__}", "correct DATABASE_URL: role, database and connection limit")]
    try:
        return await _examine_connection(service, connection)
    finally:
        await connection.close()


async def _examine_connection(service: str, connection: asyncpg.Connection) -> list[Finding]:
    findings = []
    version, text = connection.get_server_version(), connection.get_settings().server_version
    if version.major < OLDEST:
        findings.append(failed(AREA, f"PostgreSQL {version.major} is too old", f"use {OLDEST} or newer"))
    exists = await connection.fetchval("select to_regnamespace($1) is not null", service)
    owns = exists and await connection.fetchval("select has_schema_privilege($1, 'create, usage')", service)
    if not owns:
        what = "its rights on the schema are missing" if exists else "its schema does not exist"
        remedy = f"as superuser: create schema if not exists {service} authorization {service}"
        findings.append(failed(AREA, f"{service}: {what}", remedy))
    findings += await _foreign_schemas(service, connection)
    if await connection.fetchval("select rolsuper from pg_roles where rolname = current_user"):
        findings.append(warning(AREA, f"{service}: its role is a superuser", "give the service a role of its own"))
    return findings or [fine(AREA, f"{service}: PostgreSQL {text}, owns its schema and sees no other")]


async def _foreign_schemas(service: str, connection: asyncpg.Connection) -> list[Finding]:
    readable = await connection.fetch(
        "select nspname from pg_namespace where nspname = any($1::text[]) and has_schema_privilege(oid, 'usage')",
        [name for name in SERVICE_NAMES if name != service],
    )
    return [
        warning(AREA, f"{service}: its role can look into {row['nspname']}", f"revoke all on schema {row['nspname']} from the role")
        for row in readable
    ]
