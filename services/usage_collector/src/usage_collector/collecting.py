"""A batch of observations becomes rows and windows in one transaction, however often and in whatever order it comes."""

import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import asyncpg
import structlog

from billing_common.db import Connection
from usage_collector import day_store, event_store, metrics, rollup_store, store
from usage_collector.adding import Adding
from usage_collector.directory import Directory
from usage_collector.metering import billable_since, judge
from usage_collector.observing import Observation

log = structlog.get_logger(__name__)
FULL = "total_too_large"
COLLISIONS = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError)  # somebody else added one of the same events just now


class Collector:
    """Judges observations and stores them. One per process; its memory is only a cache."""

    def __init__(self, pool: asyncpg.Pool, *, batch_max: int, age_max: timedelta, ahead_max: timedelta) -> None:
        self.pool = pool
        self.directory = Directory()
        self._batch_max = batch_max
        self._age_max, self._ahead_max = age_max, ahead_max
        self._days: set[date] = set()
        self._adding = Adding()

    async def collect(self, seen: Sequence[Observation], *, now: datetime) -> None:
        """Store observations, at most `batch_max` in one transaction. Those that another task is adding right now come after it."""
        for start in range(0, len(seen), self._batch_max):
            waiting = seen[start : start + self._batch_max]
            while waiting:
                free, waiting = self._adding.split(waiting)
                if free:
                    started = time.monotonic()
                    with self._adding.claim(free):
                        await self._collect_batch(free, now)
                    metrics.COLLECTING.observe(time.monotonic() - started)
                await self._adding.ended(waiting)

    async def _collect_batch(self, seen: Sequence[Observation], now: datetime) -> None:
        oldest, newest = now - self._age_max, now + self._ahead_max
        first: dict[UUID, Observation] = {}  # an id tells its day as well
        repeated, refused = [], []
        for one in seen:
            if not oldest <= one.at <= newest:
                refused.append((one, "too_old" if one.at < oldest else "in_the_future"))
            elif first.setdefault(one.id, one) is not one:
                repeated.append(one)
        taken = list(first.values())
        await self.ensure_partitions({one.day for one in taken})
        try:
            tally, new_refused = await self._write(taken, repeated, refused, now)
        except COLLISIONS:
            metrics.COLLISIONS.inc()
            tally, new_refused = await self._write(taken, repeated, refused, now, alone=True)
        except asyncpg.CheckViolationError:
            await self._collect_by_window(taken, repeated, refused, now)
            return
        self._count(seen, tally, len(taken) - sum(tally.values()) + len(repeated) + len(refused) - new_refused)
        if refused:
            metrics.OUTCOMES.labels(refused[0][0].origin, "rejected", refused[0][1]).inc(new_refused)
            log.warning("events refused for their time", events=len(refused), reason=refused[0][1], source=refused[0][0].source)

    async def _collect_by_window(
        self, taken: Sequence[Observation], repeated: Sequence[Observation], refused: Sequence[tuple[Observation, str]], now: datetime
    ) -> None:
        """Store a batch in which some hour of some key grows beyond what a window takes: halve it until that is alone, and refuse it."""
        groups: dict[tuple[str, date, int], list[Observation]] = {}
        for one in taken:
            groups.setdefault((one.sid, one.day, one.at.hour), []).append(one)
        await self._store_refused([*refused, *((one, FULL) for one in await self._store_groups(list(groups.values()), repeated, now))], now)

    async def _store_groups(
        self, groups: Sequence[Sequence[Observation]], repeated: Sequence[Observation], now: datetime
    ) -> list[Observation]:
        """Store all groups that fit; returns the events of the others."""
        taken = [one for group in groups for one in group]
        try:
            tally, _ = await self._write(taken, repeated, (), now, alone=True)
        except asyncpg.CheckViolationError:
            if len(groups) == 1:
                return taken
            half = len(groups) // 2
            return [*await self._store_groups(groups[:half], repeated, now), *await self._store_groups(groups[half:], (), now)]
        self._count([*taken, *repeated], tally, len(taken) - sum(tally.values()) + len(repeated))
        return []

    async def _store_refused(self, refused: Sequence[tuple[Observation, str]], now: datetime) -> None:
        _, new = await self._write((), (), refused, now)
        metrics.OUTCOMES.labels(refused[0][0].origin, "rejected", refused[-1][1]).inc(new)
        log.warning("events refused", events=len(refused), reason=refused[-1][1], source=refused[-1][0].source)

    async def _write(
        self,
        taken: Sequence[Observation],
        repeated: Sequence[Observation],
        refused: Sequence[tuple[Observation, str]],
        now: datetime,
        *,
        alone: bool = False,
    ) -> tuple[event_store.Tally, int]:
        """Write all of a batch or nothing; returns what was new of each kind and how many refused ones were new."""
        async with self.pool.acquire() as connection, connection.transaction():
            tally = await self.add(connection, taken, repeated, now=now, alone=alone) if taken else {}
            return tally, await store.refuse(connection, refused, now=now) if refused else 0

    async def add(
        self,
        connection: Connection,
        taken: Sequence[Observation],
        repeated: Sequence[Observation] = (),
        *,
        now: datetime | None = None,
        alone: bool = False,
    ) -> event_store.Tally:
        """Judge and store distinct observations in the caller's transaction, count the repeated; `alone`: while nobody else does."""
        await (store.lock_exclusive if alone else store.lock_shared)(connection)
        await self.directory.refresh(connection)
        holders = await self.directory.find(connection, {one.sid for one in taken})
        rules = self.directory.rules
        await rollup_store.mark(connection, taken)
        since = billable_since(now)
        judged = [(one, judge(one, holders.get(one.sid), rules, since=since)) for one in taken]
        return await event_store.add_events(connection, judged, repeated)

    async def collect_within(self, connection: Connection, seen: Sequence[Observation]) -> None:
        """Store distinct observations in the caller's transaction; `ensure_partitions` must have made their days."""
        tally = await self.add(connection, seen)
        self._count(seen, tally, len(seen) - sum(tally.values()))

    async def source_of(self, pool: asyncpg.Pool, plan: tuple[str, int]) -> str | None:
        """Return which source counts for a product of a catalogue version."""
        async with pool.acquire() as connection:
            rules = await self.directory.rules_of(connection, plan)
        return rules.source if rules else None

    async def ensure_partitions(self, days: set[date]) -> None:
        if days <= self._days:
            return
        async with self.pool.acquire() as connection:
            await self._add_partitions(connection, days)

    async def _add_partitions(self, connection: Connection, days: set[date]) -> None:
        self._days = await store.partition_days(connection)
        for day in sorted(days - self._days):
            await store.add_partition(connection, day)
            self._days.add(day)

    async def keep_partitions(self, now: datetime, retention: timedelta) -> None:
        """Make the partitions of today and the next two days, and drop what is older than the retention."""
        async with self.pool.acquire() as connection:
            await self._add_partitions(connection, {(now + timedelta(days=ahead)).date() for ahead in range(3)})
            kept_from = (now - retention).date()
            await day_store.keep_from(connection, kept_from)
            if await store.forget_before(connection, kept_from):
                self._days = await store.partition_days(connection)

    @staticmethod
    def _count(seen: Sequence[Observation], tally: event_store.Tally, repeated: int) -> None:
        origin = seen[0].origin
        metrics.RECEIVED.labels(origin).inc(len(seen))
        metrics.DUPLICATES.labels(origin).inc(repeated)
        for (source, outcome, reason), events in tally.items():
            metrics.OUTCOMES.labels(source, outcome, reason).inc(events)
