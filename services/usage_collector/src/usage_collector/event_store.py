"""Adding usage events with their windows: every query on that. A batch is looked up, copied and added up, each in one statement."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import chain
from uuid import UUID

from billing_common.db import Connection
from usage_collector import mark_store
from usage_collector.event_rows import COLUMNS, Judged, copy_of
from usage_collector.observing import Observation
from usage_collector.store import meter_partition_of, partition_of

Tally = dict[tuple[str, str, str], int]  # (origin, outcome, reason or "") -> events
Windows = dict[tuple[int | None, str, int], tuple[int, int]]  # (segment id, meter id, hour since 1970) -> (quantity, events)
NOTHING = (0, 0)
EPOCH = date(1970, 1, 1).toordinal()

KNOWN = "select id from usage_event where day = $1 and id = any($2::uuid[])"

ADD_WINDOWS = """
insert into usage_window as w (segment_id, meter_id, hour, quantity, events, revision, dirty)
select segment_id, meter_id, to_timestamp(hour * 3600), quantity, events, 1, true
from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) as i(segment_id, meter_id, hour, quantity, events)
order by 1, 2, 3
on conflict (segment_id, meter_id, hour) do update
set quantity = w.quantity + excluded.quantity, events = w.events + excluded.events, revision = w.revision + 1, dirty = true
"""

ADD_DUPLICATES = """
insert into duplicate_count as d (sid, day, origin, events)
select sid, day, origin::usage_origin, events from unnest($1::text[], $2::date[], $3::text[], $4::bigint[]) as i(sid, day, origin, events)
order by 1, 2, 3
on conflict (sid, day, origin) do update set events = d.events + excluded.events
"""


async def add_events(connection: Connection, judged: Sequence[Judged], repeated: Iterable[Observation] = ()) -> Tally:
    """Add the events that are new, with their windows; returns how many there were of each kind. Ids must differ within one call.

    `repeated` are further deliveries of the same events, only to be counted.
    Everybody locks in one order: states of meters, events, windows, counts of duplicates.
    Raises asyncpg.UniqueViolationError when another transaction adds the same event at the same time: then all of it is to be tried again.
    """
    if any(verdict.marks for _, verdict in judged):
        await mark_store.lock(connection, [pair for pair in judged if pair[1].marks])
    known = await _known(connection, judged)
    fresh = [pair for pair in judged if pair[0].id not in known] if known else judged
    for day, of_day in sorted(_by_day(fresh).items()):  # into its partition: to be sent there row by row costs Postgres a tenth more
        await connection.copy_to_table(partition_of(day), source=copy_of(of_day), columns=COLUMNS, format="binary")
    tally, windows = add_up(fresh)
    await _add_further_meters(connection, fresh)
    if held := [pair for pair in fresh if pair[1].outcome == "held"]:
        await _hold(connection, [one for one, _ in held])
        await note_late(connection, held)
    await _add_to_windows(connection, windows)
    if marked := [pair for pair in fresh if pair[1].marks]:
        await mark_store.grow(connection, marked)
    await _count_duplicates(connection, chain(repeated, (one for one, _ in judged if one.id in known) if known else ()))
    return tally


async def _known(connection: Connection, judged: Sequence[Judged]) -> set[UUID]:
    """Return the ids that are stored already. Day by day: each look-up then goes to one partition."""
    found: set[UUID] = set()
    for day, of_day in _by_day(judged).items():
        found.update(row[0] for row in await connection.fetch(KNOWN, day, [one.id for one, _ in of_day]))
    return found


def _by_day(judged: Sequence[Judged]) -> dict[date, list[Judged]]:
    days: dict[date, list[Judged]] = {}
    for pair in judged:
        days.setdefault(pair[0].day, []).append(pair)
    return days


def add_up(fresh: Iterable[Judged]) -> tuple[Tally, Windows]:
    """Return how many events there are of each kind, and what they add to which window."""
    tally: Tally = {}
    windows: Windows = {}
    for one, verdict in fresh:
        kind = one.origin, verdict.outcome, verdict.reason or ""
        tally[kind] = tally.get(kind, 0) + 1
        if verdict.outcome != "counted":
            continue
        hour = (one.day.toordinal() - EPOCH) * 24 + one.at.hour
        for meter_id, amount in verdict.amounts:
            key = verdict.segment_id, meter_id, hour
            quantity, events = windows.get(key, NOTHING)
            windows[key] = quantity + amount, events + 1
    return tally, windows


async def _add_further_meters(connection: Connection, fresh: Sequence[Judged]) -> None:
    for day, of_day in sorted(_by_day([pair for pair in fresh if len(pair[1].amounts) > 1]).items()):
        rows = further_meters(of_day)
        await connection.copy_records_to_table(meter_partition_of(day), records=rows, columns=("day", "id", "meter_id", "counted"))


async def _hold(connection: Connection, held: Sequence[Observation]) -> None:
    await connection.execute(
        "insert into held_event (sid, day, id) select * from unnest($1::text[], $2::date[], $3::uuid[])",
        [one.sid for one in held],
        [one.day for one in held],
        [one.id for one in held],
    )


async def note_late(connection: Connection, judged: Iterable[Judged]) -> None:
    """Have the closed segments looked at for which events came late."""
    if segments := {verdict.segment_id for _, verdict in judged if verdict.reason == "late"}:
        await connection.execute(
            "insert into late_segment as l (segment_id) select * from unnest($1::bigint[]) order by 1 "
            "on conflict (segment_id) do update set pending = true, noted = l.noted + 1",
            list(segments),
        )


async def _add_to_windows(connection: Connection, windows: Windows) -> None:
    if windows:
        await connection.execute(
            ADD_WINDOWS,
            [segment_id for segment_id, *_ in windows],
            [meter_id for _, meter_id, _ in windows],
            [hour for *_, hour in windows],
            [quantity for quantity, _ in windows.values()],
            [events for _, events in windows.values()],
        )


def further_meters(judged: Iterable[Judged]) -> list[tuple[date, UUID, str, int]]:
    """Return day, id, meter and amount of the meters beyond the first."""
    return [(o.day, o.id, meter_id, amount) for o, v in judged if len(v.amounts) > 1 for meter_id, amount in v.amounts[1:]]


async def _count_duplicates(connection: Connection, seen: Iterable[Observation]) -> None:
    counts = Counter((o.sid, o.day, o.origin) for o in seen)
    if counts:
        sids, days, origins = zip(*counts, strict=True)
        await connection.execute(ADD_DUPLICATES, list(sids), list(days), list(origins), list(counts.values()))
