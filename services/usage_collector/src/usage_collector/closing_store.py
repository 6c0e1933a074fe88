"""Segments whose end has passed: every query on their closing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from usage_collector.store import Reader


@dataclass(frozen=True, slots=True)
class Due:
    """A segment whose end has passed."""

    id: int
    subscription_id: str
    account_id: str
    started_at: datetime
    ended_at: datetime
    product_id: str
    catalogue_version: int
    reason: str


async def notice_ends(connection: Connection, *, now: datetime, wall: datetime) -> None:
    """Start the grace of segments whose end has come."""
    await connection.execute(
        "update segment set closing_since = $2 where closed_at is null and ended_at <= $1 and closing_since is null", now, wall
    )


async def ended_segments(connection: Reader, *, now: datetime) -> list[Due]:
    """Return all segments that have ended and are not closed, whatever they wait for."""
    rows = await connection.fetch(
        "select id, subscription_id, account_id, started_at, ended_at, product_id, catalogue_version, reason from segment "
        "where closed_at is null and ended_at <= $1 limit 10000",
        now,
    )
    return [Due(**row) for row in rows]


async def due_segments(
    connection: Connection,
    *,
    now: datetime,
    noticed_before: datetime | None = None,
    limit: int = 1000,
    ids: Sequence[int] | None = None,
    leave_out: Sequence[int] = (),
) -> list[Due]:
    """Return segments that may be closed: ended, grace over, catalogue known, no held events on their way into them."""
    rows = await connection.fetch(
        "select s.id, s.subscription_id, s.account_id, s.started_at, s.ended_at, s.product_id, s.catalogue_version, s.reason "
        "from segment s join catalogue_version c on c.version = s.catalogue_version "
        "join subscription u on u.subscription_id = s.subscription_id "
        "where s.closed_at is null and s.ended_at <= $1 and not u.unsettled and ($2::timestamptz is null or s.closing_since <= $2) "
        "and ($4::bigint[] is null or s.id = any($4::bigint[])) and s.id <> all($5::bigint[]) "
        "order by s.ended_at, s.id limit $3",
        now,
        noticed_before,
        limit,
        list(ids) if ids is not None else None,
        list(leave_out),
    )
    return [Due(**row) for row in rows]


async def closed_segments(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[Due]:
    """Return the closed segments that touch a range."""
    rows = await connection.fetch(
        "select s.id, s.subscription_id, u.account_id, s.started_at, s.ended_at, s.product_id, s.catalogue_version, s.reason "
        "from segment s join subscription u on u.subscription_id = s.subscription_id "
        "where s.subscription_id = $1 and s.closed_at is not null and s.started_at < $3 and s.ended_at > $2 order by s.started_at",
        subscription_id,
        since,
        until,
    )
    return [Due(**row) for row in rows]


async def close(connection: Connection, segment_ids: Sequence[int], *, now: datetime) -> None:
    """Make totals final, and tell the caches so."""
    await connection.execute("update segment set closed_at = $2 where id = any($1::bigint[])", list(segment_ids), now)
    await connection.execute(
        "update subscription set version = nextval('directory_version') "
        "where subscription_id in (select subscription_id from segment where id = any($1::bigint[]))",
        list(segment_ids),
    )
