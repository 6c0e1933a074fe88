"""Figures that the reporter keeps itself, and the differences that were found: every query on them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from stripe_reporter.reconciliation import Difference, Station

AMOUNT_MAX = 2**63 - 1  # what a column takes: a difference worth more is a mistake, and must not end the run for all others
EVENTS: list[Station] = ["gateway-events", "events-meters", "events-windows"]


@dataclass(frozen=True)
class Found:
    """A difference of one subscription, with what it is worth and since when it has been seen."""

    subscription_id: str
    account_id: str
    difference: Difference
    amount_minor: int | None
    currency: str | None


async def meter_days(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[Any]:
    """Return product, meter and day with what the windows hold and where it is in the ledger, and where Stripe wants it."""
    rows: list[Any] = await connection.fetch(
        "with days as (select w.product_id, w.meter_id, date_trunc('day', w.event_time, 'UTC') as day, "
        "max(w.catalogue_version) as version, "
        "sum(total)::bigint as told, sum(acknowledged)::bigint as acknowledged, sum(rejected)::bigint as rejected, "
        "sum(recorded - acknowledged - rejected)::bigint as in_flight, max(changed_at) as changed_at, min(due_at) as due_at, "
        "sum(case when billable is false then 0 else total - recorded end)::bigint as unsent from usage_window w "
        "where w.subscription_id = $1 and w.event_time >= $2 and w.event_time < $3 group by 1, 2, 3) "
        "select d.*, m.event_name, m.stripe_meter_id, s.stripe_customer_id, s.account_id from days d "
        "left join stripe_meter m on m.catalogue_version = d.version and m.product_id = d.product_id and m.meter_id = d.meter_id "
        "left join subscription s on s.subscription_id = $1 order by d.day, d.product_id, d.meter_id",
        subscription_id,
        since,
        until,
    )
    return rows


async def customer_days(connection: Connection, customer_id: str, event_name: str, since: datetime, until: datetime) -> dict[datetime, Any]:
    """Return day -> what Stripe acknowledged of a customer's meter, of all subscriptions, its last answer, the first row without one."""
    rows = await connection.fetch(
        "select date_trunc('day', event_time, 'UTC') as day, "
        "coalesce(sum(credited) filter (where state = 'acknowledged'), 0)::bigint as acknowledged, max(answered_at) as answered_at, "
        "min(event_time) filter (where state in ('intent', 'sent', 'unknown')) as first_unanswered from ledger "
        "where stripe_customer_id = $1 and event_name = $2 and event_time >= $3 and event_time < $4 group by 1",
        customer_id,
        event_name,
        since,
        until,
    )
    return {row["day"]: row for row in rows}


async def customer_hours(connection: Connection, customer_id: str, event_name: str, since: datetime, until: datetime) -> list[Any]:
    """Return hour, acknowledged, last answer, open rows and one window of each hour of a customer's meter.

    And its subscriptions, and at how many instants its usage is stamped: more than one where a period ends within it.
    """
    rows: list[Any] = await connection.fetch(
        "select date_trunc('hour', l.event_time, 'UTC') as hour, "
        "coalesce(sum(credited) filter (where state = 'acknowledged'), 0)::bigint as acknowledged, max(answered_at) as answered_at, "
        "count(*) filter (where state in ('intent', 'sent', 'unknown')) as open, max(stripe_meter_id) as stripe_meter_id, "
        "(array_agg(l.window_id order by l.event_time, l.window_id))[1] as window_id, min(l.event_time) as event_time, "
        "max(l.revision) as revision, count(distinct l.event_time) as times, array_agg(distinct w.subscription_id) as subscriptions "
        "from ledger l join usage_window w using (window_id) where l.stripe_customer_id = $1 and l.event_name = $2 "
        "and l.event_time >= $3 and l.event_time < $4 group by 1 order by 1",
        customer_id,
        event_name,
        since,
        until,
    )
    return rows


SUBSCRIPTIONS = """
with recursive names as (  -- each is found by one look into the index: a plain distinct would read all windows for every page
    (select subscription_id from usage_window where subscription_id > $3 order by subscription_id limit 1)
    union all
    select (select w.subscription_id from usage_window w where w.subscription_id > n.subscription_id order by w.subscription_id limit 1)
    from names n where n.subscription_id is not null
)
(select n.subscription_id from names n where n.subscription_id is not null and exists (select from usage_window w
    where w.subscription_id = n.subscription_id and w.event_time >= $1 and w.event_time < $2) limit $4)
union
(select subscription_id from subscription where status not in ('canceled', 'incomplete_expired') and subscription_id > $3
    order by subscription_id limit $4)
order by 1 limit $4
"""


async def subscriptions(connection: Connection, since: datetime, until: datetime, after: str, limit: int) -> list[str]:
    """Return the subscriptions with usage in a range or that live now, in order of their ids."""
    return [row["subscription_id"] for row in await connection.fetch(SUBSCRIPTIONS, since, until, after, limit)]


async def facts(connection: Connection, subscription_ids: Sequence[str]) -> dict[str, Any]:
    """Return subscription id -> account, currency, status and plan."""
    rows = await connection.fetch(
        "select subscription_id, account_id, currency, status, stripe_customer_id, product_id, catalogue_version from subscription "
        "where subscription_id = any($1::text[])",
        list(subscription_ids),
    )
    return {row["subscription_id"]: row for row in rows}


async def plan_meters(connection: Connection, subscription_id: str) -> list[Any]:
    """Return product, meter, Stripe meter and event name of what a subscription's plan has now, used or not."""
    rows: list[Any] = await connection.fetch(
        "select m.product_id, m.meter_id, m.stripe_meter_id, m.event_name from subscription s join stripe_meter m "
        "on m.catalogue_version = s.catalogue_version and m.product_id = s.product_id where s.subscription_id = $1",
        subscription_id,
    )
    return rows


async def closed_usage(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[tuple[Any, ...]]:
    """Return (product, meter, start, end, quantity) of priced usage of closed segments that ended in a range."""
    rows = await connection.fetch(
        "select w.product_id, w.meter_id, g.segment_start, g.segment_end, sum(w.total)::bigint as quantity from segment g "
        "join usage_window w on w.subscription_id = g.subscription_id and w.segment_start = g.segment_start and w.billable "
        "where g.subscription_id = $1 and g.segment_end > $2 and g.segment_end <= $3 group by 1, 2, 3, 4",
        subscription_id,
        since,
        until,
    )
    return [tuple(row) for row in rows]


# --- what was found ------------------------------------------------------------------------------------------------------------


async def active_since(connection: Connection, wall: datetime) -> list[str]:
    """Return the subscriptions whose totals have changed, and those with open differences."""
    rows = await connection.fetch(
        "select distinct subscription_id from usage_window where changed_at >= $1 union select subscription_id from difference order by 1",
        wall,
    )
    return [row["subscription_id"] for row in rows]


async def put_differences(
    connection: Connection,
    looked_at: Iterable[str],
    since: datetime,
    found: Sequence[Found],
    now: datetime,
    *,
    undecided: Iterable[datetime],
) -> None:
    """Make the table say what was found of these subscriptions from a day on; what is gone is gone, what stays keeps its age.

    Of the `undecided` days some events were not looked at: what was known of their events stays.
    """
    await connection.executemany(
        "insert into difference (subscription_id, account_id, day, station, product_id, meter_id, cause, explained, quantity, "
        "amount_minor, currency, words, first_seen_at, last_seen_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13) "
        "on conflict (subscription_id, day, station, product_id, meter_id, cause) do update set quantity = excluded.quantity, "
        "amount_minor = excluded.amount_minor, words = excluded.words, explained = excluded.explained, "
        "last_seen_at = excluded.last_seen_at",
        [
            (
                one.subscription_id, one.account_id, one.difference.day, one.difference.station, one.difference.product_id,
                one.difference.meter_id, one.difference.cause, one.difference.explained, one.difference.quantity, _kept(one.amount_minor),
                one.currency, one.difference.words, now,
            )
            for one in found
        ],
    )  # fmt: skip
    await connection.execute(
        "delete from difference where subscription_id = any($1::text[]) and day >= $2 and last_seen_at < $3 "
        "and not (day = any($4::timestamptz[]) and station = any($5::text[]))",
        list(looked_at),
        since,
        now,
        list(undecided),
        EVENTS,
    )


def _kept(amount_minor: int | None) -> int | None:
    return None if amount_minor is None else max(-AMOUNT_MAX, min(amount_minor, AMOUNT_MAX))


async def mismatched_segments(
    connection: Connection, subscription_id: str, since: datetime, until: datetime
) -> list[tuple[datetime, datetime]]:
    """Return start and end of the unsettled segments that touch a range and were closed with other totals than their windows have here."""
    rows = await connection.fetch(
        "select g.segment_start, g.segment_end, g.totals::text, (select coalesce(jsonb_object_agg(meter_id, total), '{}') from ("
        "select meter_id, sum(total) as total from usage_window w where w.subscription_id = g.subscription_id "
        "and w.segment_start = g.segment_start group by 1) sums)::text as windows from segment g "
        "where g.subscription_id = $1 and g.settled_at is null and g.segment_start < $3 and g.segment_end > $2 order by 1",
        subscription_id,
        since,
        until,
    )
    found = []
    for row in rows:
        totals, windows = json.loads(row["totals"]), json.loads(row["windows"])
        if any(totals.get(meter, 0) != windows.get(meter, 0) for meter in {*totals, *windows}):
            found.append((row["segment_start"], row["segment_end"]))
    return found


async def listed(connection: Connection, limit: int) -> list[Any]:
    """Return the differences that the last run left, the unexplained first."""
    rows: list[Any] = await connection.fetch("select * from difference order by explained, first_seen_at, subscription_id limit $1", limit)
    return rows


async def counts(connection: Connection) -> list[Any]:
    """Return cause, explained and number of the open differences."""
    rows: list[Any] = await connection.fetch("select cause, explained, count(*) as n from difference group by 1, 2")
    return rows


async def begin_run(connection: Connection, wall: datetime, not_after: datetime) -> bool:
    """Note that a run begins; False when one began lately, here or at another replica."""
    return bool(
        await connection.fetchval(
            "insert into reconciliation_run (started_at) values ($1) on conflict (only_row) do update "
            "set started_at = excluded.started_at where reconciliation_run.started_at <= $2 returning true",
            wall,
            not_after,
        )
    )


async def begin_again(connection: Connection, started_at: datetime) -> None:
    """Let a run that broke begin anew before its time."""
    await connection.execute("update reconciliation_run set started_at = $1", started_at)


async def last_run(connection: Connection) -> datetime | None:
    """Return when the last whole run ended (wall time)."""
    ended: datetime | None = await connection.fetchval("select ended_at from reconciliation_run")
    return ended


async def end_run(connection: Connection, wall: datetime) -> None:
    await connection.execute("update reconciliation_run set ended_at = $1", wall)
