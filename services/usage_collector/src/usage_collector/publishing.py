"""What the collector says: running totals of windows, thresholds reached, and the closing of segments."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from billing_common.db import Connection
from billing_common.events import UsageCollected, UsageSegmentClosed, derive_id
from billing_common.outbox import announce_many
from usage_collector import closing_store, day_store, metrics, store, window_store
from usage_collector.closing_store import Due
from usage_collector.directory import Directory
from usage_collector.thresholds import announce_each

WINDOWS_MAX = 1000
SEGMENTS_MAX = 200


async def publish_windows(
    connection: Connection, segment_ids: Sequence[int] | None = None, *, now: datetime, directory: Directory | None = None
) -> int:
    """Add the totals that were not published yet to the outbox, at most 1,000, and the thresholds they reach. Returns how many windows.

    Without a directory there are no thresholds: for windows that only lost usage.
    """
    rows = await window_store.pick_dirty(connection, WINDOWS_MAX, segment_ids)
    await announce_many(
        connection,
        [
            UsageCollected(
                cause_id=f"{_window_id(row['subscription_id'], row['meter_id'], row['segment_start'], row['hour'])}:{row['revision']}",
                occurred_at=now,
                timestamp=max(row["hour"], row["segment_start"], row["stamped_from"] or row["segment_start"]),
                **row,
            )
            for row in rows
        ],
    )
    if directory is not None:
        metrics.THRESHOLDS.inc(await announce_each(connection, directory, rows, now=now))
    metrics.PUBLISHED.inc(len(rows))
    return len(rows)


def _window_id(subscription_id: str, meter_id: str, segment_start: datetime, hour: datetime) -> str:
    return str(derive_id("window", subscription_id, meter_id, segment_start.isoformat(), hour.isoformat()))


async def publish_all_windows(pool: asyncpg.Pool, directory: Directory, *, now: datetime) -> int:
    """Publish what is dirty now, page by page; returns how many windows."""
    total = 0
    while True:
        async with pool.acquire() as connection, connection.transaction():
            published = await publish_windows(connection, now=now, directory=directory)
        total += published
        if published < WINDOWS_MAX:
            return total


async def due_segments(pool: asyncpg.Pool, *, now: datetime, wall: datetime, grace: timedelta, leave_out: Sequence[int] = ()) -> list[Due]:
    """Notice the ends that have come; return the segments whose grace is over."""
    async with pool.acquire() as connection:
        await closing_store.notice_ends(connection, now=now, wall=wall)
        return await closing_store.due_segments(connection, now=now, noticed_before=wall - grace, limit=SEGMENTS_MAX, leave_out=leave_out)


async def close_segments(pool: asyncpg.Pool, directory: Directory, segment_ids: Sequence[int], *, now: datetime) -> int:
    """Publish the last totals of segments and close them. Call it when everything of the streams up to their end was read."""
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        closing = await closing_store.due_segments(connection, now=now, ids=segment_ids)
        while await publish_windows(connection, [segment.id for segment in closing], now=now, directory=directory) == WINDOWS_MAX:
            pass
        await announce_many(connection, await _closings(connection, directory, closing, now))
        await closing_store.close(connection, [segment.id for segment in closing], now=now)
    for segment in closing:
        metrics.CLOSED.labels(segment.reason).inc()
    return len(closing)


async def publish_again(
    pool: asyncpg.Pool, directory: Directory, subscription_id: str, since: datetime, until: datetime, *, now: datetime, closings: bool
) -> tuple[int, int]:
    """Have the totals of a range published once more, as a new revision; with `closings` also say those of its segments again, as of now.

    Who has them already changes nothing. Returns how many of each. A closing says the sum of all windows of its segment, also of those
    outside the range.
    """
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_shared(connection)
        windows = await day_store.mark_windows(connection, subscription_id, since, until)
        closed = await closing_store.closed_segments(connection, subscription_id, since, until) if closings else []
        await announce_many(connection, await _closings(connection, directory, closed, now, again=f":again:{now.isoformat()}"))
    return windows, len(closed)


async def _closings(
    connection: Connection, directory: Directory, segments: Sequence[Due], now: datetime, *, again: str = ""
) -> list[UsageSegmentClosed]:
    totals = await window_store.segment_totals(connection, [segment.id for segment in segments])
    found = []
    for segment in segments:
        rules = await directory.rules_of(connection, (segment.product_id, segment.catalogue_version))
        zeros = dict.fromkeys(rules.meters, 0) if rules else {}
        found.append(_closed(segment, zeros | totals[segment.id], now, again))
    return found


def _closed(segment: Due, totals: dict[str, int], now: datetime, again: str) -> UsageSegmentClosed:
    return UsageSegmentClosed.model_validate(
        {
            "cause_id": f"{segment.subscription_id}:{segment.started_at.isoformat()}:{segment.ended_at.isoformat()}{again}",
            "occurred_at": now,
            "subscription_id": segment.subscription_id,
            "account_id": segment.account_id,
            "segment_start": segment.started_at,
            "segment_end": segment.ended_at,
            "reason": segment.reason,
            "totals": totals,
            "product_id": segment.product_id,
            "catalogue_version": segment.catalogue_version,
        }
    )
