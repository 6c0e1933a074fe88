"""Usage events and windows: every query on them. Sets of rows go in as arrays, one statement for a whole batch."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

import asyncpg
import msgspec

from billing_common.db import Connection
from usage_collector import mark_store
from usage_collector.metering import Verdict
from usage_collector.observing import Observation

Reader = Connection | asyncpg.Pool  # for a single query that needs no transaction
Judged = tuple[Observation, Verdict]
Tally = dict[tuple[str, str, str], int]  # (origin, outcome, reason or "") -> events
ORDER_LOCK = "usage_collector.order"  # shared: adding events; exclusive: moving or closing segments
PARTITION_LOCK = "usage_collector.partitions"
DAY = timedelta(days=1)
FORGOTTEN = {"refused_event": "received_at", "report_bucket": "bucket", "threshold_reached": "period_start", "ingest_refusal": "last_at"}


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


async def add_partition(connection: Connection, day: date) -> None:
    """Make the partition of a day; harmless when it is there."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PARTITION_LOCK)
        await connection.execute(
            f"create table if not exists usage_event_{day:%Y%m%d} partition of usage_event for values from ('{day}') to ('{day + DAY}')"
        )


async def forget_before(connection: Connection, day: date) -> int:
    """Drop what is older than the retention; returns how many days went."""
    old = sorted(known for known in await partition_days(connection) if known < day)
    for gone in old:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PARTITION_LOCK)
            await connection.execute(f"drop table if exists usage_event_{gone:%Y%m%d}")
    for table in ("usage_event_meter", "held_event", "duplicate_count"):
        await connection.execute(f"delete from {table} where day < $1", day)  # noqa: S608 - a constant
    for table, column in FORGOTTEN.items():
        await connection.execute(f"delete from {table} where {column} < $1::date", day)  # noqa: S608 - constants
    await mark_store.forget_before(connection, day)
    return len(old)


# --- events in -------------------------------------------------------------------------------------------------------------

# The windows of what `new` counted; `more` holds the further meters of events that have several.
ADD_TO_WINDOWS = """
    insert into usage_window as w (segment_id, meter_id, hour, quantity, events, revision, dirty)
    select segment_id, meter_id, date_trunc('hour', at, 'UTC'), sum(counted), count(*), 1, true from (
        select segment_id, meter_id, at, counted from new where outcome = 'counted'
        union all
        select n.segment_id, m.meter_id, n.at, m.counted from more m join new n on n.id = m.id and n.day = m.day
    ) as added group by 1, 2, 3 order by 1, 2, 3
    on conflict (segment_id, meter_id, hour) do update
    set quantity = w.quantity + excluded.quantity, events = w.events + excluded.events, revision = w.revision + 1, dirty = true
"""

ADD_EVENTS = f"""
with input as materialized (
    select day, id, at, segment_id, counted, quantity, status, outcome::usage_outcome, origin::usage_origin, source, external_id, sid,
        method, template, stated_meter, meter_id, reason, properties
    from unnest($1::date[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[], $8::text[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
        as i(day, id, at, segment_id, counted, quantity, status, outcome, origin, source, external_id, sid,
            method, template, stated_meter, meter_id, reason, properties)
), new as (
    insert into usage_event (day, id, at, segment_id, counted, quantity, status, outcome, origin, source, external_id, sid,
        method, template, stated_meter, meter_id, reason, properties)
    select * from input order by id on conflict do nothing
    returning day, id, at, segment_id, meter_id, counted, outcome, origin, sid, reason
), more as (
    insert into usage_event_meter (day, id, meter_id, counted)
    select m.day, m.id, m.meter_id, m.counted
    from unnest($19::date[], $20::uuid[], $21::text[], $22::bigint[]) as m(day, id, meter_id, counted)
    join new on new.id = m.id and new.day = m.day
    returning day, id, meter_id, counted
), held as (
    insert into held_event (sid, day, id) select sid, day, id from new where outcome = 'held'
), repeated as (
    insert into duplicate_count as d (sid, day, origin, events)
    select i.sid, i.day, i.origin, count(*) from input i left join new n on n.id = i.id where n.id is null group by 1, 2, 3 order by 1, 2, 3
    on conflict (sid, day, origin) do update set events = d.events + excluded.events
), added as ({ADD_TO_WINDOWS})
select n.origin::text, n.outcome::text, coalesce(n.reason, '') as reason, count(*) as events from new n group by 1, 2, 3
"""  # noqa: S608 - constants only
ADD_EVENTS_AND_SAY_WHICH = ADD_EVENTS.replace("count(*) as events from new n", "count(*) as events, array_agg(n.id) as ids from new n")

ADD_DUPLICATES = """
insert into duplicate_count as d (sid, day, origin, events)
select sid, day, origin::usage_origin, events from unnest($1::text[], $2::date[], $3::text[], $4::bigint[]) as i(sid, day, origin, events)
order by 1, 2, 3
on conflict (sid, day, origin) do update set events = d.events + excluded.events
"""

_encode = msgspec.json.encode


async def add_events(connection: Connection, judged: Sequence[Judged]) -> Tally:
    """Add the events that are new, with their windows; returns how many there were of each kind. Ids must differ within one call."""
    marked = [(one, verdict) for one, verdict in judged if verdict.marks]
    columns = [*event_columns(judged), *further_meters(judged)]
    if not marked:
        rows = await connection.fetch(ADD_EVENTS, *columns)
    else:
        await mark_store.lock(connection, marked)
        rows = await connection.fetch(ADD_EVENTS_AND_SAY_WHICH, *columns)
        new = {event_id for row in rows for event_id in row["ids"]}
        await mark_store.grow(connection, [(one, verdict) for one, verdict in marked if one.id in new])
    return {(row["origin"], row["outcome"], row["reason"]): row["events"] for row in rows}


def event_columns(judged: Sequence[Judged]) -> list[list[object]]:
    columns = zip(
        *[
            (
                o.day,
                o.id,
                o.at,
                v.segment_id,
                v.amounts[0][1] if v.amounts else 0,
                o.quantity,
                o.status,
                v.outcome,
                o.origin,
                o.source,
                o.external_id,
                o.sid,
                o.method,
                o.template,
                o.stated_meter,
                v.amounts[0][0] if v.amounts else None,
                v.reason,
                _encode(o.properties).decode() if o.properties else None,
            )
            for o, v in judged
        ],
        strict=True,
    )
    return [list(column) for column in columns]


def further_meters(judged: Sequence[Judged]) -> list[list[object]]:
    """Return day, id, meter and amount of the meters beyond the first, as columns."""
    rows = [(o.day, o.id, meter_id, amount) for o, v in judged if len(v.amounts) > 1 for meter_id, amount in v.amounts[1:]]
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]


async def count_duplicates(connection: Connection, seen: Iterable[Observation]) -> int:
    """Add to the count of repeated deliveries; returns how many these were."""
    counts = Counter((o.sid, o.day, o.origin) for o in seen)
    if counts:
        sids, days, origins = zip(*counts, strict=True)
        await connection.execute(ADD_DUPLICATES, list(sids), list(days), list(origins), list(counts.values()))
    return counts.total()


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
