"""The third source: API Management's reports, read again and again with an overlap, because they trail and still grow."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import structlog

from billing_common.clock import BusinessClock
from billing_common.events import derive_id
from usage_collector import metrics, report_store, store, subscription_store
from usage_collector.closing_store import Due
from usage_collector.collecting import Collector
from usage_collector.observing import Observation
from usage_collector.store import Reader

log = structlog.get_logger(__name__)
BUCKET = timedelta(hours=1)
BUCKETS_MAX = 200  # in one round; the rest follows in the next
SOURCE = "apim/reports"
NOTHING = report_store.Counted()
Stretches = dict[str, list[tuple[datetime, datetime | None]]]  # by sid, in order of time
AskReports = Callable[[datetime, datetime, str | None], Awaitable[dict[str, int]]]  # from, to, one sid or all -> calls by sid


@dataclass(frozen=True, slots=True)
class Part:
    """A segment's part of an hour. `start` names it: the hour itself for a key's first part, its own start for a later one."""

    start: datetime
    since: datetime
    until: datetime


def hour_of(when: datetime) -> datetime:
    return when.replace(minute=0, second=0, microsecond=0)


def parts_of(bucket: datetime, stretches: Sequence[tuple[datetime, datetime | None]]) -> list[Part]:
    """Cut an hour where one segment follows another."""
    end = bucket + BUCKET
    spans = [(max(started_at, bucket), min(ended_at or end, end)) for started_at, ended_at in stretches]
    spans = [(since, until) for since, until in spans if since < until]
    return [Part(since if place else bucket, since, until) for place, (since, until) in enumerate(spans)]


def is_whole(bucket: datetime, parts: Sequence[Part]) -> bool:
    """Tell whether an hour lies in one segment. Where not, the rest of it may be another source's to count."""
    return [(part.since, part.until) for part in parts] == [(bucket, bucket + BUCKET)]


def growth(calls: Sequence[int], counted: Sequence[int]) -> list[int]:
    """Return what each part has grown by. Together never more than the hour has: a part may have been counted before it was cut."""
    room = max(0, sum(calls) - sum(counted))
    grown = []
    for now, before in zip(calls, counted, strict=True):
        more = min(max(0, now - before), room)
        room -= more
        grown.append(more)
    return grown


def observe(sid: str, part: Part, *, calls: int, more: int, reading: int = 0) -> Observation:
    """Return the growth of a part as an event; its id is derived from what the part has grown to."""
    external_id = f"{report_store.piece_name(sid, part.start, reading)}{calls}"
    return Observation(
        id=derive_id(SOURCE, external_id, part.since.date().isoformat()),
        day=part.since.date(),
        at=part.since,
        origin="reports",
        source=SOURCE,
        external_id=external_id,
        sid=sid,
        quantity=more,
    )


class ReportPolling:
    """Reads hourly buckets of all subscriptions at once, only while a product is counted by reports."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        collector: Collector,
        ask: AskReports,
        *,
        clock: BusinessClock,
        interval: timedelta,
        overlap: timedelta,
        lag: timedelta,
    ) -> None:
        self._pool, self._collector, self._ask, self._clock = pool, collector, ask, clock
        self._interval, self._overlap, self._lag = interval, overlap, lag

    async def run(self) -> None:
        while True:
            if await self._is_used() and await self.is_behind(now=self._clock.now()):
                try:
                    await self.read_round(now=self._clock.now())
                except Exception:
                    metrics.REPORT_ROUNDS.labels("failed").inc()
                    raise  # an answer that failed is asked for again, never taken for "no calls"
                metrics.REPORT_ROUNDS.labels("done").inc()
            await asyncio.sleep(0.5)

    async def _is_used(self) -> bool:
        return await subscription_store.has_product_source(self._pool, "reports")

    async def is_behind(self, *, now: datetime) -> bool:
        """Tell whether the next poll is due."""
        if not await self._is_used():
            return False
        until = await report_store.read_until(self._pool)
        return until is None or until <= now - self._interval

    async def read_round(self, *, now: datetime) -> int:
        """Read the buckets that may have grown; returns how many calls were new."""
        until = await report_store.read_until(self._pool)
        if until is None:
            until = await report_store.first_start(self._pool) or now
            await report_store.begin(self._pool, until)
        bucket = hour_of(until - self._overlap)
        new = 0
        for _ in range(BUCKETS_MAX):
            if bucket > now:
                break
            new += await self._read_bucket(bucket)
            bucket += BUCKET
        await report_store.advance(self._pool, before=until, to=min(bucket, now))
        return new

    async def _read_bucket(self, bucket: datetime) -> int:
        """Count what an hour has grown by. Keys whose segments change while it is asked for are asked for again."""
        new, is_done = 0, False
        while not is_done:
            stretches = await self._stretches(self._pool, bucket)
            if not stretches:
                break
            calls = await self._ask(bucket, bucket + BUCKET, None)
            seen = {sid: parts_of(bucket, stretches[sid]) for sid in calls if sid in stretches}
            answers = {sid: [calls[sid]] if is_whole(bucket, parts) else await self._ask_parts(sid, parts) for sid, parts in seen.items()}
            await self._collector.ensure_partitions({bucket.date()})
            more, is_done = await self._count(bucket, seen, answers)
            new += more
        return new

    @staticmethod
    async def _stretches(connection: Reader, bucket: datetime) -> Stretches:
        found: Stretches = {}
        for row in await report_store.stretches_by_reports(connection, bucket, bucket + BUCKET):
            found.setdefault(row["sid"], []).append((row["started_at"], row["ended_at"]))
        return found

    async def _count(self, bucket: datetime, seen: Mapping[str, list[Part]], answers: Mapping[str, list[int]]) -> tuple[int, bool]:
        """Count the growth of the keys whose parts are still those that were asked for; tells whether all are."""
        async with self._pool.acquire() as connection, connection.transaction():
            await report_store.lock(connection)
            await store.lock_shared(connection)  # first of all: who moves segments holds it when he takes pieces back
            now = await self._stretches(connection, bucket)
            same = {sid: parts for sid, parts in seen.items() if parts_of(bucket, now.get(sid, ())) == parts}
            counted = await report_store.counted_calls(connection, bucket, bucket + BUCKET, list(same))
            grown, events = [], []
            for sid, parts in same.items():
                before = [counted.get((sid, part.start), NOTHING) for part in parts]
                for part, had, more in zip(parts, before, growth(answers[sid], [one.calls for one in before]), strict=True):
                    if more:
                        grown.append(report_store.Grown(sid, part.start, had.calls + more, part.since, part.until))
                        events.append(observe(sid, part, calls=had.calls + more, more=more, reading=had.reading))
            if events:
                await report_store.set_counted_calls(connection, grown)
                await subscription_store.touch_keys(connection, [sid for (sid, _), had in counted.items() if had.reading])
                await self._collector.collect_within(connection, events)
        return sum(event.quantity for event in events), len(same) == len(seen)

    async def _ask_parts(self, sid: str, parts: Sequence[Part]) -> list[int]:
        return [(await self._ask(part.since, part.until, sid)).get(sid, 0) for part in parts]

    async def split(self, due: Sequence[Due], *, now: datetime) -> tuple[list[Due], datetime | None, int]:
        """Return the segments that need not wait for reports; when (business time) the first of the waiting may close; how many wait."""
        until = await report_store.read_until(self._pool)
        ready, waiting = [], []
        for segment in due:
            complete_at = segment.ended_at + self._lag
            source = await self._collector.source_of(self._pool, (segment.product_id, segment.catalogue_version))
            if source != "reports" or (until is not None and until >= complete_at):
                ready.append(segment)
            elif complete_at > now:
                waiting.append(complete_at)
        return ready, min(waiting, default=None), len(waiting)
