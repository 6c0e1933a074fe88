"""Every table and query of the subscription enforcer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from billing_common.db import Connection
from billing_common.key_sids import subscription_of
from subscription_enforcer.domain import STATE_AT_APIM, Applied, Desired, Facts

CHANNEL = "subscription_enforcer.access"
FACTS = ", ".join(field.name for field in fields(Facts))
Source = asyncpg.Pool | Connection


@dataclass(frozen=True)
class Pending:
    """A subscription whose access is not yet, or not surely, what it should be."""

    facts: Facts
    desired: Desired
    applied: Applied | None
    attempted: bool
    approved_by: str | None
    tries: int
    keys: Mapping[str, str]  # sid -> what it should be at API Management
    applied_keys: Mapping[str, str]


async def lock_facts(connection: Connection, subscription_id: str, account_id: str) -> Facts:
    """Lock the subscription's row, made if it is the first time one hears of it, and return what is known."""
    await connection.execute(
        "insert into access(subscription_id, account_id) values ($1, $2) on conflict do nothing", subscription_id, account_id
    )
    row = await connection.fetchrow(f"select {FACTS} from access where subscription_id = $1 for update", subscription_id)  # noqa: S608 - field names
    assert row is not None
    return Facts(**dict(row))


async def save(connection: Connection, facts: Facts, desired: Desired | None) -> None:
    """Write what is known and what should be; a new decision starts its tries, its approval and its wait anew. Wakes the writer."""
    columns = asdict(facts)
    names = [name for name in columns if name != "subscription_id"]
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, 5))
    await connection.execute(
        f"update access set {assignments}, desired = $2::text, desired_reason = $3::text, reconsider_at = $4, "  # noqa: S608 - field names
        "desired_at = case when (desired, desired_reason) is distinct from ($2::text, $3::text) then now() else desired_at end, "
        "held = held and (desired, desired_reason) is not distinct from ($2::text, $3::text), "
        "approved_by = case when (desired, desired_reason) is distinct from ($2::text, $3::text) then null else approved_by end, "
        "tries = 0, retry_at = now() where subscription_id = $1",
        facts.subscription_id,
        desired.access if desired else None,
        desired.reason if desired else "",
        desired.reconsider_at if desired else None,
        *(columns[name] for name in names),
    )
    await connection.execute("select pg_notify($1, '')", CHANNEL)


def _pending(row: Any) -> Pending:
    return Pending(
        facts=Facts(**{field.name: row[field.name] for field in fields(Facts)}),
        desired=Desired(row["desired"], row["desired_reason"], row["reconsider_at"]),
        applied=_applied(row),
        attempted=row["intent"] is not None,
        approved_by=row["approved_by"],
        tries=row["tries"],
        keys=json.loads(row["desired_keys"]),
        applied_keys=json.loads(row["applied_keys"]),
    )


def _applied(row: Any) -> Applied | None:
    return None if row["applied"] is None else Applied(row["applied"], row["applied_reason"], row["applied_product_id"])


async def pending(pool: Source, *, limit: int) -> list[Pending]:
    """Return what is to be applied now: grants first, then what ends, then suspensions."""
    rows = await pool.fetch(
        "select * from access where pending and not held and retry_at <= now() "
        "order by array_position(array['granted', 'revoked', 'suspended'], desired), desired_at limit $1",
        limit,
    )
    return [_pending(row) for row in rows]


async def to_reconsider(pool: Source, now: datetime) -> list[str]:
    """Return subscriptions whose decision changes by itself by `now` (business time)."""
    rows = await pool.fetch("select subscription_id from access where reconsider_at <= $1 order by reconsider_at limit 100", now)
    return [row["subscription_id"] for row in rows]


async def next_reconsideration(pool: Source) -> datetime | None:
    found: datetime | None = await pool.fetchval("select min(reconsider_at) from access")
    return found


# --- applying ---------------------------------------------------------------------------------------------------------------


async def intend(pool: Source, subscription_id: str, intent: UUID) -> None:
    """Write that this change is going to be made, before it is."""
    await pool.execute("update access set intent = $2 where subscription_id = $1", subscription_id, intent)


async def postpone(pool: Source, subscription_id: str, intent: UUID, *, pause_seconds: float, error: str) -> None:
    """Leave the intent standing: it is tried again after the pause."""
    await pool.execute(
        "update access set tries = tries + 1, retry_at = now() + make_interval(secs => $3), last_error = $4 "
        "where subscription_id = $1 and intent = $2",
        subscription_id,
        intent,
        pause_seconds,
        error[:300],
    )


@dataclass(frozen=True)
class Outcome:
    """What was applied before, under the lock of its row."""

    applied: Applied | None
    revision: int
    waited_seconds: float


async def lock_outcome(connection: Connection, subscription_id: str, intent: UUID) -> Outcome | None:
    """Lock the row; None when the intent is another's: then its outcome is not ours to write."""
    row = await connection.fetchrow(
        "select applied, applied_reason, applied_product_id, applied_revision, "
        "extract(epoch from clock_timestamp() - desired_at)::float8 as waited from access "
        "where subscription_id = $1 and intent = $2 for update",
        subscription_id,
        intent,
    )
    return None if row is None else Outcome(_applied(row), row["applied_revision"], row["waited"] or 0.0)


async def confirm(
    connection: Connection, subscription_id: str, applied: Applied, *, revision: int, effective_at: datetime, because: str | None = None
) -> None:
    """Write the outcome, and the change if it is one; `because`: its reason where that is not the one of the access."""
    await connection.execute(
        "with before as (select applied_revision from access where subscription_id = $1), "
        "noted as (insert into access_change(subscription_id, revision, access, reason, product_id, effective_at) "
        "select $1, $5, $2, coalesce($7, $3), $4, $6 from before where applied_revision < $5) "
        "update access set applied = $2::text, applied_reason = $3::text, applied_product_id = $4::text, applied_revision = $5, "
        "effective_at = case when applied_revision < $5 then $6 else effective_at end, "
        "intent = null, tries = 0, last_error = '', held = false, changed_at = now() where subscription_id = $1",
        subscription_id,
        applied.access,
        applied.reason,
        applied.product_id,
        revision,
        effective_at,
        because,
    )


# --- the breaker ------------------------------------------------------------------------------------------------------------


async def payment_suspensions(pool: Source, since: datetime) -> list[datetime]:
    """Return when keys were stopped for missing payment since then (business time), oldest first."""
    rows = await pool.fetch(
        "select effective_at from access_change where access = 'suspended' and reason = 'payment_failed' and effective_at > $1 "
        "order by effective_at",
        since,
    )
    return [row["effective_at"] for row in rows]


async def live_count(pool: Source) -> int:
    found: int = await pool.fetchval("select count(*) from access where applied in ('granted', 'suspended')")
    return found


async def hold(pool: Source, subscription_id: str) -> None:
    await pool.execute("update access set held = true where subscription_id = $1", subscription_id)


async def let_go(pool: Source, limit: int) -> int:
    """Stop holding the longest held suspensions, as many as the hour allows again."""
    tag = await pool.execute(
        "update access set held = false where subscription_id in "
        "(select subscription_id from access where pending and held order by desired_at limit $1)",
        limit,
    )
    return int(tag.split()[-1])


async def approve(pool: Source, by: str, subscription_ids: Sequence[str] | None) -> list[str]:
    """Let held suspensions through: the named ones, or all. Returns which."""
    rows = await pool.fetch(
        "update access set held = false, approved_by = $1, retry_at = now() "
        "where pending and held and ($2::text[] is null or subscription_id = any($2::text[])) returning subscription_id",
        by,
        None if subscription_ids is None else list(subscription_ids),
    )
    await pool.execute("select pg_notify($1, '')", CHANNEL)
    return sorted(row["subscription_id"] for row in rows)


async def held(pool: Source, *, limit: int) -> list[dict[str, Any]]:
    rows = await pool.fetch(
        "select subscription_id, account_id, product_id, desired_at from access where pending and held order by desired_at limit $1", limit
    )
    return [dict(row) for row in rows]


# --- what people and the repair loop ask ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backlog:
    """What is not applied: to be done, held by the breaker, refused by API Management, and why."""

    pending: int
    held: int
    failing: int
    last_error: str


async def backlog(pool: Source) -> Backlog:
    row = await pool.fetchrow(
        "select count(*) filter (where not held) as pending, count(*) filter (where held) as held, "
        "count(*) filter (where tries > 0) as failing, coalesce(max(last_error), '') as last_error from access where pending"
    )
    assert row is not None  # an aggregate without groups
    return Backlog(**dict(row))


async def get(pool: Source, subscription_id: str) -> dict[str, Any] | None:
    """Return the subscription's row and its newest changes."""
    row = await pool.fetchrow("select * from access where subscription_id = $1", subscription_id)
    if row is None:
        return None
    changes = await pool.fetch(
        "select revision, access, reason, product_id, effective_at from access_change where subscription_id = $1 "
        "order by revision desc limit 50",
        subscription_id,
    )
    return {**dict(row), "changes": [dict(change) for change in changes]}


@dataclass(frozen=True)
class Known:
    """What API Management should have under a sid."""

    sid: str
    subscription_id: str
    state: str
    product_id: str


async def database_time(pool: Source) -> datetime:
    found: datetime = await pool.fetchval("select now()")
    return found


async def applied_before(pool: Source, moment: datetime, sids: Iterable[str]) -> dict[str, Known]:
    """Return those of the sids that are ours, at rest, and were applied before `moment` (wall time)."""
    asked = set(sids)
    rows = await pool.fetch(
        "select subscription_id, applied, applied_product_id, applied_keys from access "
        "where subscription_id = any($1::text[]) and applied is not null and not pending and changed_at < $2",
        list(asked | {subscription_of(sid) for sid in asked}),
        moment,
    )
    found = {}
    for row in rows:
        states = {row["subscription_id"]: STATE_AT_APIM[row["applied"]], **json.loads(row["applied_keys"])}
        for sid in asked & states.keys():
            found[sid] = Known(sid, row["subscription_id"], states[sid], row["applied_product_id"])
    return found


async def granted_but_not_in(pool: Source, moment: datetime, seen: Iterable[str]) -> list[str]:
    """Return subscriptions of which API Management did not list a key that should work."""
    rows = await pool.fetch(
        "select subscription_id from access where applied = 'granted' and not pending and changed_at < $2 "
        "and (not subscription_id = any($1::text[]) or exists "
        "(select from jsonb_each_text(applied_keys) where value = 'active' and not key = any($1::text[])))",
        list(seen),
        moment,
    )
    return [row["subscription_id"] for row in rows]


async def mark_drifted(pool: Source, subscription_id: str, intent: UUID) -> None:
    """Make the writer apply it again: what API Management has is not what was applied."""
    await pool.execute(
        "update access set intent = $2, retry_at = now(), desired_at = now() where subscription_id = $1 and not pending",
        subscription_id,
        intent,
    )
    await pool.execute("select pg_notify($1, '')", CHANNEL)
