"""Tables and queries of what is known: subscriptions, meters, windows, closed segments and periods. The ledger is in `ledger.py`."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from billing_common.db import Connection
from billing_common.events import InvoiceState, SubscriptionState, UsageCollected, UsageSegmentClosed, UsageSettled
from stripe_reporter.domain import MeterSums, SegmentState, window_id

SEGMENTS_AT_ONCE = 200
MISMATCH_AFTER = timedelta(minutes=5)
CLOSE_SHOWN_FOR = timedelta(days=7)  # a draft that became final with usage missing stays an alert for so long


@dataclass(frozen=True)
class Segment:
    """A closed segment that is not settled, with the sums of its windows. `free`: Stripe never hears of it."""

    subscription_id: str
    account_id: str
    segment_start: datetime
    segment_end: datetime
    reason: Literal["period_end", "cancellation", "change"]
    totals: dict[str, int]
    event_id: UUID
    free: bool
    meters: dict[str, MeterSums]
    product_id: str | None
    catalogue_version: int | None

    def settled(self, now: datetime) -> UsageSettled:
        return UsageSettled(
            cause_id=str(self.event_id),
            occurred_at=now,
            subscription_id=self.subscription_id,
            account_id=self.account_id,
            segment_start=self.segment_start,
            segment_end=self.segment_end,
            reason=self.reason,
            totals=self.totals,
            product_id=self.product_id,
            catalogue_version=self.catalogue_version,
        )


async def put_subscription(connection: Connection, state: SubscriptionState) -> None:
    await connection.execute(
        "insert into subscription(subscription_id, account_id, product_id, stripe_customer_id, stripe_subscription_id, status, "
        "current_period_start, current_period_end, revision) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
        "on conflict (subscription_id) do update set account_id = excluded.account_id, product_id = excluded.product_id, "
        "stripe_customer_id = excluded.stripe_customer_id, stripe_subscription_id = excluded.stripe_subscription_id, "
        "status = excluded.status, current_period_start = excluded.current_period_start, "
        "current_period_end = excluded.current_period_end, revision = excluded.revision where subscription.revision < excluded.revision",
        state.subscription_id,
        state.account_id,
        state.product_id,
        state.stripe_customer_id,
        state.stripe_subscription_id,
        state.status,
        state.current_period_start,
        state.current_period_end,
        state.revision,
    )


async def put_meters(connection: Connection, version: int, meters: Iterable[tuple[str, str, str, str]]) -> None:
    """Keep a catalogue version's meters: (product, meter, Stripe meter id, event name)."""
    await connection.execute("insert into catalogue(version) values ($1) on conflict do nothing", version)
    await connection.executemany(
        "insert into stripe_meter(catalogue_version, product_id, meter_id, stripe_meter_id, event_name) values ($1, $2, $3, $4, $5) "
        "on conflict do nothing",
        [(version, *meter) for meter in meters],
    )


async def put_window(connection: Connection, event: UsageCollected, due_at: datetime) -> None:
    """Keep a window's running total if its revision is newer. A due time that stands already is not pushed back."""
    await connection.execute(
        "insert into usage_window(window_id, subscription_id, account_id, product_id, catalogue_version, meter_id, segment_start, hour, "
        "event_time, total, revision, due_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
        "on conflict (window_id) do update set total = excluded.total, revision = excluded.revision, product_id = excluded.product_id, "
        "catalogue_version = excluded.catalogue_version, due_at = coalesce(usage_window.due_at, excluded.due_at), changed_at = now() "
        "where usage_window.revision < excluded.revision",
        window_id(subscription_id=event.subscription_id, meter_id=event.meter_id, segment_start=event.segment_start, hour=event.hour),
        event.subscription_id,
        event.account_id,
        event.product_id,
        event.catalogue_version,
        event.meter_id,
        event.segment_start,
        event.hour,
        event.timestamp,
        event.quantity,
        event.revision,
        due_at,
    )


async def put_segment(connection: Connection, event: UsageSegmentClosed, received_at: datetime) -> None:
    """Keep a closed segment; a later statement about it replaces an earlier one until it is settled."""
    await connection.execute(
        "insert into segment(subscription_id, account_id, segment_start, segment_end, reason, totals, event_id, closed_at, received_at, "
        "product_id, catalogue_version) values ($1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11) "
        "on conflict (subscription_id, segment_start) do update set segment_end = excluded.segment_end, reason = excluded.reason, "
        "totals = excluded.totals, event_id = excluded.event_id, product_id = excluded.product_id, "
        "catalogue_version = excluded.catalogue_version, closed_at = excluded.closed_at, checked_at = null "
        "where segment.settled_at is null and segment.closed_at < excluded.closed_at",
        event.subscription_id,
        event.account_id,
        event.segment_start,
        event.segment_end,
        event.reason,
        json.dumps(event.totals),
        event.event_id,
        event.occurred_at,
        received_at,
        event.product_id,
        event.catalogue_version,
    )


async def put_period(connection: Connection, invoice: InvoiceState, finalizes_at: datetime) -> None:
    await connection.execute(
        "insert into period_close(invoice_id, subscription_id, period_start, period_end, finalizes_at, revision) "
        "values ($1, $2, $3, $4, $5, $6) on conflict (invoice_id) do update set finalizes_at = excluded.finalizes_at, "
        "revision = excluded.revision where period_close.revision < excluded.revision",
        invoice.invoice_id,
        invoice.subscription_id,
        invoice.period_start,
        invoice.period_end,
        finalizes_at,
        invoice.revision,
    )


async def pull_closed(connection: Connection, now: datetime) -> None:
    """Make due now what belongs to a closed segment or to a period whose invoice is a draft."""
    await connection.execute(
        "update usage_window w set due_at = $1 from segment g where g.settled_at is null and w.subscription_id = g.subscription_id "
        "and w.segment_start = g.segment_start and w.due_at > $1",
        now,
    )
    await connection.execute(
        "update usage_window w set due_at = $1 from period_close p where p.complete_at is null and w.subscription_id = p.subscription_id "
        "and w.event_time < p.period_end and w.due_at > $1",
        now,
    )


async def pull_days(connection: Connection, now: datetime, subscription_id: str, days: Sequence[datetime]) -> int:
    """Make due now what is not reported of a subscription's UTC days, also what nothing would ever send; returns how many windows."""
    tag = await connection.execute(
        "update usage_window set due_at = least(due_at, $1) where subscription_id = $2 "
        "and date_trunc('day', event_time, 'UTC') = any($3::timestamptz[]) "
        "and (due_at is not null or (total <> recorded and billable is distinct from false))",
        now,
        subscription_id,
        days,
    )
    return int(tag.split()[-1])


async def pull_all(connection: Connection, now: datetime, subscription_id: str | None) -> int:
    """Make everything that is not reported due now; returns how many windows. Of one subscription also what nothing would ever send."""
    found = await connection.fetch(
        "update usage_window set due_at = least(due_at, $1) where due_at is not null and ($2::text is null or subscription_id = $2) "
        "returning 1",
        now,
        subscription_id,
    )
    forgotten = await connection.fetch(
        "update usage_window set due_at = $1 where subscription_id = $2 and due_at is null and total <> recorded "
        "and billable is distinct from false returning 1",
        now,
        subscription_id,
    )
    return len(found) + len(forgotten)


async def next_due(connection: Connection, now: datetime) -> datetime | None:
    """Return when the next window becomes due by itself."""
    due: datetime | None = await connection.fetchval("select min(due_at) from usage_window where due_at > $1", now)
    return due


async def open_segments(connection: Connection) -> list[Segment]:
    """Return unsettled segments, the longest unchecked first, locked against other replicas."""
    rows = await connection.fetch(
        "select g.subscription_id, g.account_id, g.segment_start, g.segment_end, g.reason, g.totals, g.event_id, g.product_id, "
        "g.catalogue_version, "
        "s.subscription_id is not null and s.stripe_customer_id is null and not exists (select 1 from usage_window w "
        "where w.subscription_id = g.subscription_id and w.segment_start = g.segment_start and w.billable is not false) as free, "
        "(select coalesce(jsonb_object_agg(meter_id, jsonb_build_array(total, covered, rejected)), '{}') from ("
        "select meter_id, sum(total) as total, sum(case when billable is false then total else acknowledged end) as covered, "
        "sum(rejected) as rejected from usage_window w where w.subscription_id = g.subscription_id "
        "and w.segment_start = g.segment_start group by meter_id) sums) as meters "
        "from segment g left join subscription s on s.subscription_id = g.subscription_id where g.settled_at is null "
        "order by g.checked_at nulls first limit $1 for update of g skip locked",
        SEGMENTS_AT_ONCE,
    )
    return [_segment(row) for row in rows]


def _segment(row: Any) -> Segment:
    meters = {name: MeterSums(*(int(value) for value in sums)) for name, sums in json.loads(row["meters"]).items()}
    return Segment(**{**dict(row), "totals": json.loads(row["totals"]), "meters": meters})


async def put_segment_state(
    connection: Connection, segment: Segment, state: SegmentState, waiting_for: str, *, now: datetime, checked_at: datetime
) -> None:
    await connection.execute(
        "update segment set state = $3, waiting_for = $4, checked_at = $5, settled_at = case when $3 = 'settled' then $6::timestamptz end "
        "where subscription_id = $1 and segment_start = $2",
        segment.subscription_id,
        segment.segment_start,
        state,
        waiting_for,
        checked_at,
        now,
    )


async def complete_periods(connection: Connection, now: datetime) -> int:
    """Mark the drafts whose period has ended its segment and has all its usage at Stripe; returns how many."""
    tag = await connection.execute(
        "update period_close p set complete_at = $1 where p.complete_at is null "
        "and exists (select 1 from segment g where g.subscription_id = p.subscription_id and g.segment_end >= p.period_end "
        "and g.settled_at is not null) and not exists (select 1 from segment g where g.subscription_id = p.subscription_id "
        "and g.segment_start < p.period_end and g.settled_at is null) and not exists (select 1 from usage_window w "
        "where w.subscription_id = p.subscription_id and w.event_time < p.period_end "
        "and w.billable is not false and w.total <> w.acknowledged)",
        now,
    )
    return int(tag.split()[-1])


async def waiting_for(connection: Connection, now: datetime) -> list[str]:
    """Return what keeps the reporter from being settled, one sentence each; refused usage waits for a person and is not named."""
    row = await connection.fetchrow(
        "select (select count(*) from usage_window where due_at <= $1) as due, "
        "(select count(*) from ledger where state in ('intent', 'sent', 'unknown')) as unanswered, "
        "(select count(*) from segment where settled_at is null and state = 'waiting') as segments, "
        "(select subscription_id || ' waits for ' || waiting_for from segment where settled_at is null and state = 'waiting' "
        "order by received_at limit 1) as segment",
        now,
    )
    assert row is not None  # a query without a table always has one row
    return [
        *([f"{row['due']} usage windows due"] if row["due"] else []),
        *([f"{row['unanswered']} meter events without an answer"] if row["unanswered"] else []),
        *([f"{row['segments']} closed segments; {row['segment']}"] if row["segments"] else []),
    ]


async def figures(connection: Connection, *, now: datetime, wall: datetime, alert: timedelta) -> dict[str, Any]:
    """Return what the gauges show."""
    row = await connection.fetchrow(
        "select least((select min(hour) from usage_window where due_at <= $1), "
        "(select min(event_time) from ledger where state in ('intent', 'sent', 'unknown'))) as oldest, "
        "(select count(*) from segment where settled_at is null and state = 'waiting') as waiting, "
        "(select count(*) from segment where settled_at is null and state = 'parked') as parked, "
        "(select count(*) from segment where settled_at is null and received_at < $2) as mismatched, "
        "(select count(*) from period_close where complete_at is null) as close_open, "
        "(select count(*) from period_close where complete_at is null and finalizes_at between $4 and $3) as close_at_risk, "
        "(select min(finalizes_at) from period_close where complete_at is null and finalizes_at > $4) as deadline",
        now,
        wall - MISMATCH_AFTER,
        now + alert,
        now - CLOSE_SHOWN_FOR,
    )
    assert row is not None  # a query without a table always has one row
    states = await connection.fetch(
        "select state, count(*) as n from ledger where state in ('intent', 'sent', 'unknown') group by state "
        "union all select 'rejected', count(*) from ledger where state = 'rejected'"
    )
    return {**dict(row), "states": {item["state"]: item["n"] for item in states}}
