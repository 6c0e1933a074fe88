"""The ledger: every meter event is a row here before it is sent, and stays one with Stripe's answer. Leases keep replicas apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from billing_common.db import Connection
from billing_common.events import UsageRejected, UsageReported, derive_id
from stripe_reporter.domain import Answer, MeterEvent, Window, meter_event, remedy

WINDOWS_AT_ONCE = 500
ROWS_PER_LANE = 50
OPEN = "state in ('intent', 'sent', 'unknown')"
FIELDS = (
    "l.identifier, l.window_id, l.stripe_customer_id, l.event_name, l.stripe_meter_id, l.event_time, l.revision, l.quantity, "
    "l.failed_answers, l.first_sent_at"
)


@dataclass(frozen=True)
class Lane:
    """One customer and one meter: Stripe takes one call at a time for it."""

    stripe_customer_id: str
    event_name: str
    failures: int


async def plan(connection: Connection, *, now: datetime, wall: datetime) -> int:
    """Turn due windows into ledger rows, in the caller's transaction; returns how many windows were looked at.

    A window whose catalogue version or customer is not known yet stays due.
    """
    rows = await connection.fetch(
        "select w.window_id, w.total, w.recorded, w.revision, w.event_time, s.stripe_customer_id, m.event_name, m.stripe_meter_id "
        "from usage_window w join catalogue c on c.version = w.catalogue_version "
        "left join stripe_meter m on m.catalogue_version = w.catalogue_version and m.product_id = w.product_id and m.meter_id = w.meter_id "
        "left join subscription s on s.subscription_id = w.subscription_id "
        "where w.due_at <= $1 and (m.event_name is null or s.stripe_customer_id is not null) "
        "order by w.due_at limit $2 for update of w skip locked",
        now,
        WINDOWS_AT_ONCE,
    )
    windows = [Window(**dict(row)) for row in rows]
    await connection.executemany(
        "update usage_window set due_at = null, billable = $2, recorded = recorded + $3 where window_id = $1",
        [(window.window_id, window.event_name is not None, event.quantity if (event := meter_event(window)) else 0) for window in windows],
    )
    await add_intents(connection, [event for window in windows if (event := meter_event(window))], wall)
    return len(windows)


async def add_intents(connection: Connection, events: Sequence[MeterEvent], wall: datetime) -> None:
    await connection.executemany(
        "insert into ledger(identifier, window_id, stripe_customer_id, event_name, stripe_meter_id, event_time, revision, quantity, "
        "created_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (e.identifier, e.window_id, e.stripe_customer_id, e.event_name, e.stripe_meter_id, e.event_time, e.revision, e.quantity, wall)
            for e in events
        ],
    )
    await _open_lanes(connection, ((event.stripe_customer_id, event.event_name) for event in events), wall)


async def resend(connection: Connection, event: MeterEvent, wall: datetime) -> bool:
    """Take back what Stripe has acknowledged and does not have, and intend it anew. False when that was done, or a replica is sending."""
    names = (event.stripe_customer_id, event.event_name)
    busy = await connection.fetchval(
        "select lease_until > $3 from lane where stripe_customer_id = $1 and event_name = $2 for update", *names, wall
    )
    lost = derive_id("lost", str(event.identifier))
    if busy or await connection.fetchval("select true from ledger where identifier = $1", lost):
        return False
    await connection.execute(
        "insert into ledger(identifier, window_id, stripe_customer_id, event_name, stripe_meter_id, event_time, revision, quantity, "
        "created_at, state, credited, answered_at, note) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'acknowledged', $8, $9, "
        "'found missing at Stripe by reconciliation')",
        lost,
        event.window_id,
        *names,
        event.stripe_meter_id,
        event.event_time,
        event.revision,
        -event.quantity,
        wall,
    )
    await connection.execute(
        "update usage_window set acknowledged = acknowledged - $2 where window_id = $1", event.window_id, event.quantity
    )
    await add_intents(connection, [event], wall)
    return True


async def _open_lanes(connection: Connection, names: Iterable[tuple[str, str]], wall: datetime) -> None:
    await connection.executemany(
        "insert into lane(stripe_customer_id, event_name, open, retry_at) values ($1, $2, true, $3) "
        "on conflict (stripe_customer_id, event_name) do update set open = true",
        [(customer, name, wall) for customer, name in sorted(set(names))],  # in one order, so that two replicas cannot lock each other
    )


async def claim_lanes(connection: Connection, *, owner: str, wall: datetime, until: datetime, limit: int) -> list[Lane]:
    """Lease lanes with open rows that no living replica holds."""
    rows = await connection.fetch(
        "with free as (select stripe_customer_id, event_name from lane where open and retry_at <= $1 "
        "and (lease_until is null or lease_until <= $1) order by retry_at limit $4 for update skip locked) "
        "update lane l set lease_owner = $2, lease_until = $3 from free where l.stripe_customer_id = free.stripe_customer_id "
        "and l.event_name = free.event_name returning l.stripe_customer_id, l.event_name, l.failures",
        wall,
        owner,
        until,
        limit,
    )
    return [Lane(**dict(row)) for row in rows]


async def release_lane(connection: Connection, lane: Lane, *, owner: str, failures: int, retry_at: datetime) -> None:
    """Give the lease back. Locking first makes the second statement see rows that were planned meanwhile."""
    names = (lane.stripe_customer_id, lane.event_name)
    held = await connection.fetchval("select lease_owner from lane where stripe_customer_id = $1 and event_name = $2 for update", *names)
    if held != owner:
        return
    await connection.execute(
        f"update lane set lease_owner = null, lease_until = null, failures = $3, retry_at = $4, open = exists (select 1 from ledger "  # noqa: S608 - a constant
        f"where stripe_customer_id = $1 and event_name = $2 and {OPEN}) where stripe_customer_id = $1 and event_name = $2",
        *names,
        failures,
        retry_at,
    )


async def release_lanes(connection: Connection, *, owner: str) -> None:
    """Give back all leases of a replica; rows that were being sent go again with the same identifier."""
    await connection.execute("update lane set lease_owner = null, lease_until = null where lease_owner = $1", owner)


async def open_rows(connection: Connection, lane: Lane) -> list[MeterEvent]:
    """Return the rows that go by v1; those on the stream wait for a summary."""
    rows = await connection.fetch(
        f"select {FIELDS} from ledger l where stripe_customer_id = $1 and event_name = $2 and {OPEN} and streamed_at is null "  # noqa: S608 - constants
        "order by created_at, identifier limit $3",
        lane.stripe_customer_id,
        lane.event_name,
        ROWS_PER_LANE,
    )
    return [MeterEvent(**dict(row)) for row in rows]


async def mark_sent(connection: Connection, events: Sequence[MeterEvent], wall: datetime) -> None:
    """Write down, before the first byte leaves, that these rows may be at Stripe from now on."""
    await connection.execute(
        "update ledger set state = 'sent', first_sent_at = coalesce(first_sent_at, $2), attempts = attempts + 1 "
        "where identifier = any($1::uuid[]) and state in ('intent', 'sent', 'unknown')",
        [event.identifier for event in events],
        wall,
    )


async def mark_unknown(connection: Connection, event: MeterEvent, answer: Answer, *, failed_answer: bool) -> None:
    await connection.execute(
        "update ledger set state = 'unknown', code = $2, request_id = $3, failed_answers = failed_answers + $4 "
        "where identifier = $1 and state in ('intent', 'sent', 'unknown')",
        event.identifier,
        answer.code,
        answer.request_id,
        int(failed_answer),
    )


async def acknowledge(
    connection: Connection, answered: Sequence[tuple[MeterEvent, Answer]], *, wall: datetime, now: datetime
) -> list[UsageReported]:
    """Credit windows with what is at Stripe, in one statement. Returns the facts to announce; what somebody else wrote is left out."""
    rows = await connection.fetch(
        "with given as (select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[]) with ordinality "
        "as g(identifier, credited, code, request_id, note, place)), "
        "done as (update ledger l set state = 'acknowledged', credited = g.credited, answered_at = $6, code = g.code, "
        "request_id = g.request_id, note = g.note from given g where l.identifier = g.identifier "
        "and l.state in ('intent', 'sent', 'unknown') returning l.identifier, l.window_id, l.credited, g.place), "
        "sums as (select window_id, sum(credited)::bigint as credited, (array_agg(identifier order by place desc))[1] as identifier, "
        "max(place) as place from done group by window_id) "
        "update usage_window w set acknowledged = w.acknowledged + x.credited from sums x where w.window_id = x.window_id "
        "returning x.place, x.identifier, w.subscription_id, w.account_id, w.meter_id, w.segment_start, w.hour, w.acknowledged",
        [event.identifier for event, _ in answered],
        [event.quantity if answer.credited is None else answer.credited for event, answer in answered],
        [answer.code for _, answer in answered],
        [answer.request_id for _, answer in answered],
        [answer.note for _, answer in answered],
        wall,
    )
    return [
        UsageReported(
            cause_id=str(row["identifier"]),
            occurred_at=now,
            subscription_id=row["subscription_id"],
            account_id=row["account_id"],
            meter_id=row["meter_id"],
            segment_start=row["segment_start"],
            hour=row["hour"],
            quantity=row["acknowledged"],
        )
        for row in sorted(rows, key=lambda row: row["place"])
    ]


async def reject(connection: Connection, event: MeterEvent, answer: Answer, *, wall: datetime, now: datetime) -> UsageRejected | None:
    """Park what Stripe refused for good. Returns the fact to announce; None when somebody else wrote the outcome."""
    attempts = await _answer(connection, event.identifier, "rejected", answer, credited=0, wall=wall)
    if attempts is None:
        return None
    row = await connection.fetchrow(
        "update usage_window set rejected = rejected + $2 where window_id = $1 returning subscription_id, account_id, meter_id, hour",
        event.window_id,
        event.quantity,
    )
    assert row is not None  # the ledger references the window
    code = answer.code or "invalid_request"
    return UsageRejected(
        cause_id=f"{event.identifier}:{attempts}",  # refused again after a retry: another fact
        occurred_at=now,
        **dict(row),
        quantity=event.quantity,
        code=code,
        remedy=remedy(code),
    )


async def _answer(connection: Connection, identifier: UUID, state: str, answer: Answer, *, credited: int, wall: datetime) -> int | None:
    attempts: int | None = await connection.fetchval(
        "update ledger set state = $2, credited = $3, answered_at = $4, code = $5, request_id = $6, note = $7 "
        "where identifier = $1 and state in ('intent', 'sent', 'unknown') returning attempts",
        identifier,
        state,
        credited,
        wall,
        answer.code,
        answer.request_id,
        answer.note,
    )
    return attempts


async def reopen_rejected(connection: Connection, subscription_id: str | None, wall: datetime) -> int:
    """Make refused rows intents again: their identifier was never stored at Stripe. Returns how many."""
    rows = await connection.fetch(
        "update ledger l set state = 'intent', first_sent_at = null, credited = null, code = null, failed_answers = failed_answers + 1 "
        "from usage_window w where l.state = 'rejected' and w.window_id = l.window_id and ($1::text is null or w.subscription_id = $1) "
        "returning l.window_id, l.quantity, l.stripe_customer_id, l.event_name",
        subscription_id,
    )
    await connection.executemany(
        "update usage_window set rejected = rejected - $2 where window_id = $1", [(row["window_id"], row["quantity"]) for row in rows]
    )
    await _open_lanes(connection, ((row["stripe_customer_id"], row["event_name"]) for row in rows), wall)
    return len(rows)


async def reconcile(connection: Connection, subscription_id: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return per meter what was counted and where it is. `customer_acknowledged` covers all subscriptions of the customer."""
    rows = await connection.fetch(
        "with sums as (select w.product_id, w.meter_id, w.catalogue_version, sum(total)::bigint as windows, "
        "sum(acknowledged)::bigint as acknowledged, sum(recorded - acknowledged - rejected)::bigint as in_flight, "
        "sum(rejected)::bigint as rejected, sum(case when billable is false then total else 0 end)::bigint as not_billed, "
        "sum(case when billable is false then 0 else total - recorded end)::bigint as unsent "
        "from usage_window w where subscription_id = $1 and event_time >= $2 and event_time < $3 group by 1, 2, 3) "
        "select x.meter_id as meter, m.event_name, m.stripe_meter_id, s.stripe_customer_id, sum(windows)::bigint as windows, "
        "sum(acknowledged)::bigint as acknowledged, sum(in_flight)::bigint as in_flight, sum(rejected)::bigint as rejected, "
        "sum(not_billed)::bigint as not_billed, sum(unsent)::bigint as unsent, "
        "(select coalesce(sum(credited), 0)::bigint from ledger l where l.stripe_customer_id = s.stripe_customer_id "
        "and l.event_name = m.event_name and l.event_time >= $2 and l.event_time < $3 and l.state = 'acknowledged') "
        "as customer_acknowledged "
        "from sums x left join stripe_meter m on m.catalogue_version = x.catalogue_version and m.product_id = x.product_id "
        "and m.meter_id = x.meter_id left join subscription s on s.subscription_id = $1 "
        "group by x.meter_id, m.event_name, m.stripe_meter_id, s.stripe_customer_id order by 1",
        subscription_id,
        start,
        end,
    )
    return [dict(row) for row in rows]
