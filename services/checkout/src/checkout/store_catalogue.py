"""Applied catalogues and the applies themselves: every query on catalogue_version and catalogue_apply."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.db import Connection

_COLUMNS = "version, document, stripe_ids, steps, applied_by, applied_at"


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
    )


async def latest(connection: Connection | asyncpg.Pool) -> Version | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from catalogue_version order by version desc limit 1")  # noqa: S608 - constant columns
    return _version(row) if row else None


async def get(connection: Connection | asyncpg.Pool, version: int) -> Version | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from catalogue_version where version = $1", version)  # noqa: S608
    return _version(row) if row else None


async def history(connection: Connection | asyncpg.Pool, limit: int) -> list[dict[str, Any]]:
    """Return who applied what and when, newest first, without the documents."""
    rows = await connection.fetch(
        "select version, steps, applied_by, applied_at from catalogue_version order by version desc limit $1", limit
    )
    return [{**row, "steps": json.loads(row["steps"]), "applied_at": row["applied_at"].isoformat()} for row in rows]


async def add(connection: Connection, version: Version) -> None:
    """Add the next version; a version number that exists already raises `UniqueViolationError`."""
    await connection.execute(
        f"insert into catalogue_version({_COLUMNS}) values ($1, $2, $3, $4, $5, $6)",  # noqa: S608
        version.version,
        json.dumps(version.document),
        json.dumps(version.stripe_ids),
        json.dumps(version.steps),
        version.applied_by,
        version.applied_at,
    )


@asynccontextmanager
async def apply_lock(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Let one apply run at a time, in all replicas; it ends with the connection, so a killed process leaves no lock behind."""
    async with pool.acquire() as connection:
        if not await connection.fetchval("select pg_try_advisory_lock(hashtext('checkout.catalogue_apply'))"):
            raise ApplyRunningError("another apply of a catalogue is at work: wait until it has ended, then apply again")
        try:
            yield
        finally:
            await connection.fetchval("select pg_advisory_unlock(hashtext('checkout.catalogue_apply'))")


async def start_apply(pool: asyncpg.Pool, apply_id: UUID, *, digest: str, by: str, at: datetime, remaining: Sequence[str]) -> None:
    """Write down what is about to be done before it is done. Under the lock, an apply that is still running was killed."""
    await pool.execute("update catalogue_apply set state = 'failed', error = 'interrupted', ended_at = $1 where state = 'running'", at)
    await pool.execute(
        "insert into catalogue_apply(apply_id, digest, requested_by, started_at, remaining) values ($1, $2, $3, $4, $5)",
        apply_id,
        digest,
        by,
        at,
        json.dumps(list(remaining)),
    )


async def note_progress(pool: asyncpg.Pool, apply_id: UUID, *, done: Sequence[str], remaining: Sequence[str]) -> None:
    await pool.execute(
        "update catalogue_apply set done = $2, remaining = $3 where apply_id = $1",
        apply_id,
        json.dumps(list(done)),
        json.dumps(list(remaining)),
    )


async def end_apply(pool: asyncpg.Pool, apply_id: UUID, *, state: str, at: datetime, error: str | None = None) -> None:
    await pool.execute("update catalogue_apply set state = $2, ended_at = $3, error = $4 where apply_id = $1", apply_id, state, at, error)
