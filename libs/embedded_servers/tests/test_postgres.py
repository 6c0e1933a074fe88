"""Real servers are started, killed and asked; the roles are tried out against each other."""

import stat
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from embedded_servers import Postgres, ServerError, postgres, provision_database, with_database
from embedded_servers.testing import _temporary_folder


@pytest.fixture
def database() -> str:
    return f"test_{uuid4().hex}"


async def provision(dsn: str, database: str, **services: str) -> dict[str, str]:
    names = {f"{name}_{database[-8:]}": password for name, password in services.items()}
    urls = await provision_database(dsn, names, database=database)
    return dict(zip(services, urls.values(), strict=True))


async def test_a_service_can_use_its_own_schema_and_no_other(postgres_dsn: str, database: str) -> None:
    urls = await provision(postgres_dsn, database, rating="one", ledger="two")
    rating, ledger = [await asyncpg.connect(url) for url in urls.values()]
    try:
        await rating.execute("create table prices (id int)")
        schema = await rating.fetchval("select current_schema()")
        assert schema.startswith("rating")
        for forbidden in (f"select * from {schema}.prices", f"create table {schema}.mine (id int)", "create table public.mine (id int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await ledger.execute(forbidden)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ledger.execute("create schema another")
    finally:
        await rating.close()
        await ledger.close()


async def test_provisioning_again_keeps_the_data_and_sets_the_new_password(postgres_dsn: str, database: str) -> None:
    urls = await provision(postgres_dsn, database, rating="first")
    connection = await asyncpg.connect(urls["rating"])
    await connection.execute("create table prices as select 15 as cents")
    await connection.close()
    again = await provision(postgres_dsn, database, rating="it's second")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(urls["rating"])
    connection = await asyncpg.connect(again["rating"])
    assert await connection.fetchval("select cents from prices") == 15
    assert await connection.fetchval("select rolconnlimit from pg_roles where rolname = current_user") == 25
    await connection.close()


async def test_a_name_that_is_no_identifier_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        await provision_database(postgres_dsn, {"rating; drop table x": "secret"})


async def test_committed_rows_survive_a_kill_and_the_port_may_change() -> None:
    with _temporary_folder("turnpike-test-") as folder, Postgres(folder) as server:
        connection = await asyncpg.connect(server.dsn())
        await connection.execute("create table kept as select 1 as n")
        server.kill()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await connection.fetchval("select n from kept")
        assert stat.S_IMODE((folder / "superuser-password").stat().st_mode) == 0o600
        assert not list(folder.rglob("initdb-password"))
        with Postgres(folder) as again:
            connection = await asyncpg.connect(again.dsn())
            assert await connection.fetchval("select n from kept") == 1
            assert await connection.fetchval("show fsync") == "on"
            await connection.close()


async def test_the_password_is_asked_for(postgres_dsn: str) -> None:
    wrong = postgres_dsn.replace("postgres:", "postgres:wrong", 1) if "@" not in postgres_dsn else postgres_dsn.replace("@", "x@", 1)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(with_database(wrong, "postgres"))


def test_a_taken_port_is_said_in_one_sentence(postgres_dsn: str) -> None:
    port = int(postgres_dsn.rsplit(":", 1)[1].split("/", maxsplit=1)[0])
    with _temporary_folder("turnpike-test-") as folder, pytest.raises(ServerError, match="is in use"):
        Postgres(folder, port=port).start()


def test_data_of_another_release_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9.6\n")
    monkeypatch.setattr(postgres.Postgres, "data", tmp_path / "data")
    with pytest.raises(ServerError, match=r"made by PostgreSQL 9\.6"):
        Postgres(tmp_path).launch()
