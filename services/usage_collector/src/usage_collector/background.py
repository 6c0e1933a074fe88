"""What the collector does by itself: publish totals, judge held events again, close segments, watch its own lag."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from billing_common.service import Service
from billing_common.telemetry import LAG
from usage_collector import closing_store, late, late_store, metrics, publishing, settling, subscription_store, thresholds, window_store
from usage_collector.collecting import Collector
from usage_collector.failing import Failing
from usage_collector.positions import Positions
from usage_collector.report_polling import ReportPolling
from usage_collector.settings import Settings

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.2
PUBLISH_PAUSES = 19  # how many times as long as a round took until the next one
PUBLISH_PAUSE_MAX_SECONDS = 60.0
READ_LIMIT_SECONDS = 30.0
PARTITION_SECONDS = 600.0
HELD_SECONDS, HELD_PAUSES = 120.0, 19
HELD_REASONS = (
    "unknown_subscription",
    "no_segment",
    "before_start",
    "unknown_catalogue",
    "judged_again",
    "below_zero",
    "late",
    "too_old_to_bill",
)


class Background:
    """The loops; each is one method that `Service.loop` runs again after an error."""

    def __init__(
        self, service: Service, settings: Settings, collector: Collector, positions: Positions, reports: ReportPolling | None
    ) -> None:
        self._service, self._settings = service, settings
        self._collector, self._positions, self._reports = collector, positions, reports
        self._grace = timedelta(seconds=settings.straggler_grace_seconds)
        self._not_settled, self._not_settled_late = Failing[str]("settle"), Failing[int]("settle_late")
        self._not_closed, self._not_looked_at = Failing[int]("close"), Failing[str]("thresholds")

    async def publish(self) -> None:
        """Publish what changed, again and again, in a twentieth of the time: running totals lose nothing when some are skipped."""
        directory = self._collector.directory
        while True:
            started = time.monotonic()
            published = await publishing.publish_all_windows(self._service.pool, directory, now=self._service.clock.now())
            again = await thresholds.announce_again(self._service.pool, directory, self._not_looked_at, now=self._service.clock.now())
            metrics.THRESHOLDS.inc(again)
            self._service.activity += published + again
            metrics.DIRTY.set(await window_store.count_dirty(self._service.pool))
            pause = min(PUBLISH_PAUSES * (time.monotonic() - started), PUBLISH_PAUSE_MAX_SECONDS)
            await asyncio.sleep(max(self._settings.publish_interval_seconds, pause))

    async def settle(self) -> None:
        while True:
            while done := await settling.settle_some(self._collector, self._service.clock.now(), self._not_settled):
                self._service.activity += done
            await asyncio.sleep(LOOK_SECONDS)

    async def settle_late(self) -> None:
        """Look at what came late, with a pause: usage that comes in pieces is one line on the invoice."""
        while True:
            self._service.activity += await late.settle_late(self._collector, now=self._service.clock.now(), failing=self._not_settled_late)
            await asyncio.sleep(self._settings.late_interval_seconds)

    async def close(self) -> None:
        while True:
            await self.close_due()
            await asyncio.sleep(LOOK_SECONDS)

    async def close_due(self) -> int:
        """Close the segments whose end has passed, after everything that was in the streams then has been read."""
        service = self._service
        due = await publishing.due_segments(
            service.pool, now=service.clock.now(), wall=datetime.now(UTC), grace=self._grace, leave_out=self._not_closed.resting()
        )
        if self._reports is not None and due:
            due, *_ = await self._reports.split(due, now=service.clock.now())
        if not due:
            return 0
        if not await self._positions.wait_until_read(await self._positions.ends(), limit_seconds=READ_LIMIT_SECONDS):
            log.warning("segments wait for unread usage", segments=len(due))
            return 0
        closed = await self._not_closed.together(
            [segment.id for segment in due],
            lambda ids: publishing.close_segments(service.pool, self._collector.directory, ids, now=service.clock.now()),
        )
        service.activity += closed
        log.info("segments closed", segments=closed)
        return closed

    async def watch(self) -> None:
        while True:
            for topic, unread in (await self._positions.measure()).items():
                metrics.UNREAD.labels(topic).set(unread)
            for subscriber in self._service.broker.subscribers:
                consumer: Any = getattr(subscriber, "consumer", None)
                for place in consumer.assignment() if consumer else ():
                    LAG.labels(place.topic, str(place.partition)).set(
                        max(0, (consumer.highwater(place) or 0) - await consumer.position(place))
                    )
            await asyncio.sleep(1)

    async def watch_held(self) -> None:
        while True:
            started = time.monotonic()
            async with self._service.pool.acquire() as connection:
                held = await late_store.held_by_reason(connection)
            for reason in HELD_REASONS:
                metrics.HELD.labels(reason).set(held.get(reason, 0))
            await asyncio.sleep(max(HELD_SECONDS, HELD_PAUSES * (time.monotonic() - started)))

    async def keep_partitions(self) -> None:
        while True:
            await self._collector.keep_partitions(self._service.clock.now(), self._settings.usage_retention)
            await asyncio.sleep(PARTITION_SECONDS)

    async def waiting_for(self) -> str | None:
        """Say what is left to do at this business time, for /status."""
        pool, now = self._service.pool, self._service.clock.now()
        if windows := await window_store.count_dirty(pool):
            return f"{windows} windows to publish"
        if subscriptions := await subscription_store.count_unsettled(pool):
            return f"held events of {subscriptions} subscriptions"
        if segments := await late_store.count_pending(pool):
            return f"late usage of {segments} closed segments"
        due = await closing_store.ended_segments(pool, now=now)
        later = (await self._reports.split(due, now=now))[2] if self._reports is not None else 0
        if len(due) > later:
            return f"{len(due) - later} segments to close"
        if self._reports is not None and await self._reports.is_behind(now=now):
            return "API Management's reports"
        return None

    async def next_due(self) -> datetime | None:
        """Say when a segment that waits for reports may be closed."""
        if self._reports is None:
            return None
        now = self._service.clock.now()
        return (await self._reports.split(await closing_store.ended_segments(self._service.pool, now=now), now=now))[1]

    async def unread_calls(self) -> str | None:
        """For /status where the calls come from a Kafka of their own, which the service does not look at by itself."""
        unread = (await self._positions.measure()).get(self._settings.calls_topic, 0)
        return f"{unread} unread calls" if unread else None
