"""Figures of days for reconciliation: every query on them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from usage_collector.store import Reader


async def keys(connection: Reader, subscription_ids: Sequence[str]) -> dict[str, str]:
    """Return sid -> subscription id."""
    rows = await connection.fetch(
        "select sid, subscription_id from subscription_key where subscription_id = any($1::text[])", list(subscription_ids)
    )
    return {row["sid"]: row["subscription_id"] for row in rows}


async def segments(connection: Reader, subscription_ids: Sequence[str], since: datetime, until: datetime) -> list[Any]:
    """Return subscription, start, end, product and version of the segments that touch a range."""
    rows: list[Any] = await connection.fetch(
        "select subscription_id, started_at, ended_at, product_id, catalogue_version from segment where subscription_id = any($1::text[]) "
        "and started_at < $3 and (ended_at is null or ended_at >= $2)",
        list(subscription_ids),
        since,
        until,
    )
    return rows


async def windows(
    connection: Reader, subscription_ids: Sequence[str], since: datetime, until: datetime, left_out: Sequence[datetime]
) -> list[Any]:
    """Return subscription, day, product, meter, quantity, how much of it is of some hours, and whether some has not been published."""
    rows: list[Any] = await connection.fetch(
        "select s.subscription_id, date_trunc('day', w.hour, 'UTC') as day, s.product_id, w.meter_id, sum(w.quantity)::bigint as quantity, "
        "coalesce(sum(w.quantity) filter (where w.hour = any($4::timestamptz[])), 0)::bigint as left_out, "
        "bool_or(w.dirty) as dirty from segment s join usage_window w on w.segment_id = s.id "
        "where s.subscription_id = any($1::text[]) and w.hour >= $2 and w.hour < $3 group by 1, 2, 3, 4",
        list(subscription_ids),
        since,
        until,
        left_out,
    )
    return rows


async def held(connection: Reader, sids: Sequence[str], since: datetime, until: datetime) -> list[Any]:
    """Return sid, day, origin, reason and quantity of events that wait."""
    rows: list[Any] = await connection.fetch(
        "select h.sid, h.day, e.origin::text, coalesce(e.reason, '') as reason, sum(e.quantity)::bigint as quantity "
        "from held_event h join usage_event e on e.day = h.day and e.id = h.id where h.sid = any($1::text[]) "
        "and h.day between ($2 at time zone 'UTC')::date and ($3 at time zone 'UTC')::date and e.at >= $2 and e.at < $3 "
        "and e.outcome = 'held' and e.origin <> 'correction' group by 1, 2, 3, 4",
        list(sids),
        since,
        until,
    )
    return rows


async def refused(connection: Reader, sids: Sequence[str], since: datetime, until: datetime) -> list[Any]:
    """Return sid, day, origin, reason and number of events whose time was not taken."""
    rows: list[Any] = await connection.fetch(
        "select r.sid, date_trunc('day', r.at, 'UTC') as day, r.origin::text, r.reason, count(*) as events from refused_event r "
        "where r.sid = any($1::text[]) and r.at >= $2 and r.at < $3 and not exists "
        "(select from usage_event e where e.id = r.id and e.day = (r.at at time zone 'UTC')::date) group by 1, 2, 3, 4",
        list(sids),
        since,
        until,
    )
    return rows


async def duplicates(connection: Reader, sids: Sequence[str], since: datetime, until: datetime) -> list[Any]:
    """Return sid, day and how often its events were delivered again."""
    rows: list[Any] = await connection.fetch(
        "select sid, day, sum(events)::bigint as events from duplicate_count where sid = any($1::text[]) and day between $2 and $3 "
        "group by 1, 2",
        list(sids),
        since.date(),
        (until - timedelta(microseconds=1)).date(),
    )
    return rows


async def keep_from(connection: Reader, day: date) -> None:
    """Say, before events of earlier days are dropped, that they are no longer all there."""
    await connection.execute(
        "insert into events_kept (kept_from) values ($1) on conflict (only_row) do update "
        "set kept_from = excluded.kept_from where events_kept.kept_from < excluded.kept_from",
        day,
    )


async def kept_from(connection: Reader) -> datetime | None:
    """Return the start of the first day whose events are all still there; None: nothing was ever dropped."""
    day: date | None = await connection.fetchval("select kept_from from events_kept")
    return None if day is None else datetime.combine(day, datetime.min.time(), UTC)


async def mark_windows(connection: Reader, subscription_id: str, since: datetime, until: datetime) -> int:
    """Have the totals of a range published once more, as a new revision. Returns how many."""
    tag = await connection.execute(
        "update usage_window w set revision = w.revision + 1, dirty = true from segment s where s.id = w.segment_id "
        "and s.subscription_id = $1 and w.hour >= $2 and w.hour < $3",
        subscription_id,
        since,
        until,
    )
    return int(tag.split()[-1])
