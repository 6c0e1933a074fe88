"""Applied catalogues and the applies themselves: every query on catalogue_version and catalogue_apply."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.db import Connection

_LOCK = "hashtext('checkout.catalogue_apply')"
_COLUMNS = "version, document, stripe_ids, steps, applied_by, applied_at, created"


class ApplyRunningError(Exception):
    """Another apply is at work."""


@dataclass(frozen=True)
class Version:
    """A catalogue as it was applied. Subscriptions point at the version they were bought under."""

    version: int
    document: dict[str, Any]
    stripe_ids: dict[str, Any]
    steps: list[dict[str, Any]]
    applied_by: str
    applied_at: datetime
    created: dict[str, str] = field(default_factory=dict)  # ids at Stripe that came into being for it, and what they are

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.from_document(self.document)

    def price_ids(self, product_id: str, currency: str) -> dict[str, str]:
        """Return component -> Stripe price id in a currency, in the order of the invoice."""
        known: dict[str, dict[str, str]] = self.stripe_ids.get(product_id, {}).get("prices_by_currency", {})
        return known.get(currency, {})


def _version(row: Any) -> Version:
    return Version(
        row["version"],
        json.loads(row["document"]),
        json.loads(row["stripe_ids"]),
        json.loads(row["steps"]),
        row["applied_by"],
        row["applied_at"],
        json.loads(row["created"]),
    )


async def latest(connection: Connection | asyncpg.Pool) -> Version | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from catalogue_version order by version desc limit 1")  # noqa: S608 - constant columns
    return _version(row) if row else None


async def get(connection: Connection | asyncpg.Pool, version: int) -> Version | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from catalogue_version where version = $1", version)  # noqa: S608
    return _version(row) if row else None


async def latest_versions(connection: Connection | asyncpg.Pool, limit: int, *, before: int | None = None) -> list[Version]:
    """Return applied versions, newest first."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from catalogue_version where $2::integer is null or version < $2 order by version desc limit $1",  # noqa: S608
        limit,
        before,
    )
    return [_version(row) for row in rows]


async def known_ids(connection: Connection, stripe_ids: Sequence[str]) -> set[str]:
    """Return those of some ids at Stripe that an applied version has."""
    rows = await connection.fetch(
        "select id from unnest($1::text[]) id"
        " where exists(select from catalogue_version where position('\"' || id || '\"' in stripe_ids::text) > 0)",
        list(stripe_ids),
    )
    return {row["id"] for row in rows}


async def product_ids(connection: Connection | asyncpg.Pool) -> list[str]:
    """Return the ids of all products that were ever applied."""
    rows = await connection.fetch(
        "select distinct product ->> 'id' as id from catalogue_version, json_array_elements(document -> 'products') product order by 1"
    )
    return [row["id"] for row in rows]


async def add(connection: Connection, version: Version) -> None:
    """Add the next version; a version number that exists already raises `UniqueViolationError`."""
    await connection.execute(
        f"insert into catalogue_version({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7)",  # noqa: S608
        version.version,
        json.dumps(version.document),
        json.dumps(version.stripe_ids),
        json.dumps(version.steps),
        version.applied_by,
        version.applied_at,
        json.dumps(version.created),
    )


@dataclass(frozen=True)
class Apply:
    """An apply as it was written down while it ran. `interrupted`: its process was killed, nobody goes on with it."""

    apply_id: str
    plan: str | None
    state: Literal["running", "done", "failed", "interrupted"]
    requested_by: str
    started_at: datetime
    done: list[str]
    remaining: list[str]
    error: str | None
    settled: bool

    @property
    def is_unfinished(self) -> bool:
        """It ended half-way and no later apply took up what it left."""
        return self.state in {"failed", "interrupted"} and not self.settled


@asynccontextmanager
async def apply_lock(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """Let one apply run at a time, in all replicas; it ends with the connection, so a killed process leaves no lock behind."""
    async with pool.acquire() as connection:
        if not await connection.fetchval(f"select pg_try_advisory_lock({_LOCK})"):
            raise ApplyRunningError(_running_words(await last_apply(pool)))
        try:
            yield connection
        finally:
            await connection.fetchval(f"select pg_advisory_unlock({_LOCK})")


def _running_words(running: Apply | None) -> str:
    text = "another apply of a catalogue is at work"
    if running is not None and running.state == "running":
        whole = len(running.done) + len(running.remaining)
        text += f", by {running.requested_by}: {len(running.done)} of {whole} steps are done"
    return f"{text}. Nothing was changed by this one; run it again when the other has ended"


async def is_apply_running(connection: Connection | asyncpg.Pool) -> bool:
    """Tell whether somebody holds the lock."""
    query = (
        "select exists(select from pg_locks where locktype = 'advisory' and objsubid = 1 and granted"  # noqa: S608 - a constant
        " and database = (select oid from pg_database where datname = current_database())"
        f" and (classid::bigint << 32) | objid::bigint = {_LOCK}::bigint)"
    )
    return bool(await connection.fetchval(query))


async def last_apply(connection: Connection | asyncpg.Pool) -> Apply | None:
    """Return the apply that was begun last."""
    row = await connection.fetchrow(
        "select apply_id, plan, state, requested_by, started_at, done, remaining, error, settled from catalogue_apply"
        " order by started_at desc, (state = 'running') desc limit 1"
    )
    if row is None:
        return None
    killed = row["state"] == "running" and not await is_apply_running(connection)
    lists = {name: json.loads(row[name]) for name in ("done", "remaining")}
    return Apply(**{**row, **lists, "apply_id": str(row["apply_id"]), "state": "interrupted" if killed else row["state"]})


async def start_apply(
    connection: Connection, apply_id: UUID, *, digest: str, plan: str, by: str, at: datetime, remaining: Sequence[str]
) -> None:
    """Write down what is about to be done before it is done. Under the lock, an apply that is still running was killed."""
    await connection.execute(
        "update catalogue_apply set state = 'failed', error = 'interrupted', ended_at = $1 where state = 'running'", at
    )
    await connection.execute(
        "insert into catalogue_apply(apply_id, digest, plan, requested_by, started_at, remaining) values ($1, $2, $3, $4, $5, $6)",
        apply_id,
        digest,
        plan,
        by,
        at,
        json.dumps(list(remaining)),
    )


async def note_progress(connection: Connection, apply_id: UUID, *, done: Sequence[str], remaining: Sequence[str]) -> None:
    await connection.execute(
        "update catalogue_apply set done = $2, remaining = $3 where apply_id = $1",
        apply_id,
        json.dumps(list(done)),
        json.dumps(list(remaining)),
    )


async def end_apply(connection: Connection, apply_id: UUID, *, state: str, at: datetime, error: str | None = None) -> None:
    await connection.execute(
        "update catalogue_apply set state = $2, ended_at = $3, error = $4 where apply_id = $1", apply_id, state, at, error
    )


async def settle_applies(connection: Connection) -> None:
    """Everything is brought to an end: nothing that an apply left behind is open any more."""
    await connection.execute(
        "update catalogue_apply set settled = true, error = case state when 'running' then 'interrupted' else error end,"
        " state = case state when 'running' then 'failed' else state end where not settled"
    )
