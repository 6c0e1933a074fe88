"""Every table and query of the webhook ingress."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from billing_common.db import Connection
from webhook_ingress.domain import Kind, Received
from webhook_ingress.objects import Owner

LEASE_SECONDS = 10
BATCH = 200
Source = Literal["webhook", "recovery"]


@dataclass(frozen=True)
class Work:
    """A Stripe object with events that wait."""

    kind: Kind
    id: str
    tries: int


@dataclass(frozen=True)
class Waiting:
    """An event that waits to be published."""

    id: str
    type: str
    created: datetime
    received_at: datetime


@dataclass(frozen=True)
class Published:
    """What was last published of an object."""

    revision: int
    digest: str


async def receive(pool: asyncpg.Pool | Connection, event: Received, *, source: Source) -> bool:
    """Store one event and mark its object as wanted, durably, in one statement. False when the event was there before."""
    new = await pool.fetchval(
        "with new as (insert into webhook_event(id, type, kind, object_id, stripe_created, source, payload, done_at, outcome) "
        "values ($1, $2, $3::text, $4, $5, $6, $7, case when $3::text is null then now() end, case when $3::text is null then 'kept' end) "
        "on conflict (id) do nothing returning kind, object_id), "
        "wanted as (insert into stripe_object(kind, id, wanted_at) select kind, object_id, now() from new where kind is not null "
        "on conflict (kind, id) do update set wanted_at = coalesce(stripe_object.wanted_at, excluded.wanted_at)) "
        "select count(*) from new",
        event.id,
        event.type,
        event.kind,
        event.object_id,
        event.created,
        source,
        event.payload,
    )
    return bool(new)


async def claim_objects(pool: asyncpg.Pool | Connection, lease: UUID, *, limit: int) -> list[Work]:
    """Lease objects whose events wait and that nobody works on."""
    rows = await pool.fetch(
        "update stripe_object o set lease = $1, leased_until = now() + make_interval(secs => $3) from ("
        "select kind, id from stripe_object where wanted_at is not null and retry_at <= now() "
        "and (leased_until is null or leased_until < now()) order by wanted_at limit $2 for update skip locked"
        ") w where o.kind = w.kind and o.id = w.id returning o.kind, o.id, o.tries",
        lease,
        limit,
        LEASE_SECONDS,
    )
    return [Work(row["kind"], row["id"], row["tries"]) for row in rows]


async def renew_leases(pool: asyncpg.Pool | Connection, lease: UUID, works: Sequence[Work]) -> None:
    await pool.execute(
        "update stripe_object o set leased_until = now() + make_interval(secs => $2) "
        "from unnest($3::text[], $4::text[]) w(kind, id) where o.lease = $1 and o.kind = w.kind and o.id = w.id",
        lease,
        LEASE_SECONDS,
        [work.kind for work in works],
        [work.id for work in works],
    )


async def release_leases(pool: asyncpg.Pool | Connection, lease: UUID) -> None:
    await pool.execute("update stripe_object set lease = null, leased_until = null where lease = $1", lease)


async def waiting_events(pool: asyncpg.Pool | Connection, work: Work) -> list[Waiting]:
    """Return the object's waiting events in Stripe's order, as far as it tells one."""
    rows = await pool.fetch(
        "select id, type, stripe_created, received_at from webhook_event "
        "where kind = $1 and object_id = $2 and done_at is null order by stripe_created, received_at, id limit $3",
        work.kind,
        work.id,
        BATCH,
    )
    return [Waiting(row["id"], row["type"], row["stripe_created"], row["received_at"]) for row in rows]


async def lock_object(connection: Connection, work: Work, lease: UUID) -> Published | None:
    """Lock the object's row; None when the lease was lost: then somebody else works on it and nothing may be written."""
    row = await connection.fetchrow(
        "select revision, digest from stripe_object where kind = $1 and id = $2 and lease = $3 for update", work.kind, work.id, lease
    )
    return None if row is None else Published(row["revision"], row["digest"])


async def finish(  # one statement: each one more costs a round trip between payment and key
    connection: Connection, work: Work, state: Published, event_ids: Sequence[str], *, outcome: str, owner: Owner | None
) -> None:
    """Write what was published and what became of the events, and give the object back; it stays wanted when more events came meanwhile.

    `owner` is remembered for invoices that do not name theirs.
    """
    await connection.execute(
        "with done as (update webhook_event set done_at = now(), outcome = $6 where id = any($5::text[]) and done_at is null), "
        "remembered as (insert into stripe_subscription(id, subscription_id, account_id) select $2, $7, $8 where $7::text is not null "
        "on conflict (id) do update set subscription_id = excluded.subscription_id, account_id = excluded.account_id) "
        "update stripe_object set revision = $3, digest = $4, lease = null, leased_until = null, "
        "tries = 0, last_error = '', retry_at = now(), "
        "wanted_at = (select min(received_at) from webhook_event "
        "where kind = $1 and object_id = $2 and done_at is null and id <> all($5::text[])) "
        "where kind = $1 and id = $2",
        work.kind,
        work.id,
        state.revision,
        state.digest,
        list(event_ids),
        outcome,
        owner.subscription_id if owner else None,
        owner.account_id if owner else None,
    )


async def postpone(pool: asyncpg.Pool | Connection, work: Work, lease: UUID, *, pause_seconds: float, error: str) -> None:
    """Give the object back, to be tried again after the pause."""
    await pool.execute(
        "update stripe_object set lease = null, leased_until = null, tries = tries + 1, last_error = $5, "
        "retry_at = now() + make_interval(secs => $4) where kind = $1 and id = $2 and lease = $3",
        work.kind,
        work.id,
        lease,
        pause_seconds,
        error[:300],
    )


async def get_owner(pool: asyncpg.Pool | Connection, stripe_subscription_id: str) -> Owner | None:
    row = await pool.fetchrow("select subscription_id, account_id from stripe_subscription where id = $1", stripe_subscription_id)
    return None if row is None else Owner(row["subscription_id"], row["account_id"])


async def newest_event(pool: asyncpg.Pool | Connection) -> datetime | None:
    """Return when Stripe made the newest event that is stored."""
    found: datetime | None = await pool.fetchval("select max(stripe_created) from webhook_event where kind is not null")
    return found


@dataclass(frozen=True)
class Backlog:
    """What waits: how many events, how old the oldest is, and the last error of an object that is tried again."""

    events: int
    oldest_seconds: float
    failing: int
    last_error: str


async def backlog(pool: asyncpg.Pool | Connection) -> Backlog:
    row = await pool.fetchrow(
        "select (select count(*) from webhook_event where done_at is null) as events, "
        "coalesce(extract(epoch from now() - min(wanted_at)), 0)::float8 as oldest, count(*) filter (where tries > 0) as failing, "
        "coalesce(max(last_error), '') as last_error from stripe_object where wanted_at is not null"
    )
    assert row is not None  # an aggregate without groups
    return Backlog(row["events"], row["oldest"], row["failing"], row["last_error"])


async def forget_events(pool: asyncpg.Pool | Connection, *, keep: timedelta) -> int:
    """Delete raw events that were done longer ago; returns how many."""
    tag = await pool.execute("delete from webhook_event where done_at < now() - $1::interval", keep)
    return int(tag.split()[-1])
