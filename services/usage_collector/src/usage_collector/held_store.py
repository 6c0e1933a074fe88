"""Held events: reading them, moving them to what they have become, and taking counted ones back to be judged again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from billing_common.db import Connection
from billing_common.events import NIL
from usage_collector import event_store, mark_store
from usage_collector.event_rows import Judged
from usage_collector.event_store import further_meters
from usage_collector.observing import Observation

LOOK_SECONDS = 600
SECOND = timedelta(seconds=1)
PIECE = 20_000  # events that are held again in one statement
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


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """Where the next page of held events begins."""

    sid: str = ""
    day: date = date.min
    id: UUID = NIL


async def held_page(
    connection: Connection, sids: Sequence[str], after: HeldPlace, limit: int
) -> tuple[list[asyncpg.Record], HeldPlace | None]:
    """Return the next held events of some sids, and where the page after them begins; None: it was the last."""
    rows = await connection.fetch(
        "select h.sid as held_sid, h.day as held_day, h.id as held_id, e.* "
        "from (select sid, day, id from held_event where sid = any($1::text[]) and (sid, day, id) > ($2, $3, $4) "
        "order by sid, day, id limit $5) h left join usage_event e on e.day = h.day and e.id = h.id order by 1, 2, 3",
        list(sids),
        after.sid,
        after.day,
        after.id,
        limit,
    )
    following = HeldPlace(rows[-1]["held_sid"], rows[-1]["held_day"], rows[-1]["held_id"]) if len(rows) == limit else None
    return [row for row in rows if row["id"] is not None], following  # days that were dropped leave their names here for a moment


def observation(row: asyncpg.Record) -> Observation:
    """Return a stored event as it was observed."""
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
select n.id from new n where n.outcome <> 'held'
"""  # noqa: S608 - constants only


async def settle(connection: Connection, judged: Sequence[Judged]) -> int:
    """Move held events to what they have become; returns how many are held no longer."""
    columns: list[list[object]] = [
        [o.day for o, _ in judged],
        [o.id for o, _ in judged],
        [v.segment_id for _, v in judged],
        [v.amounts[0][1] if v.amounts else 0 for _, v in judged],
        [v.outcome for _, v in judged],
        [v.amounts[0][0] if v.amounts else None for _, v in judged],
        [v.reason for _, v in judged],
    ]
    marked = [(one, verdict) for one, verdict in judged if verdict.marks]
    if marked:
        await mark_store.lock(connection, marked)
    await event_store.note_late(connection, judged)
    further = further_meters(judged)
    columns += [[row[place] for row in further] for place in range(4)]
    settled = {row["id"] for row in await connection.fetch(SETTLE, *columns)}
    if marked:
        await mark_store.grow(connection, [(one, verdict) for one, verdict in marked if one.id in settled])
    return len(settled)


async def hold_again(connection: Connection, segment_id: int, since: datetime) -> int:
    """Take a segment's events from an instant on out of their windows and hold them, to be judged again. Returns how many.

    Piece by piece: that a plan changed may be learned after an outage in which very many calls were made.
    """
    await connection.execute(f"set local statement_timeout = '{LOOK_SECONDS}s'")  # events have no index by segment
    seconds = await connection.fetch(
        "select date_trunc('second', at, 'UTC') as second, count(*) as events from usage_event where segment_id = $1 and at >= $2 "
        "and day >= $3 and outcome <> 'held' group by 1 order by 1",
        segment_id,
        since,
        since.date(),
        timeout=LOOK_SECONDS,
    )
    held = 0
    for first, last in pieces([(row["second"], row["events"]) for row in seconds]):
        held += await _hold_piece(connection, segment_id, max(since, first), last + SECOND)
    if held:
        await mark_store.forget_from(connection, segment_id, since)
    return held


def pieces(seconds: Iterable[tuple[datetime, int]]) -> list[tuple[datetime, datetime]]:
    """Join seconds, each with its number of events, until a piece has `PIECE` events: first and last second of each."""
    found: list[tuple[datetime, datetime]] = []
    size = 0
    for second, events in seconds:
        if found and size + events <= PIECE:
            found[-1], size = (found[-1][0], second), size + events
        else:
            found.append((second, second))
            size = events
    return found


async def _hold_piece(connection: Connection, segment_id: int, since: datetime, until: datetime) -> int:
    rows = await connection.fetch(
        "update usage_event e set outcome = 'held', reason = 'judged_again', segment_id = null, counted = 0, meter_id = null "
        "from usage_event was where was.day = e.day and was.id = e.id and e.segment_id = $1 and e.at >= $2 and e.at < $3 "
        "and e.day between $4 and $5 and e.outcome <> 'held' "
        "returning e.day, e.id, e.sid, e.at, was.outcome = 'counted' as was_counted, was.meter_id, was.counted",
        segment_id,
        since,
        until,
        since.astimezone(UTC).date(),
        until.astimezone(UTC).date(),
    )
    if not rows:
        return 0
    days, ids = [row["day"] for row in rows], [row["id"] for row in rows]
    await connection.execute(
        "insert into held_event select * from unnest($1::text[], $2::date[], $3::uuid[])", [r["sid"] for r in rows], days, ids
    )
    await take_from_windows(connection, segment_id, rows)
    return len(rows)


async def take_from_windows(connection: Connection, segment_id: int, rows: Sequence[asyncpg.Record]) -> None:
    """Make a segment's windows smaller by what events had counted that count no longer."""
    counted = [row for row in rows if row["was_counted"]]
    await connection.execute(
        "with gone as (delete from usage_event_meter m using unnest($1::date[], $2::uuid[], $3::timestamptz[]) as i(day, id, at) "
        "where m.day = i.day and m.id = i.id returning i.at, m.meter_id, m.counted), "
        "less as (select date_trunc('hour', at, 'UTC') as hour, meter_id, sum(counted) as quantity, count(*) as events from "
        "(select * from gone union all select * from unnest($4::timestamptz[], $5::text[], $6::bigint[])) as x(at, meter_id, counted) "
        "group by 1, 2) update usage_window w set quantity = w.quantity - l.quantity, events = w.events - l.events, "
        "revision = w.revision + 1, dirty = true from less l where w.segment_id = $7 and w.hour = l.hour and w.meter_id = l.meter_id",
        [row["day"] for row in rows],
        [row["id"] for row in rows],
        [row["at"] for row in rows],
        [row["at"] for row in counted],
        [row["meter_id"] for row in counted],
        [row["counted"] for row in counted],
        segment_id,
    )
