"""Windows going out and being looked at: what to publish, what a segment adds up to, usage and reconciliation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from billing_common.db import Connection
from usage_collector.store import Reader

PICK_DIRTY = """
with picked as (
    select segment_id, meter_id, hour from usage_window where dirty and ($2::bigint[] is null or segment_id = any($2::bigint[]))
    order by segment_id, meter_id, hour limit $1 for update skip locked
)
update usage_window w set dirty = false from picked p join segment s on s.id = p.segment_id
    join subscription u on u.subscription_id = s.subscription_id
where w.segment_id = p.segment_id and w.meter_id = p.meter_id and w.hour = p.hour
returning s.subscription_id, s.account_id, s.product_id, s.catalogue_version, s.started_at as segment_start,
    s.stamped_from, u.started_at, w.meter_id, w.hour, w.quantity, w.revision
"""


async def pick_dirty(connection: Connection, limit: int, segment_ids: Sequence[int] | None = None) -> list[Any]:
    """Take windows that have something to say and mark them as said, in the caller's transaction."""
    rows: list[Any] = await connection.fetch(PICK_DIRTY, limit, list(segment_ids) if segment_ids is not None else None)
    return rows


async def count_dirty(connection: Reader) -> int:
    return int(await connection.fetchval("select count(*) from usage_window where dirty"))


async def segment_totals(connection: Connection, segment_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return segment id -> meter id -> total of all windows."""
    rows = await connection.fetch(
        "select segment_id, meter_id, sum(quantity)::bigint as total from usage_window where segment_id = any($1::bigint[]) group by 1, 2",
        list(segment_ids),
    )
    totals: dict[int, dict[str, int]] = {segment_id: {} for segment_id in segment_ids}
    for row in rows:
        totals[row["segment_id"]][row["meter_id"]] = row["total"]
    return totals


@dataclass(frozen=True, slots=True)
class Span:
    """The windows of one meter of a subscription in a period; `until` is None for those of the segment that starts at `since`.

    `through`: the start of the last segment that belongs to it; None: all do.
    """

    subscription_id: str
    meter_id: str
    since: datetime
    until: datetime | None
    through: datetime | None = None


async def totals_of(connection: Connection, spans: Sequence[Span]) -> dict[Span, int]:
    """Return what the windows of each span add up to, with what came late for them and is billed.

    A window belongs where its hour begins, the first of a segment where that does.
    """
    rows = await connection.fetch(
        "select i.place, sum(w.quantity)::bigint as total from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], "
        "$5::timestamptz[]) with ordinality as i(subscription_id, meter_id, since, until, through, place) "
        "join segment s on s.subscription_id = i.subscription_id and (i.through is null or s.started_at <= i.through) "
        "and case when i.until is null then s.started_at = i.since else s.started_at < i.until end "
        "cross join lateral (select hour, quantity from usage_window where segment_id = s.id and meter_id = i.meter_id union all "
        "select hour, quantity from late_usage where segment_id = s.id and meter_id = i.meter_id and disposition = 'billed') w "
        "where i.until is null or (greatest(w.hour, s.started_at) >= i.since and w.hour < i.until) group by 1",
        [span.subscription_id for span in spans],
        [span.meter_id for span in spans],
        [span.since for span in spans],
        [span.until for span in spans],
        [span.through for span in spans],
    )
    return {spans[row["place"] - 1]: row["total"] for row in rows}


async def segments_after(
    connection: Connection, rows: Sequence[Any], now: datetime
) -> dict[tuple[str, datetime], list[tuple[datetime, tuple[str, int]]]]:
    """Return (subscription, segment start) -> start and plan of the segments that followed and have begun, in order of time."""
    places = list({(row["subscription_id"], row["segment_start"]) for row in rows})
    found = await connection.fetch(
        "select i.subscription_id, i.since, s.started_at, s.product_id, s.catalogue_version "
        "from unnest($1::text[], $2::timestamptz[]) as i(subscription_id, since) "
        "join segment s on s.subscription_id = i.subscription_id and s.started_at > i.since and s.started_at <= $3 order by 1, 2, 3",
        [subscription_id for subscription_id, _ in places],
        [since for _, since in places],
        now,
    )
    following: dict[tuple[str, datetime], list[tuple[datetime, tuple[str, int]]]] = {}
    for row in found:
        plan = (row["product_id"], row["catalogue_version"])
        following.setdefault((row["subscription_id"], row["since"]), []).append((row["started_at"], plan))
    return following


async def segment_of(connection: Connection, segment_id: int) -> dict[str, Any]:
    """Return of a segment what `pick_dirty` says of it beside its windows."""
    (row,) = await connection.fetch(
        "select s.subscription_id, s.account_id, s.product_id, s.catalogue_version, s.started_at as segment_start, u.started_at "
        "from segment s join subscription u on u.subscription_id = s.subscription_id where s.id = $1",
        segment_id,
    )
    return dict(row)


async def usage(connection: Connection, subscription_id: str, since: datetime, until: datetime, by: Literal["hour", "day"]) -> list[Any]:
    """Return meter, segment start, begin of the hour or day, quantity and events of the windows whose hour is in the range."""
    rows: list[Any] = await connection.fetch(
        "select w.meter_id, s.product_id, s.started_at as segment_start, date_trunc($4, w.hour, 'UTC') as start, "
        "sum(w.quantity)::bigint as quantity, sum(w.events)::bigint as events "
        "from usage_window w join segment s on s.id = w.segment_id "
        "where s.subscription_id = $1 and w.hour >= $2 and w.hour < $3 group by 1, 2, 3, 4 order by 4, 3, 1",
        subscription_id,
        since,
        until,
        by,
    )
    return rows


async def segments(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[Any]:
    """Return the segments that touch the range."""
    rows: list[Any] = await connection.fetch(
        "select started_at, ended_at, product_id, catalogue_version, reason, closed_at from segment "
        "where subscription_id = $1 and started_at < $3 and (ended_at is null or ended_at > $2) order by started_at",
        subscription_id,
        since,
        until,
    )
    return rows


async def known_subscriptions(connection: Connection, subscription_ids: Sequence[str]) -> list[str]:
    rows = await connection.fetch(
        "select subscription_id from subscription where subscription_id = any($1::text[])", list(subscription_ids)
    )
    return [row["subscription_id"] for row in rows]


async def totals(connection: Connection, spans: Mapping[str, tuple[datetime, datetime]]) -> list[Any]:
    """Return quantities by subscription, product and meter of the segments that begin in each one's span."""
    rows: list[Any] = await connection.fetch(
        "select s.subscription_id, s.product_id, w.meter_id, sum(w.quantity)::bigint as quantity "
        "from unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) asked(subscription_id, since, until) "
        "join segment s on s.subscription_id = asked.subscription_id and s.started_at >= asked.since and s.started_at < asked.until "
        "join usage_window w on w.segment_id = s.id group by 1, 2, 3",
        list(spans),
        [since for since, _ in spans.values()],
        [until for _, until in spans.values()],
    )
    return rows


async def subscription_row(connection: Connection, subscription_id: str) -> Any:
    """Return account id and whether usage is reported to Stripe; None when the subscription is unknown."""
    return await connection.fetchrow("select account_id, reported from subscription where subscription_id = $1", subscription_id)


# --- reconciliation: counted from the events themselves, so that the windows can be compared with it ------------------------


async def event_bins(connection: Connection, sids: Sequence[str], since: datetime, until: datetime) -> list[Any]:
    """Return origin, outcome, reason and number of distinct events whose time is in the range; refused ones are rejected."""
    rows: list[Any] = await connection.fetch(
        "select origin::text, outcome::text, coalesce(reason, '') as reason, count(*) as events from usage_event "
        "where sid = any($1::text[]) and at >= $2 and at < $3 and day between $4 and $5 and origin <> 'correction' group by 1, 2, 3 "
        "union all select r.origin::text, 'rejected', r.reason, count(*) from refused_event r where r.sid = any($1::text[]) "
        "and r.at >= $2 and r.at < $3 and not exists "
        "(select from usage_event e where e.id = r.id and e.day = (r.at at time zone 'UTC')::date) "
        "group by 1, 2, 3 order by 1, 2, 3",
        list(sids),
        since,
        until,
        since.date(),
        until.date(),
    )
    return rows


async def counted_quantities(connection: Connection, sids: Sequence[str], since: datetime, until: datetime) -> dict[str, int]:
    """Return meter id -> quantity, added up from the events."""
    rows = await connection.fetch(
        "with counted as (select day, id, meter_id, counted from usage_event where sid = any($1::text[]) and outcome = 'counted' "
        "and at >= $2 and at < $3 and day between $4 and $5) "
        "select meter_id, sum(counted)::bigint as quantity from (select meter_id, counted from counted union all "
        "select m.meter_id, m.counted from usage_event_meter m join counted c on c.day = m.day and c.id = m.id) x group by 1",
        list(sids),
        since,
        until,
        since.date(),
        until.date(),
    )
    return {row["meter_id"]: row["quantity"] for row in rows}


async def window_quantities(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> dict[str, int]:
    """Return meter id -> quantity, added up from the windows."""
    rows = await connection.fetch(
        "select w.meter_id, sum(w.quantity)::bigint as quantity from usage_window w join segment s on s.id = w.segment_id "
        "where s.subscription_id = $1 and w.hour >= $2 and w.hour < $3 group by 1",
        subscription_id,
        since,
        until,
    )
    return {row["meter_id"]: row["quantity"] for row in rows}


async def duplicates(connection: Connection, sids: Sequence[str], since: datetime, until: datetime) -> int:
    """Return how often events of these days were delivered again."""
    return int(
        await connection.fetchval(
            "select coalesce(sum(events), 0) from duplicate_count where sid = any($1::text[]) and day >= $2 and day <= $3",
            list(sids),
            since.date(),
            until.date(),
        )
    )
