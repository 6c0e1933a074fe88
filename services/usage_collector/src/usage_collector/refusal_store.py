"""Refusals at the HTTP door and rejected events: every query on listing them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from billing_common.db import Connection
from usage_collector.store import Reader

ROWS_MAX = 10_000  # the newest are kept


class Refusal(NamedTuple):
    """A sum of refused events."""

    sender_id: str
    subscription_id: str
    reason: str
    events: int
    last_event_id: str | None
    last_at: datetime


async def add(connection: Reader, sums: Sequence[Refusal]) -> None:
    """Add sums to those of their day and forget the oldest beyond the limit."""
    columns = [list(column) for column in zip(*sums, strict=True)]
    await connection.execute(
        "insert into ingest_refusal as r (sender_id, subscription_id, reason, events, last_event_id, last_at, day) "
        "select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[], $7::date[]) "
        "order by 1, 2, 3 on conflict (sender_id, subscription_id, reason, day) do update "
        "set events = r.events + excluded.events, last_event_id = excluded.last_event_id, last_at = excluded.last_at",
        *columns,
        [one.last_at.astimezone(UTC).date() for one in sums],
    )
    await connection.execute(
        "delete from ingest_refusal where last_at <= (select last_at from ingest_refusal order by last_at desc offset $1 limit 1)", ROWS_MAX
    )


async def refusals(connection: Connection, subscription_id: str | None, since: datetime, until: datetime, limit: int) -> list[Any]:
    rows: list[Any] = await connection.fetch(
        "select r.sender_id, s.name as sender, r.subscription_id, r.reason, r.day, r.events, r.last_event_id, r.last_at "
        "from ingest_refusal r left join sender s on s.id = r.sender_id "
        "where r.last_at >= $2 and r.last_at < $3 and ($1::text is null or r.subscription_id = $1) order by r.last_at desc limit $4",
        subscription_id,
        since,
        until,
        limit,
    )
    return rows


async def rejected_events(connection: Connection, subscription_id: str | None, since: datetime, until: datetime, limit: int) -> list[Any]:
    """Return single events: those refused for their time by when they came, the others by when they happened."""
    rows: list[Any] = await connection.fetch(
        "with sids as (select sid from subscription_key where subscription_id = $1 union select $1) "
        "(select at, origin::text, source, external_id as id, sid, reason, quantity from usage_event where outcome = 'rejected' "
        "and day between $5 and $6 and at >= $2 and at < $3 and ($1::text is null or sid in (select sid from sids)) "
        "order by at desc limit $4) union all "
        "(select at, origin::text, source, external_id as id, sid, reason, null from refused_event "
        "where received_at >= $2 and received_at < $3 and ($1::text is null or sid in (select sid from sids)) "
        "order by received_at desc limit $4) order by 1 desc limit $4",
        subscription_id,
        since,
        until,
        limit,
        since.astimezone(UTC).date(),
        until.astimezone(UTC).date(),
    )
    return rows
