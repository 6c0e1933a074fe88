"""What all of the collector stands on: locks, the days that are kept, and events whose time is not taken."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import asyncpg

from billing_common.db import Connection
from usage_collector import mark_store
from usage_collector.forgetting import delete_in_pages
from usage_collector.observing import Observation

Reader = Connection | asyncpg.Pool  # for a single query that needs no transaction
ORDER_LOCK = "usage_collector.order"  # shared: adding events; exclusive: moving or closing segments
PARTITION_LOCK = "usage_collector.partitions"
DAY = timedelta(days=1)
FORGOTTEN = {
    "held_event": "day",
    "duplicate_count": "day",
    "refused_event": "received_at",
    "report_bucket": "bucket",
    "threshold_reached": "period_start",
    "threshold_again": "hour",
    "ingest_refusal": "last_at",
    "late_usage": "hour",
}


async def lock_shared(connection: Connection) -> None:
    """Keep segments as they are until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock_shared(hashtext($1))", ORDER_LOCK)


async def lock_exclusive(connection: Connection) -> None:
    """Wait for the batches that are being added and keep further ones waiting until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtext($1))", ORDER_LOCK)


# --- partitions ------------------------------------------------------------------------------------------------------------


async def partition_days(connection: Connection) -> set[date]:
    """Return the days that have a partition."""
    names = await connection.fetch("select inhrelid::regclass::text as name from pg_inherits where inhparent = 'usage_event'::regclass")
    return {date.fromisoformat(row["name"].rsplit("_", 1)[-1]) for row in names}


def partition_of(day: date) -> str:
    return f"usage_event_{_name(day)}"


def meter_partition_of(day: date) -> str:
    """Name the partition of the further meters of a day's events."""
    return f"usage_event_meter_{_name(day)}"


def _name(day: date) -> str:
    return day.isoformat().replace("-", "")  # strftime leaves out the first digits of early years


async def add_partition(connection: Connection, day: date) -> None:
    """Make the partition of a day; harmless when it is there."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PARTITION_LOCK)
        for name, parent in ((meter_partition_of(day), "usage_event_meter"), (partition_of(day), "usage_event")):
            await connection.execute(
                f"create table if not exists {name} partition of {parent} for values from ('{day}') to ('{day + DAY}')"
            )


async def forget_before(connection: Connection, day: date) -> int:
    """Drop what is older than the retention; returns how many days went."""
    old = sorted(known for known in await partition_days(connection) if known < day)
    for gone in old:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PARTITION_LOCK)
            await connection.execute(f"drop table if exists {partition_of(gone)}, {meter_partition_of(gone)}")
    for table, column in FORGOTTEN.items():
        await delete_in_pages(connection, table, f"select ctid from {table} where {column} < $1::date", day)  # noqa: S608 - constants
    late = "select l.ctid from late_segment l join segment s on s.id = l.segment_id where s.closed_at < $1::date"
    await delete_in_pages(connection, "late_segment", late, day)
    await mark_store.forget_before(connection, day)
    return len(old)


async def refuse(connection: Connection, refused: Sequence[tuple[Observation, str]], *, now: datetime) -> int:
    """Keep events whose time is not taken; returns how many were new."""
    tag = await connection.execute(
        "insert into refused_event (id, at, origin, source, external_id, sid, reason, received_at) "
        "select id, at, origin::usage_origin, source, external_id, sid, reason, $8 "
        "from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) "
        "as i(id, at, origin, source, external_id, sid, reason) order by id on conflict do nothing",
        [o.id for o, _ in refused],
        [o.at for o, _ in refused],
        [o.origin for o, _ in refused],
        [o.source for o, _ in refused],
        [o.external_id for o, _ in refused],
        [o.sid for o, _ in refused],
        [reason for _, reason in refused],
        now,
    )
    return int(tag.split()[-1])
