"""Rows of the ledger on their way through Stripe's v2 meter event stream: taken many lanes at a time, held until a summary shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from stripe_reporter.domain import HOUR, MeterEvent
from stripe_reporter.ledger import FIELDS, Lane

ROWS_AT_ONCE = 10_000


async def backlog(connection: Connection, *, most: int) -> tuple[int, int]:
    """Return how many rows were never sent, and of how many lanes; counting ends at `most` rows."""
    row = await connection.fetchrow(
        "select count(*) as rows, count(distinct (stripe_customer_id, event_name)) as lanes "
        "from (select stripe_customer_id, event_name from ledger where state = 'intent' limit $1) fresh",
        most,
    )
    assert row is not None  # an aggregate always has one row
    return row["rows"], row["lanes"]


async def take(connection: Connection, lanes: Sequence[Lane], wall: datetime) -> list[MeterEvent]:
    """Mark what these lanes never sent as streamed, before the first byte leaves, and return it."""
    customers, names = [lane.stripe_customer_id for lane in lanes], [lane.event_name for lane in lanes]
    rows = await connection.fetch(
        "with fresh as (select l.identifier from ledger l join unnest($1::text[], $2::text[]) as mine(customer, name) "  # noqa: S608 - a constant
        "on l.stripe_customer_id = mine.customer and l.event_name = mine.name "
        "where l.state = 'intent' and l.first_sent_at is null limit $4) "
        "update ledger l set state = 'sent', first_sent_at = $3, streamed_at = $3, attempts = attempts + 1 from fresh "
        f"where l.identifier = fresh.identifier returning {FIELDS}",
        customers,
        names,
        wall,
        ROWS_AT_ONCE,
    )
    return [MeterEvent(**dict(row)) for row in rows]


async def due(connection: Connection, lane: Lane, streamed_before: datetime) -> list[MeterEvent]:
    """Return a lane's streamed rows, all of those hours whose youngest was streamed before an instant."""
    rows = await connection.fetch(
        f"select {FIELDS} from (select l.*, max(streamed_at) over (partition by date_trunc('hour', event_time)) as youngest from ledger l "  # noqa: S608 - a constant
        "where stripe_customer_id = $1 and event_name = $2 and state = 'sent' and streamed_at is not null) l where youngest <= $3 "
        "order by event_time, identifier",
        lane.stripe_customer_id,
        lane.event_name,
        streamed_before,
    )
    return [MeterEvent(**dict(row)) for row in rows]


async def next_due(connection: Connection, lane: Lane) -> datetime | None:
    """Return when the lane's first streamed row was streamed; None when it has none, or others to send as well."""
    first: datetime | None = await connection.fetchval(
        "select min(streamed_at) from ledger where stripe_customer_id = $1 and event_name = $2 and state in ('intent', 'sent', 'unknown') "
        "having bool_and(streamed_at is not null)",
        lane.stripe_customer_id,
        lane.event_name,
    )
    return first


async def to_single(connection: Connection, events: Sequence[MeterEvent]) -> None:
    """Let rows go by v1, one by one and under the same identifier: Stripe says of each at once that it has it, takes it or refuses it."""
    await connection.execute("update ledger set streamed_at = null where identifier = any($1::uuid[])", [one.identifier for one in events])


async def release(
    connection: Connection, lanes: Sequence[Lane], *, owner: str, parked: set[tuple[str, str]], until: datetime, wall: datetime
) -> None:
    """Give lanes back: those that are parked wait, unless they have rows that were never sent; all others are free at once.

    All have open rows, so none is closed.
    """
    names = [(lane.stripe_customer_id, lane.event_name) for lane in lanes]
    await connection.execute(
        "update lane l set lease_owner = null, lease_until = null, retry_at = case when mine.parked and not exists (select 1 from ledger r "
        "where r.stripe_customer_id = l.stripe_customer_id and r.event_name = l.event_name and r.state = 'intent') "
        "then $4::timestamptz else $5 end "
        "from unnest($1::text[], $2::text[], $3::boolean[]) as mine(customer, name, parked) "
        "where l.stripe_customer_id = mine.customer and l.event_name = mine.name and l.lease_owner = $6",
        [customer for customer, _ in names],
        [name for _, name in names],
        [pair in parked for pair in names],
        until,
        wall,
        owner,
    )


@dataclass(frozen=True)
class HourSums:
    """What Stripe has acknowledged of an hour of a customer and meter, over all subscriptions; when it last did; what is on the stream."""

    acknowledged: int
    answered_at: datetime | None
    streamed: int


async def hour_sums(connection: Connection, lane: Lane, hour: datetime) -> HourSums:
    row = await connection.fetchrow(
        "select coalesce(sum(credited), 0)::bigint as acknowledged, max(answered_at) as answered_at, "
        "count(*) filter (where state = 'sent' and streamed_at is not null) as streamed from ledger "
        "where stripe_customer_id = $1 and event_name = $2 and event_time >= $3 and event_time < $4 "
        "and (state = 'acknowledged' or (state = 'sent' and streamed_at is not null))",
        lane.stripe_customer_id,
        lane.event_name,
        hour,
        hour + HOUR,
    )
    assert row is not None  # an aggregate always has one row
    return HourSums(**dict(row))
