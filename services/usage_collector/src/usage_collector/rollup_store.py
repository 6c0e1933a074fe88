"""Events added up by hour: kept by a background loop, read together with the events of hours that have changed since."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import asyncpg

from billing_common.db import Connection
from usage_collector.forgetting import delete_in_pages
from usage_collector.observing import Observation

Reader = Connection | asyncpg.Pool
HOUR = timedelta(hours=1)
NOWHERE = datetime.min.replace(tzinfo=UTC)  # of events without a segment
RAW_LIMIT = "1500ms"  # for events of hours that are not rolled up: beyond, the answer says how far it goes
Dimension = Literal["hour", "day", "endpoint", "status", "outcome", "segment", "key", "origin"]
COLUMNS: dict[Dimension, tuple[str, ...]] = {
    "hour": ("hour",),
    "day": ("day",),
    "endpoint": ("origin", "method", "template"),
    "status": ("status",),
    "outcome": ("outcome", "reason"),
    "segment": ("segment_start",),
    "key": ("sid",),
    "origin": ("origin",),
}

GROUPED = """
    select hour, sid, segment_id, origin, outcome, reason, method, template, status, meter_id, is_further,
        count(*) as events, sum(quantity)::bigint as quantity from (
        select date_trunc('hour', at, 'UTC') as hour, sid, segment_id, origin, outcome, coalesce(reason, '') as reason,
            coalesce(method, '') as method, coalesce(template, '') as template, coalesce(status, 0)::smallint as status,
            coalesce(meter_id, '') as meter_id, false as is_further, counted as quantity
        from usage_event where {where}
        union all
        select date_trunc('hour', e.at, 'UTC'), e.sid, e.segment_id, e.origin, e.outcome, coalesce(e.reason, ''), coalesce(e.method, ''),
            coalesce(e.template, ''), coalesce(e.status, 0)::smallint, m.meter_id, true, m.counted
        from usage_event_meter m join usage_event e on e.day = m.day and e.id = m.id where {further}
    ) as seen group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
"""
WHOLE_HOUR = GROUPED.format(where="day = $1 and at >= $2 and at < $3", further="m.day = $1 and e.day = $1 and e.at >= $2 and e.at < $3")
OF_KEYS = GROUPED.format(
    where="day between $1 and $2 and at >= $3 and at < $4 and sid = any($5::text[])",
    further="m.day between $1 and $2 and e.day between $1 and $2 and e.at >= $3 and e.at < $4 and e.sid = any($5::text[])",
)
ADD_HOUR, ADD_HOUR_OF_KEYS = (
    "insert into usage_rollup (hour, sid, segment_id, origin, outcome, reason, method, template, status, meter_id, is_further, "
    f"events, quantity) {found}"
    for found in (WHOLE_HOUR, OF_KEYS)
)
# A large hour takes minutes, in the background. The planner thinks its groups many and would sort all events: three times as long.
ROLL_UP_SECONDS = 1800
ROLL_UP_SETTINGS = f"set local statement_timeout = '{ROLL_UP_SECONDS}s'; set local work_mem = '64MB'; set local enable_sort = off"
FEW = 20  # keys that are named in a mark of the newest hour of a batch, which will be added up as a whole in any case
NAMED_MAX = 1000  # keys that are named in a mark of an hour before
ROLLED_APART = 5000  # keys of an hour that are added up apart; more: all of it


def hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


async def mark(connection: Connection, seen: Sequence[Observation]) -> None:
    """Say, in the transaction that changed events, in which hours and of which keys: once over, an hour is added up for those alone."""
    hours: dict[datetime, set[str]] = {}
    first, last = hour_of(min(one.at for one in seen)), hour_of(max(one.at for one in seen))
    if first == last:
        hours[first] = {one.sid for one in seen}
    else:
        for one in seen:
            hours.setdefault(hour_of(one.at), set()).add(one.sid)
    marks = [(hour, sorted(sids) if len(sids) <= (NAMED_MAX if hour < last else FEW) else None) for hour, sids in sorted(hours.items())]
    await connection.executemany("insert into changed_hour (hour, sids) values ($1, $2)", marks)


async def mark_all(connection: Connection, times: Iterable[datetime]) -> None:
    """The same, where it is not known of which keys."""
    hours = sorted({hour_of(at) for at in times})
    await connection.execute("insert into changed_hour (hour) select unnest($1::timestamptz[])", hours)


async def mark_segment(connection: Connection, segment_id: int, since: datetime) -> None:
    """Say that a segment's events from an instant on are judged again."""
    await connection.execute(
        "insert into changed_hour (hour, sids) select hour, array(select s.subscription_id union select sid from subscription_key k "
        "where k.subscription_id = s.subscription_id) from segment s join (select distinct segment_id, hour from usage_window "
        "where segment_id = $1 and hour >= $2) w on w.segment_id = s.id",
        segment_id,
        hour_of(since),
    )


async def due_hours(connection: Reader, *, after: datetime | None, before: datetime, limit: int) -> list[datetime]:
    """Return changed hours behind one that were over before a time, the oldest first."""
    rows = await connection.fetch(
        "select hour from changed_hour where hour <= $1 and ($3::timestamptz is null or hour > $3) group by hour order by hour limit $2",
        before - HOUR,
        limit,
        after,
    )
    return [row["hour"] for row in rows]


async def count_due(connection: Reader, *, before: datetime) -> int:
    return int(await connection.fetchval("select count(distinct hour) from changed_hour where hour <= $1", before - HOUR))


async def roll_up(connection: Connection, hour: datetime) -> bool:
    """Add an hour up again, in the caller's transaction; False when another process does. What changes meanwhile stays marked."""
    if not await connection.fetchval(
        "select pg_try_advisory_xact_lock(hashtext('usage_collector.rollup'), hashtext($1))", hour.isoformat()
    ):
        return False
    await connection.execute(ROLL_UP_SETTINGS)
    marks = await connection.fetch("select number, sids from changed_hour where hour = $1", hour)
    named = {sid for row in marks for sid in row["sids"] or ()}
    if len(named) > ROLLED_APART or any(row["sids"] is None for row in marks):
        await connection.execute("delete from usage_rollup where hour = $1", hour, timeout=ROLL_UP_SECONDS)
        await connection.execute(ADD_HOUR, hour.astimezone(UTC).date(), hour, hour + HOUR, timeout=ROLL_UP_SECONDS)
    else:
        day = hour.astimezone(UTC).date()
        await connection.execute("delete from usage_rollup where hour = $1 and sid = any($2::text[])", hour, list(named))
        await connection.execute(ADD_HOUR_OF_KEYS, day, day, hour, hour + HOUR, list(named), timeout=ROLL_UP_SECONDS)
    await connection.execute("delete from changed_hour where number = any($1::bigint[])", [row["number"] for row in marks])
    return True


async def forget_before(connection: Connection, moment: datetime) -> None:
    for table in ("usage_rollup", "changed_hour"):
        await delete_in_pages(connection, table, f"select ctid from {table} where hour < $1", moment)  # noqa: S608 - constants


@dataclass(frozen=True)
class Split:
    """Sums by the dimensions that were asked for and by meter: `events` that count for it (of several meters: in each), `distinct` ones.

    `complete_until` None: all of the range is in it, but for the hours that were left out because they are not rolled up.
    """

    rows: list[dict[str, Any]]
    complete_until: datetime | None
    left_out: list[datetime] = field(default_factory=list)


class _Sums:
    """Adds rows up by the dimensions that were asked for."""

    def __init__(self, by: Sequence[Dimension], segment_starts: Mapping[int, datetime]) -> None:
        self._names = [name for dimension in by for name in COLUMNS[dimension]]
        self._starts = segment_starts
        self._sums: dict[tuple[Any, ...], list[int]] = {}

    def add(self, rows: Iterable[Any]) -> None:
        for row in rows:
            hour = row["hour"].astimezone(UTC)
            values = {"hour": hour, "day": hour.replace(hour=0), "segment_start": self._starts.get(row["segment_id"], NOWHERE)}
            key = (*(values[name] if name in values else row[name] for name in self._names), row["meter_id"])
            figures = self._sums.setdefault(key, [0, 0, 0])
            figures[0] += 0 if row["is_further"] else row["events"]
            figures[1] += row["events"]
            figures[2] += row["quantity"]

    def rows(self) -> list[dict[str, Any]]:
        names = [*self._names, "meter_id", "distinct", "events", "quantity"]
        shown = (dict(zip(names, [*key, *figures], strict=True)) for key, figures in sorted(self._sums.items()))
        return [{name: None if value is NOWHERE else value for name, value in row.items()} for row in shown]


async def split(connection: Connection, sids: Sequence[str], since: datetime, until: datetime, by: Sequence[Dimension]) -> Split:
    """Add up what became of the events of some keys in a range of full hours."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await add_up(connection, sids, since, until, by)


async def add_up(
    connection: Connection, sids: Sequence[str], since: datetime, until: datetime, by: Sequence[Dimension], *, rolled_up: bool = False
) -> Split:
    """The same, inside the caller's transaction, which must see one state of everything (repeatable read).

    `rolled_up`: hours that have changed are left out: to read them means to read the events of everybody.
    """
    await connection.execute("set local plan_cache_mode = force_custom_plan")  # one made for any number of keys takes twenty times as long
    changed = [row["hour"] for row in await connection.fetch(
        "select distinct hour from changed_hour where hour >= $1 and hour < $2 and (sids is null or sids && $3::text[]) order by 1",
        since, until, list(sids))]  # fmt: skip
    starts = await connection.fetch(
        "select s.id, s.started_at from segment s join subscription_key k using (subscription_id) where k.sid = any($1::text[])", list(sids)
    )
    sums = _Sums(by, {row["id"]: row["started_at"] for row in starts})
    rolled = await connection.fetch(
        "select hour, sid, segment_id, origin::text, outcome::text, reason, method, template, status, meter_id, is_further, "
        "sum(events)::bigint as events, sum(quantity)::bigint as quantity from usage_rollup where sid = any($1::text[]) "
        "and hour >= $2 and hour < $3 and hour <> all($4::timestamptz[]) group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
        list(sids),
        since,
        until,
        changed,
    )
    sums.add(rolled)
    if rolled_up:
        return Split(sums.rows(), None, [hour.astimezone(UTC) for hour in changed])
    missing = await _add_changed(connection, sums, sids, changed)
    return Split(sums.rows(), missing)


async def _add_changed(connection: Connection, sums: _Sums, sids: Sequence[str], changed: list[datetime]) -> datetime | None:
    """Add the events of hours that are not rolled up; returns from when on they are missing, if that took too long."""
    for first, last in _ranges(changed):
        try:
            async with connection.transaction():
                await connection.execute(f"set local statement_timeout = '{RAW_LIMIT}'")
                rows = await connection.fetch(OF_KEYS, first.date(), last.date(), first, last + HOUR, list(sids))
        except asyncpg.QueryCanceledError:
            return first
        sums.add(rows)
    return None


def _ranges(hours: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """Join hours that follow one another: first and last of each run, in UTC."""
    runs: list[tuple[datetime, datetime]] = []
    for hour in (hour.astimezone(UTC) for hour in hours):
        if runs and hour - runs[-1][1] == HOUR and hour.date() == runs[-1][0].date():
            runs[-1] = (runs[-1][0], hour)
        else:
            runs.append((hour, hour))
    return runs
