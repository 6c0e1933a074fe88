"""Usage events and windows: every query on them. Sets of rows go in as arrays, one statement for a whole batch."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from billing_common.db import Connection
from billing_common.events import NIL
from usage_collector.metering import Observation, Verdict

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

ADD_DUPLICATES = """
insert into duplicate_count as d (sid, day, origin, events)
select sid, day, origin::usage_origin, events from unnest($1::text[], $2::date[], $3::text[], $4::bigint[]) as i(sid, day, origin, events)
order by 1, 2, 3
on conflict (sid, day, origin) do update set events = d.events + excluded.events
"""

_encode = msgspec.json.encode


async def add_events(connection: Connection, judged: Sequence[Judged]) -> Tally:
    """Add the events that are new, with their windows; returns how many there were of each kind. Ids must differ within one call."""
    rows = await connection.fetch(ADD_EVENTS, *event_columns(judged), *_further_meters(judged))
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


def _further_meters(judged: Sequence[Judged]) -> list[list[object]]:
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


# --- held events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """Where the next page of held events begins."""

    sid: str = ""
    day: date = date.min
    id: UUID = NIL


async def held_page(connection: Connection, sids: Sequence[str], after: HeldPlace, limit: int) -> list[Observation]:
    """Return the next held events of some sids."""
    rows = await connection.fetch(
        "select e.* from (select sid, day, id from held_event where sid = any($1::text[]) and (sid, day, id) > ($2, $3, $4) "
        "order by sid, day, id limit $5) h join usage_event e on e.day = h.day and e.id = h.id order by h.sid, h.day, h.id",
        list(sids),
        after.sid,
        after.day,
        after.id,
        limit,
    )
    return [_observation(row) for row in rows]


def _observation(row: asyncpg.Record) -> Observation:
    return Observation(
        id=row["id"],
        day=row["day"],
        at=row["at"],
        origin=row["origin"],
        source=row["source"],
        external_id=row["external_id"],
        sid=row["sid"],
        quantity=row["quantity"],
        status=row["status"],
        method=row["method"],
        template=row["template"],
        stated_meter=row["stated_meter"],
        properties=msgspec.json.decode(row["properties"]) if row["properties"] else None,
    )


SETTLE = f"""
with verdict as materialized (
    select * from unnest($1::date[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[])
        as v(day, id, segment_id, counted, outcome, meter_id, reason)
), new as (
    update usage_event e set segment_id = v.segment_id, counted = v.counted, outcome = v.outcome::usage_outcome,
        meter_id = v.meter_id, reason = v.reason
    from verdict v where e.day = v.day and e.id = v.id and e.outcome = 'held'
    returning e.day, e.id, e.at, e.segment_id, e.meter_id, e.counted, e.outcome, e.origin, e.sid
), more as (
    insert into usage_event_meter (day, id, meter_id, counted)
    select m.day, m.id, m.meter_id, m.counted
    from unnest($8::date[], $9::uuid[], $10::text[], $11::bigint[]) as m(day, id, meter_id, counted)
    join new on new.id = m.id and new.day = m.day
    returning day, id, meter_id, counted
), gone as (
    delete from held_event h using new n where n.outcome <> 'held' and h.sid = n.sid and h.day = n.day and h.id = n.id
), added as ({ADD_TO_WINDOWS})
select count(*) filter (where n.outcome <> 'held') from new n
"""  # noqa: S608 - constants only


async def settle(connection: Connection, judged: Sequence[Judged]) -> int:
    """Move held events to what they have become; returns how many are held no longer."""
    columns = [
        [o.day for o, _ in judged],
        [o.id for o, _ in judged],
        [v.segment_id for _, v in judged],
        [v.amounts[0][1] if v.amounts else 0 for _, v in judged],
        [v.outcome for _, v in judged],
        [v.amounts[0][0] if v.amounts else None for _, v in judged],
        [v.reason for _, v in judged],
    ]
    return int(await connection.fetchval(SETTLE, *columns, *_further_meters(judged)) or 0)


async def hold_again(connection: Connection, segment_id: int, since: datetime) -> int:
    """Take a segment's events from an instant on out of their windows and hold them, to be judged again. Returns how many."""
    rows = await connection.fetch(
        "update usage_event e set outcome = 'held', reason = 'judged_again', segment_id = null, counted = 0, meter_id = null "
        "from usage_event was where was.day = e.day and was.id = e.id and e.segment_id = $1 and e.at >= $2 and e.day >= $3 "
        "and e.outcome <> 'held' returning e.day, e.id, e.sid, e.at, was.outcome = 'counted' as was_counted, was.meter_id, was.counted",
        segment_id,
        since,
        since.date(),
    )
    if not rows:
        return 0
    days, ids = [row["day"] for row in rows], [row["id"] for row in rows]
    await connection.execute(
        "insert into held_event select * from unnest($1::text[], $2::date[], $3::uuid[])", [r["sid"] for r in rows], days, ids
    )
    counted = [row for row in rows if row["was_counted"]]
    await connection.execute(
        "with gone as (delete from usage_event_meter m using unnest($1::date[], $2::uuid[], $3::timestamptz[]) as i(day, id, at) "
        "where m.day = i.day and m.id = i.id returning i.at, m.meter_id, m.counted), "
        "less as (select date_trunc('hour', at, 'UTC') as hour, meter_id, sum(counted) as quantity, count(*) as events from "
        "(select * from gone union all select * from unnest($4::timestamptz[], $5::text[], $6::bigint[])) as x(at, meter_id, counted) "
        "group by 1, 2) update usage_window w set quantity = w.quantity - l.quantity, events = w.events - l.events, "
        "revision = w.revision + 1, dirty = true from less l where w.segment_id = $7 and w.hour = l.hour and w.meter_id = l.meter_id",
        days,
        ids,
        [row["at"] for row in rows],
        [row["at"] for row in counted],
        [row["meter_id"] for row in counted],
        [row["counted"] for row in counted],
        segment_id,
    )
    return len(rows)
