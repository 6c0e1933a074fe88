"""What Stripe's own sums say of rows that have no answer: those on the v2 stream, and those whose identifier it may have forgotten."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeVar

import asyncpg
import structlog

from billing_common.clock import BusinessClock
from billing_common.outbox import announce_many
from stripe_reporter import domain, ledger, metrics, stream_ledger
from stripe_reporter.domain import Answer, Kind, MeterEvent
from stripe_reporter.ledger import Lane
from stripe_reporter.limiter import Limiter
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeUnavailableError

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Sums(Protocol):
    """What is asked of Stripe."""

    async def sum(self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime) -> int: ...

    async def sums(
        self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime, by: Literal["day", "hour"]
    ) -> dict[datetime, int]: ...


class Comparer:
    """Compares one lane's rows, for the replica that holds its lease."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        stripe: Sums,
        clock: BusinessClock,
        settings: Settings,
        *,
        wall_now: Callable[[], datetime],
        progress: Callable[[int], None],
    ) -> None:
        self._pool, self._stripe, self._clock, self._wall_now, self._progress = pool, stripe, clock, wall_now, progress
        self._lag = timedelta(seconds=settings.summary_lag_seconds)
        fastest = settings.reads_per_second_max
        self._limiter = Limiter(start=fastest / 2, fastest=fastest, concurrency=settings.concurrency_max, gauge=metrics.READ_RATE)

    async def compare(self, lane: Lane, hours: domain.Hours) -> tuple[int, bool]:
        """Compare each hour with Stripe's own sum; returns rows resolved, and whether Stripe failed to answer."""
        moved = 0
        for hour, rows in hours.items():
            async with self._pool.acquire() as connection:
                sums = await stream_ledger.hour_sums(connection, lane, hour)
            if sums.streamed or (sums.answered_at is not None and self._wall_now() - sums.answered_at < self._lag):
                continue  # Stripe's sum may not hold yet what it acknowledged a moment ago, or holds what nobody has confirmed
            try:
                at_stripe = await self._ask(
                    self._stripe.sum(
                        stripe_meter_id=rows[0].stripe_meter_id,
                        stripe_customer_id=lane.stripe_customer_id,
                        start=hour,
                        end=hour + domain.HOUR,
                    )
                )
            except StripeUnavailableError as error:
                log.warning("meter summary not read", reason=str(error))
                return moved, True
            await self._resolve(domain.compare(rows, at_stripe=at_stripe, acknowledged=sums.acknowledged))
            moved += len(rows)
        return moved, False

    async def confirm(self, lane: Lane, rows: Sequence[MeterEvent]) -> tuple[int, bool]:
        """Look for streamed rows in Stripe's sums; hours that differ go by v1. Returns rows moved, and whether Stripe failed to answer."""
        start, end = rows[0].hour, rows[-1].hour + domain.HOUR
        try:
            at_stripe = await self._ask(
                self._stripe.sums(
                    stripe_meter_id=rows[0].stripe_meter_id, stripe_customer_id=lane.stripe_customer_id, start=start, end=end, by="hour"
                )
            )
        except StripeUnavailableError as error:
            log.warning("meter summary not read", reason=str(error))
            return 0, True
        found: list[MeterEvent] = []
        missing: list[MeterEvent] = []
        for hour in sorted({row.hour for row in rows}):
            of_hour = [row for row in rows if row.hour == hour]
            async with self._pool.acquire() as connection:
                known = await stream_ledger.hour_sums(connection, lane, hour)
            here = domain.shown(of_hour, at_stripe=at_stripe.get(hour, 0), acknowledged=known.acknowledged)
            (found if here else missing).extend(of_hour)
        if missing:
            log.warning("streamed meter events are not in Stripe's summary", rows=len(missing), of=len(rows))
            metrics.STREAM_MISSING.inc(len(missing))
            async with self._pool.acquire() as connection:
                await stream_ledger.to_single(connection, missing)
        wall, now = self._wall_now(), self._clock.now()
        self._progress(len(found))
        async with self._pool.acquire() as connection, connection.transaction():
            shown = [(row, Answer(Kind.ACKNOWLEDGED, note="shown by Stripe's summary", credited=row.quantity)) for row in found]
            await announce_many(connection, await ledger.acknowledge(connection, shown, wall=wall, now=now))
        metrics.REPORTED_WINDOWS.inc(len(found))
        metrics.REPORTED.inc(sum(max(row.quantity, 0) for row in found))
        return len(rows), False

    async def _ask(self, question: Awaitable[T]) -> T:
        async with self._limiter.turn():
            try:
                answer = await question
            except StripeUnavailableError as error:
                if error.too_fast:
                    self._limiter.too_fast()
                raise
        self._limiter.answered()
        return answer

    async def _resolve(self, findings: list[domain.Found]) -> None:
        wall, now = self._wall_now(), self._clock.now()
        self._progress(len(findings))
        async with self._pool.acquire() as connection, connection.transaction():
            for found in findings:
                answer = Answer(Kind.ACKNOWLEDGED, note="compared with Stripe's summary", credited=found.credited)
                reported = await ledger.acknowledge(connection, [(found.row, answer)], wall=wall, now=now)
                if not reported:
                    continue
                if found.rest is not None:
                    await ledger.add_intents(connection, [found.rest], wall)
                if found.credited:
                    await announce_many(connection, reported)
        log.info("meter events compared with Stripe", rows=len(findings), missing=sum(f.rest is not None for f in findings))
