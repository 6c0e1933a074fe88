"""Each service's schema is its own: no other role reads it or writes it."""

import asyncpg
import pytest
from whole_system import World

from turnpike_cli.parts import SERVICE_NAMES

pytestmark = pytest.mark.timeout(120)
TABLES = "select schemaname as schema, tablename as name from pg_tables where schemaname = any($1::text[]) order by 1, 2"
ROLES = "select rolname, rolsuper or rolcreaterole or rolcreatedb or rolbypassrls as powerful from pg_roles where rolname = any($1)"


@pytest.mark.parametrize("role", SERVICE_NAMES)
async def test_no_role_reads_or_writes_the_tables_of_another_service(world: World, role: str) -> None:
    connection = await asyncpg.connect(world.stack.wiring.database_url(role), timeout=10)
    try:
        tables = await connection.fetch(TABLES, list(SERVICE_NAMES))
        assert {table["schema"] for table in tables} == set(SERVICE_NAMES), "every service has tables"
        for table in tables:
            name = f'"{table["schema"]}"."{table["name"]}"'
            if table["schema"] == role:
                await connection.fetch(f"select * from {name} limit 1")
                continue
            for query in (f"select * from {name} limit 1", f"delete from {name}", f"truncate {name}"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(query)
        for other in set(SERVICE_NAMES) - {role}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f'create table "{other}".intruder (id int)')
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f'set role "{other}"')
    finally:
        await connection.close(timeout=5)


async def test_no_role_may_do_what_only_an_administrator_may(world: World) -> None:
    connection = await asyncpg.connect(world.stack.wiring.superuser_dsn, timeout=10)
    try:
        rows = await connection.fetch(ROLES, list(SERVICE_NAMES))
    finally:
        await connection.close(timeout=5)
    assert {row["rolname"]: row["powerful"] for row in rows} == dict.fromkeys(SERVICE_NAMES, False)
