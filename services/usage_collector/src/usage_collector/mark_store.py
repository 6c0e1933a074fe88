"""Marks of meters with state: every query on them. All of it runs in the transaction that adds or settles the events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from billing_common.db import Connection
from usage_collector import rollup_store
from usage_collector.forgetting import delete_in_pages
from usage_collector.marks import Place, Stated, see_heights, see_values
from usage_collector.metering import Mark, Verdict
from usage_collector.observing import Observation


@dataclass(frozen=True, slots=True, order=True)
class State:
    """One meter in one period of a segment."""

    segment_id: int
    meter_id: str
    period_start: datetime


Marked = Sequence[tuple[Observation, Verdict]]  # counted events that have marks
Growth = dict[tuple[State, Place], int]


async def lock(connection: Connection, marked: Marked) -> None:
    """Let nobody else change the states these events belong to. Before the events are added: all batches lock in this order."""
    await _lock(connection, {_state(verdict, mark) for _, verdict in marked for mark in verdict.marks})


async def _lock(connection: Connection, states: Iterable[State]) -> None:
    columns = _columns(((state.segment_id, state.meter_id, state.period_start) for state in sorted(states)), 3)
    await connection.execute(
        "insert into meter_state select * from unnest($1::bigint[], $2::text[], $3::timestamptz[]) order by 1, 2, 3 on conflict do nothing",
        *columns,
    )
    await connection.execute(
        "select from meter_state m join unnest($1::bigint[], $2::text[], $3::timestamptz[]) as i(segment_id, meter_id, period_start) "
        "using (segment_id, meter_id, period_start) order by segment_id, meter_id, period_start for update of m",
        *columns,
    )


async def grow(connection: Connection, marked: Marked) -> None:
    """Let the events that were just added move the growth of their states: into windows and into what each event counted."""
    values: dict[State, list[Stated[UUID]]] = {}
    heights: dict[State, list[Stated[int]]] = {}
    for seen, verdict in marked:
        for mark in verdict.marks:
            place, state = Place(seen.at, seen.id), _state(verdict, mark)
            if isinstance(mark.value, int):
                heights.setdefault(state, []).append(Stated(place, mark.value))
            else:
                values.setdefault(state, []).append(Stated(place, mark.value))
    growth = await _see_values(connection, values) if values else {}
    for state in sorted(heights):
        growth |= await _see_heights(connection, state, heights[state])
    if growth:
        await _write(connection, growth)


def _state(verdict: Verdict, mark: Mark) -> State:
    assert verdict.segment_id is not None  # an event with marks is counted
    return State(verdict.segment_id, mark.meter_id, mark.period_start)


async def _see_values(connection: Connection, stated: Mapping[State, Sequence[Stated[UUID]]]) -> Growth:
    asked = [(s.segment_id, s.meter_id, s.period_start, value) for s, all_of in stated.items() for value in {one.value for one in all_of}]
    rows = await connection.fetch(
        "select u.* from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::uuid[]) as i(segment_id, meter_id, period_start, value) "
        "join unique_value u using (segment_id, meter_id, period_start, value)",
        *_columns(asked, 4),
    )
    known: dict[State, dict[UUID, Place]] = {}
    for row in rows:
        known.setdefault(_of_row(row), {})[row["value"]] = Place(row["at"], row["id"])
    growth: Growth = {}
    moved = []
    for state, all_of in stated.items():
        firsts = see_values(known.get(state, {}), all_of)
        growth |= {(state, place): change for place, change in firsts.growth.items()}
        moved += [(state.segment_id, state.meter_id, state.period_start, value, p.at, p.id) for value, p in firsts.moved.items()]
    await connection.execute(
        "insert into unique_value select * from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::uuid[], $5::timestamptz[], "
        "$6::uuid[]) on conflict (segment_id, meter_id, period_start, value) do update set at = excluded.at, id = excluded.id",
        *_columns(moved, 6),
    )
    return growth


async def _see_heights(connection: Connection, state: State, stated: Sequence[Stated[int]]) -> Growth:
    key = (state.segment_id, state.meter_id, state.period_start)
    first = min(one.place for one in stated)
    of_state = "from max_record where segment_id = $1 and meter_id = $2 and period_start = $3"
    base = await connection.fetchval(
        f"select value {of_state} and (at, id) < ($4, $5) order by at desc, id desc limit 1",
        *key,
        first.at,
        first.id,
    )
    rows = await connection.fetch(f"select * {of_state} and (at, id) >= ($4, $5)", *key, first.at, first.id)
    records = see_heights(base or 0, [Stated(Place(row["at"], row["id"]), row["value"]) for row in rows], stated)
    await connection.executemany(
        "delete from max_record where segment_id = $1 and meter_id = $2 and period_start = $3 and at = $4 and id = $5",
        [(*key, one.place.at, one.place.id) for one in records.removed],
    )
    await connection.executemany(
        "insert into max_record (segment_id, meter_id, period_start, at, id, value) values ($1, $2, $3, $4, $5, $6)",
        [(*key, one.place.at, one.place.id, one.value) for one in records.added],
    )
    return {(state, place): change for place, change in records.growth.items()}


async def grow_late(
    connection: Connection, segment_id: int, stated: Sequence[tuple[Observation, tuple[Mark, ...]]]
) -> dict[tuple[UUID, str], int]:
    """Return (event, meter) -> growth in a closed segment, whose windows stand: a value counts if it is new, a height if it is the highest.

    In the order in which the events are given: nothing that was counted before moves to them.
    """
    states = {State(segment_id, mark.meter_id, mark.period_start) for _, marks in stated for mark in marks}
    await _lock(connection, states)
    growth: dict[tuple[UUID, str], int] = {}
    for seen, marks in stated:
        for mark in marks:
            key = (segment_id, mark.meter_id, mark.period_start)
            add = _add_value if isinstance(mark.value, UUID) else _add_height
            growth[seen.id, mark.meter_id] = await add(connection, key, seen, mark.value)
    return growth


async def _add_value(connection: Connection, key: tuple[int, str, datetime], seen: Observation, value: Any) -> int:
    tag = await connection.execute(
        "insert into unique_value (segment_id, meter_id, period_start, value, at, id) values ($1, $2, $3, $4, $5, $6) "
        "on conflict do nothing",
        *key,
        value,
        seen.at,
        seen.id,
    )
    return int(tag.split()[-1])


async def _add_height(connection: Connection, key: tuple[int, str, datetime], seen: Observation, value: Any) -> int:
    highest: int | None = await connection.fetchval(
        "select max(value) from max_record where segment_id = $1 and meter_id = $2 and period_start = $3", *key
    )
    rise: int = max(0, value - (highest or 0))
    if rise:
        await connection.execute(
            "insert into max_record (segment_id, meter_id, period_start, at, id, value) values ($1, $2, $3, $4, $5, $6)",
            *key,
            seen.at,
            seen.id,
            value,
        )
    return rise


WRITE_GROWTH = """
with growth as materialized (
    select * from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::date[], $5::uuid[], $6::bigint[])
        as g(segment_id, meter_id, at, day, id, change)
), first_meter as (
    update usage_event e set counted = e.counted + g.change from growth g where e.day = g.day and e.id = g.id and e.meter_id = g.meter_id
), further_meter as (
    update usage_event_meter m set counted = m.counted + g.change from growth g
    where m.day = g.day and m.id = g.id and m.meter_id = g.meter_id
)
update usage_window w set quantity = w.quantity + h.change, revision = w.revision + 1, dirty = true
from (select segment_id, meter_id, date_trunc('hour', at, 'UTC') as hour, sum(change) as change from growth group by 1, 2, 3) h
where w.segment_id = h.segment_id and w.meter_id = h.meter_id and w.hour = h.hour and h.change <> 0
"""


async def _write(connection: Connection, growth: Growth) -> None:
    rows = [(s.segment_id, s.meter_id, p.at, _day(p.at), p.id, change) for (s, p), change in growth.items()]
    await connection.execute(WRITE_GROWTH, *_columns(rows, 6))
    await rollup_store.mark_all(connection, [place.at for _, place in growth])


async def forget_from(connection: Connection, segment_id: int, since: datetime) -> None:
    """Forget what the events of a segment from an instant on have stated: they were taken out, with all growth that stands at them."""
    for table in ("unique_value", "max_record"):
        await connection.execute(f"delete from {table} where segment_id = $1 and at >= $2", segment_id, since)  # noqa: S608 - constants


async def forget_before(connection: Connection, day: date) -> None:
    """Forget the states of periods whose events are no longer kept; a period that is still open keeps its state, however old."""
    for table in ("unique_value", "max_record", "meter_state"):
        await delete_in_pages(
            connection,
            table,
            f"select x.ctid from {table} x join segment s on s.id = x.segment_id where s.closed_at < $1::date "  # noqa: S608 - constants
            "or (s.ended_at is null and x.period_start < $1::date - interval '1 month')",
            day,
        )


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _of_row(row: Any) -> State:
    return State(row["segment_id"], row["meter_id"], row["period_start"])


def _columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    found = [list(column) for column in zip(*rows, strict=True)]
    return found or [[] for _ in range(width)]
