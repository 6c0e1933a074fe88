"""The third source: API Management's reports, read again and again with an overlap, because they trail and still grow."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import asyncpg
import structlog

from billing_common.clock import BusinessClock
from billing_common.events import derive_id
from usage_collector import metrics, report_store, subscription_store
from usage_collector.collecting import Collector
from usage_collector.metering import Observation
from usage_collector.subscription_store import Due

log = structlog.get_logger(__name__)
BUCKET = timedelta(hours=1)
BUCKETS_MAX = 200  # in one round; the rest follows in the next
SOURCE = "apim/reports"
AskReports = Callable[[datetime, datetime], Awaitable[dict[str, int]]]


def hour_of(when: datetime) -> datetime:
    return when.replace(minute=0, second=0, microsecond=0)


def observe(sid: str, bucket: datetime, started_at: datetime, *, counted: int, calls: int) -> Observation:
    """Return the growth of a bucket as an event; its id is derived from what the bucket has grown to."""
    at = max(bucket, started_at)
    external_id = f"{sid}:{bucket.isoformat()}:{calls}"
    return Observation(
        id=derive_id(SOURCE, external_id, at.date().isoformat()),
        day=at.date(),
        at=at,
        origin="reports",
        source=SOURCE,
        external_id=external_id,
        sid=sid,
        quantity=calls - counted,
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
        bucket = hour_of((until or now) - self._overlap)
        new = 0
        for _ in range(BUCKETS_MAX):
            if bucket > now:
                break
            new += await self._read_bucket(bucket)
            bucket += BUCKET
        await report_store.set_read_until(self._pool, min(bucket, now))
        return new

    async def _read_bucket(self, bucket: datetime) -> int:
        starts: dict[str, datetime] = {}
        for row in await report_store.stretches_by_reports(self._pool, bucket, bucket + BUCKET):
            starts.setdefault(row["sid"], row["started_at"])
        if not starts:
            return 0
        calls = {sid: count for sid, count in (await self._ask(bucket, bucket + BUCKET)).items() if sid in starts}
        await self._collector.ensure_partitions({bucket.date()})
        async with self._pool.acquire() as connection, connection.transaction():
            await report_store.lock(connection)
            counted = await report_store.counted_calls(connection, bucket, list(calls))
            grown = {sid: count for sid, count in calls.items() if count > counted.get(sid, 0)}
            seen = [observe(sid, bucket, starts[sid], counted=counted.get(sid, 0), calls=count) for sid, count in grown.items()]
            await report_store.set_counted_calls(connection, bucket, grown)
            if seen:
                await self._collector.collect_within(connection, seen)
        return sum(one.quantity for one in seen)

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
