"""Changes of plan, the plans a subscription was on, and usage that is settled: every query on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import asyncpg

from billing_common.db import Connection
from billing_common.events import SubscriptionState, UsageSettled
from checkout.change_domain import Change, State

OPEN = "('asked', 'closing', 'scheduled', 'made')"
_CHANGE = ", ".join(field.name for field in fields(Change))


@dataclass(frozen=True)
class Standing:
    """What a change needs to know of a subscription beside what every sale does."""

    status: str | None
    ends: bool
    cancellation: str | None
    plan_since: datetime | None


@dataclass(frozen=True)
class Stay:
    """A stretch of time on one plan. `until` is when the next one began; None while it lasts."""

    since: datetime
    until: datetime | None
    product_id: str
    catalogue_version: int


async def standing(connection: Connection, subscription_id: str) -> Standing:
    row = await connection.fetchrow(
        "select status, ends, cancellation, plan_since from subscription where subscription_id = $1", subscription_id
    )
    assert row is not None  # the caller holds the subscription
    return Standing(**row)


async def note_cancellation(connection: Connection, subscription_id: str, when: str) -> None:
    await connection.execute("update subscription set cancellation = $2 where subscription_id = $1", subscription_id, when)


# --- changes ----------------------------------------------------------------------------------------------------------------


async def add(connection: Connection, change: Change, *, at: datetime) -> bool:
    """Add a change; False when the subscription has an open one or this one is known."""
    tag = await connection.execute(
        f"insert into plan_change({_CHANGE}, requested_at) values ({', '.join(f'${n}' for n in range(1, len(fields(Change)) + 2))})"  # noqa: S608 - field names
        " on conflict do nothing",
        *(getattr(change, field.name) for field in fields(Change)),
        at,
    )
    return bool(tag.endswith(" 1"))


async def get(connection: Connection, change_id: str) -> Change | None:
    row = await connection.fetchrow(f"select {_CHANGE} from plan_change where change_id = $1 for update", change_id)  # noqa: S608 - field names
    return Change(**row) if row else None


async def open_of(connection: Connection, subscription_id: str) -> Change | None:
    """Return the change that is under way or planned."""
    row = await connection.fetchrow(
        f"select {_CHANGE} from plan_change where subscription_id = $1 and state in {OPEN} for update",  # noqa: S608 - constants
        subscription_id,
    )
    return Change(**row) if row else None


async def leads_to(connection: Connection, account_id: str, product_id: str) -> bool:
    """Whether a subscription of the account is about to be one of this product."""
    return bool(
        await connection.fetchval(
            "select exists(select from plan_change where account_id = $1 and product_id = $2 and from_product_id <> $2 "  # noqa: S608 - constants
            f"and state in {OPEN})",
            account_id,
            product_id,
        )
    )


async def move(connection: Connection, change: Change, state: State, *, at: datetime, reason: str | None = None) -> None:
    """Write where a change stands now; an ended one is no longer in the way of the next."""
    ended = state in {"done", "failed", "withdrawn"}
    await connection.execute(
        "update plan_change set state = $2, revision = $3, effective_at = $4, settled_start = $5, settled_end = $6, then_cancel = $7,"
        " reason = $8, ended_at = $9 where change_id = $1",
        change.change_id,
        state,
        change.revision,
        change.effective_at,
        change.settled_start,
        change.settled_end,
        change.then_cancel,
        reason,
        at if ended else None,
    )


async def note_replaced(connection: Connection, change_id: str, *, by: str) -> None:
    await connection.execute("update plan_change set replaced_by = $2 where change_id = $1", change_id, by)


async def replaced_by(connection: Connection, change_id: str) -> Change | None:
    """Return the planned migration whose place a customer's change has taken."""
    row = await connection.fetchrow(
        f"select {_CHANGE} from plan_change where replaced_by = $1 and state = 'withdrawn' for update",  # noqa: S608 - field names
        change_id,
    )
    return Change(**row) if row else None


async def start_from(connection: Connection, migration: Change) -> None:
    """Have the change that took the place of a migration go on from what that one made after all."""
    await connection.execute(
        "update plan_change set from_catalogue_version = $2 where change_id = (select replaced_by from plan_change where change_id = $1)",
        migration.change_id,
        migration.catalogue_version,
    )


async def under_way(pool: asyncpg.Pool) -> int:
    """Return how many changes wait for usage that is being closed; what waits for the end of a period is no unrest."""
    return int(await pool.fetchval("select count(*) from plan_change where state in ('closing', 'made')"))


async def recent(pool: asyncpg.Pool, *, asked_by: str, limit: int) -> list[dict[str, Any]]:
    """Return the newest changes, those that failed or are under way first."""
    rows = await pool.fetch(
        "select change_id, subscription_id, account_id, timing, product_id, from_catalogue_version, catalogue_version, state, reason,"
        " effective_at, requested_at, ended_at from plan_change where asked_by = $1"
        " order by state = 'done', requested_at desc, subscription_id limit $2",
        asked_by,
        limit,
    )
    return [dict(row) for row in rows]


@dataclass(frozen=True)
class Subscriber:
    """A running paid subscription, as a migration looks at it."""

    subscription_id: str
    account_id: str
    product_id: str
    catalogue_version: int
    currency: str
    started_at: datetime
    status: str | None
    plan_since: datetime | None
    ends: bool
    cancellation: str | None
    has_open_change: bool


async def subscribers(connection: Connection, subscription_id: str | None = None) -> list[Subscriber]:
    """Return the running paid subscriptions, or the one that is named, by account."""
    rows = await connection.fetch(
        "select subscription_id, account_id, product_id, catalogue_version, currency, started_at, status, plan_since, ends, cancellation,"  # noqa: S608 - constants
        f" exists(select from plan_change c where c.subscription_id = s.subscription_id and c.state in {OPEN}) as has_open_change"
        " from subscription s where state = 'live' and not free and started_at is not null and stripe_subscription_id is not null"
        " and ($1::text is null or subscription_id = $1) order by account_id, subscription_id",
        subscription_id,
    )
    return [Subscriber(**row) for row in rows]


# --- plans and settled usage --------------------------------------------------------------------------------------------------


async def note_state(connection: Connection, event: SubscriptionState) -> None:
    """Keep what a state says of plan and end; call it in the transaction that takes the state over."""
    await connection.execute(
        "insert into plan_stay values ($1, $2, $3, $4, $5) on conflict (subscription_id, since) do update set"
        " product_id = excluded.product_id, catalogue_version = excluded.catalogue_version, revision = excluded.revision"
        " where plan_stay.revision < excluded.revision",
        event.subscription_id,
        event.plan_since or event.started_at,
        event.product_id,
        event.catalogue_version,
        event.revision,
    )
    await connection.execute(
        "update subscription set plan_since = $2, ends = $3 where subscription_id = $1 and revision = $4",
        event.subscription_id,
        event.plan_since,
        event.cancel_at_period_end or event.cancel_at is not None,
        event.revision,
    )


async def stay_at(connection: Connection, subscription_id: str, at: datetime) -> Stay | None:
    """Return the plan whose usage an instant belongs to: the first one also before it began, for segments cut to the second."""
    rows = await connection.fetch(
        "select since, lead(since) over (order by since) as until, product_id, catalogue_version from plan_stay"
        " where subscription_id = $1 order by since",
        subscription_id,
    )
    stays = [Stay(**row) for row in rows]
    return next((stay for stay in reversed(stays) if stay.since <= at), stays[0] if stays else None)


async def add_settled(connection: Connection, event: UsageSettled) -> None:
    await connection.execute(
        "insert into settled_segment values ($1, $2, $3, $4) on conflict (subscription_id, segment_start) do update set"
        " segment_end = excluded.segment_end, totals = excluded.totals",
        event.subscription_id,
        event.segment_start,
        event.segment_end,
        json.dumps(event.totals),
    )


async def settled_totals(connection: Connection, subscription_id: str, *, since: datetime, until: datetime) -> dict[str, int]:
    """Return meter -> total of the segments that begin in a stretch of time; a segment begins up to a second after its plan."""
    rows: Sequence[Any] = await connection.fetch(
        "select meter, sum(quantity::bigint)::bigint as total from settled_segment, jsonb_each_text(totals) as t(meter, quantity)"
        " where subscription_id = $1 and segment_start >= $2 and segment_start < $3 group by meter",
        subscription_id,
        since,
        until,
    )
    return {row["meter"]: row["total"] for row in rows}
