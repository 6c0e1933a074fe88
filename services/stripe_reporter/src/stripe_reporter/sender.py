"""The worker: plans due windows into the ledger, sends its open rows, writes the answers, settles closed segments."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import uuid4

import asyncpg
import structlog

from billing_common.clock import BusinessClock
from billing_common.outbox import announce, announce_many
from stripe_reporter import domain, ledger, metrics, store, stream_ledger
from stripe_reporter.comparing import Comparer, Sums
from stripe_reporter.domain import Answer, Kind, MeterEvent
from stripe_reporter.ledger import Lane
from stripe_reporter.limiter import Limiter
from stripe_reporter.settings import Settings
from stripe_reporter.streaming import Stream, Streamer

log = structlog.get_logger(__name__)
LEASE_MARGIN_SECONDS = 5.0
COMPARE_AGAIN = timedelta(seconds=60)
GAUGES_EVERY_SECONDS = 5.0
STREAM_PORTIONS_MAX = 10  # then closed segments get their turn
ACCEPT_AFTER_SECONDS = 1.0  # longest that Stripe's yes is only in memory


class Stripe(Stream, Sums, Protocol):
    """What the sender asks of Stripe."""

    async def send(self, event: MeterEvent) -> Answer: ...


def wall_now() -> datetime:
    """Leases, retries and the age of an identifier are wall time, whatever the business clock says."""
    return datetime.now(UTC)


class Sender:
    """One replica's worker. Any number may run: rows and lanes are taken with locks and leases."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        stripe: Stripe,
        clock: BusinessClock,
        settings: Settings,
        *,
        wake: asyncio.Event,
        progress: Callable[[int], None],
    ) -> None:
        self._pool, self._stripe, self._clock, self._settings = pool, stripe, clock, settings
        self._wake, self._progress = wake, progress
        self._owner = uuid4().hex
        self._limiter = Limiter(
            start=settings.calls_per_second_start,
            fastest=settings.calls_per_second_max,
            concurrency=settings.concurrency_max,
            gauge=metrics.RATE,
        )
        self._streamer = Streamer(pool, stripe, settings, self._owner)
        self._lag = timedelta(seconds=settings.summary_lag_seconds)
        self._comparer = Comparer(pool, stripe, clock, settings, wall_now=self._wall, progress=progress)
        self._stopped_until = float("-inf")
        self._gauges_at = float("-inf")
        self.wall_now = wall_now

    def _wall(self) -> datetime:
        return self.wall_now()

    async def run(self) -> None:
        """Work until cancelled; after a quiet round rest until a hint, a jump of the clock or the next poll."""
        async with self._pool.acquire() as connection:
            await ledger.release_lanes(connection, owner=self._owner)  # of a round that ended with an error
        while True:
            self._wake.clear()
            moved = await self.round()
            await self._show_figures()
            if not moved:
                await self._rest()

    async def round(self) -> int:
        """Do what can be done now once; returns how many things moved."""
        return await self._plan() + await self._stream() + await self._send() + await self._settle()

    async def _rest(self) -> None:
        hint = asyncio.ensure_future(self._wake.wait())
        jump = asyncio.ensure_future(self._clock.sleep(self._settings.poll_seconds))
        try:
            await asyncio.wait({hint, jump}, timeout=self._settings.poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (hint, jump):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _plan(self) -> int:
        """Plan what is due: a portion a round, and a backlog as a whole, so that it is seen how large it is."""
        planned = 0
        while True:
            portion = await self._plan_portion()
            planned += portion
            if portion < ledger.WINDOWS_AT_ONCE or planned >= self._settings.stream_from_rows:
                return planned

    async def _plan_portion(self) -> int:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await store.pull_closed(connection, now)
            planned = await ledger.plan(connection, now=now, wall=self.wall_now())
            self._progress(planned)  # before the commit: whoever sees the new state sees the activity too
            return planned

    # --- sending ------------------------------------------------------------------------------------------------------------

    async def _stream(self) -> int:
        """Stream a backlog, portion after portion: what is left of one would go by v1, one by one."""
        calls = 0
        for _ in range(STREAM_PORTIONS_MAX):
            if self._stopped_until > 0:
                break  # after a refused key one call by v1 tries first
            answers = await self._streamer.round(self.wall_now())
            calls += len(answers)
            if not answers:
                break
            if any(answer.kind is Kind.KEY_REFUSED for answer in answers):
                self._stop()
        return calls

    def _stop(self) -> None:
        self._stopped_until = time.monotonic() + self._settings.stopped_retry_seconds
        metrics.STOPPED.set(1)

    async def _send(self) -> int:
        if time.monotonic() < self._stopped_until:
            return 0
        limit = 1 if self._stopped_until > 0 else self._settings.concurrency_max  # after a refused key one lane tries first
        wall = self.wall_now()
        async with self._pool.acquire() as connection:
            lanes = await ledger.claim_lanes(
                connection, owner=self._owner, wall=wall, until=wall + timedelta(seconds=self._settings.lease_seconds), limit=limit
            )
        lease_end = time.monotonic() + self._settings.lease_seconds
        sending = [asyncio.create_task(self._send_lane(lane, lease_end)) for lane in lanes]
        try:
            return sum(await asyncio.gather(*sending))
        finally:
            for task in sending:  # one that failed ends the round: no other may go on with a lane that is given back
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send_lane(self, lane: Lane, lease_end: float) -> int:
        """Send a lane's rows one after the other until one has no final answer. The lease outlives each call."""
        wall = self.wall_now()
        async with self._pool.acquire() as connection, connection.transaction():
            work = domain.divide(await ledger.open_rows(connection, lane), wall)
            await ledger.mark_sent(connection, work.send, wall)
            streamed = await stream_ledger.due(connection, lane, wall - self._lag)
        moved, failed = await self._send_rows(work.send, lease_end)
        waits = False
        if not failed and work.compare:
            moved_more, failed = await self._comparer.compare(lane, work.compare)
            moved, waits = moved + moved_more, moved_more == 0
        if not failed and streamed:
            moved_more, failed = await self._comparer.confirm(lane, streamed)
            moved += moved_more
        failures = (lane.failures + 1 if moved == 0 else 1) if failed else 0  # a lane that gets on is only held up, not down
        await self._release(lane, failures=failures, waits=waits)
        return moved

    async def _send_rows(self, events: Sequence[MeterEvent], lease_end: float) -> tuple[int, bool]:
        """Send rows until one has no final answer; returns how many have one, and whether the lane has to pause.

        Stripe's yes is written down for many at once: a row whose yes is lost goes again under the same identifier.
        """
        moved, failed, accepted, kept_at = 0, False, list[tuple[MeterEvent, Answer]](), time.monotonic()
        for event in events:
            answer = await self._call(event, lease_end)
            if answer is None:
                break
            if answer.kind is Kind.ACKNOWLEDGED:
                accepted.append((event, answer))
            elif not await self._write(event, answer):
                failed = True
                break
            moved += 1
            if time.monotonic() - kept_at > ACCEPT_AFTER_SECONDS:
                await self._accept(accepted)
                accepted, kept_at = [], time.monotonic()
        await self._accept(accepted)
        return moved, failed

    async def _accept(self, accepted: Sequence[tuple[MeterEvent, Answer]]) -> None:
        """Write down what Stripe has taken, in one transaction."""
        if not accepted:
            return
        metrics.ANSWERS.labels(Kind.ACKNOWLEDGED.value).inc(len(accepted))
        self._gets_on(len(accepted))
        async with self._pool.acquire() as connection, connection.transaction():
            reported = await ledger.acknowledge(connection, accepted, wall=self.wall_now(), now=self._clock.now())
            await announce_many(connection, reported)
        metrics.REPORTED.inc(sum(max(event.quantity, 0) for event, _ in accepted))
        metrics.REPORTED_WINDOWS.inc(len(reported))

    def _gets_on(self, rows: int) -> None:
        """Note that Stripe takes the key."""
        self._stopped_until = float("-inf")
        metrics.STOPPED.set(0)
        self._progress(rows)

    async def _call(self, event: MeterEvent, lease_end: float) -> Answer | None:
        """Send one row when it is its turn; None when the lease could end during the call."""
        async with self._limiter.turn():
            started = time.monotonic()
            if started + self._settings.stripe_timeout_seconds + LEASE_MARGIN_SECONDS > lease_end:
                return None
            answer = await self._stripe.send(event)
            metrics.SEND_SECONDS.observe(time.monotonic() - started)
            if answer.kind in {Kind.ACKNOWLEDGED, Kind.REJECTED}:
                self._limiter.answered()
            return answer

    async def _write(self, event: MeterEvent, answer: Answer) -> bool:
        """Write another answer than yes down; False when the row stays open and the lane has to pause."""
        metrics.ANSWERS.labels(answer.kind.value).inc()
        log.warning("meter event not taken", identifier=str(event.identifier), answer=answer.kind.value, code=answer.code)
        if answer.kind is Kind.KEY_REFUSED:
            self._stop()
        elif answer.kind is Kind.TOO_FAST:
            self._limiter.too_fast()
        elif answer.kind is Kind.REJECTED:
            await self._reject(event, answer)
            return True
        async with self._pool.acquire() as connection:
            await ledger.mark_unknown(connection, event, answer, failed_answer=answer.kind is Kind.FAILED_ANSWER)
        return False

    async def _reject(self, event: MeterEvent, answer: Answer) -> None:
        self._gets_on(1)
        async with self._pool.acquire() as connection, connection.transaction():
            if rejected := await ledger.reject(connection, event, answer, wall=self.wall_now(), now=self._clock.now()):
                await announce(connection, rejected)
                metrics.REJECTED.labels(rejected.code).inc()

    async def _release(self, lane: Lane, *, failures: int, waits: bool) -> None:
        wall, pause = self.wall_now(), timedelta(0)
        if failures:
            pause = domain.retry_pause(failures - 1, longest=self._settings.retry_max_seconds, jitter=random.random())  # noqa: S311 - spreads retries
        elif waits:
            pause = COMPARE_AGAIN
        async with self._pool.acquire() as connection, connection.transaction():
            first = await stream_ledger.next_due(connection, lane)
            pause = max(pause, first + self._lag - wall) if first is not None else pause
            await ledger.release_lane(connection, lane, owner=self._owner, failures=failures, retry_at=wall + pause)

    # --- closed segments and periods ----------------------------------------------------------------------------------------------

    async def _settle(self) -> int:
        """Announce `usage.settled` for each closed segment whose totals are at Stripe."""
        now, settled = self._clock.now(), 0
        async with self._pool.acquire() as connection, connection.transaction():
            for segment in await store.open_segments(connection):
                state, waiting_for = domain.judge_segment(segment.totals, segment.meters, free=segment.free)
                await store.put_segment_state(connection, segment, state, waiting_for, now=now, checked_at=self.wall_now())
                if state == "settled":
                    await announce(connection, segment.settled(now))
                    log.info("segment settled", subscription_id=segment.subscription_id, reason=segment.reason)
                    settled += 1
            settled += await store.complete_periods(connection, now)
            self._progress(settled)
        return settled

    async def _show_figures(self) -> None:
        if time.monotonic() < self._gauges_at + GAUGES_EVERY_SECONDS:
            return
        self._gauges_at = time.monotonic()
        now = self._clock.now()
        async with self._pool.acquire() as connection:
            figures = await store.figures(
                connection, now=now, wall=self.wall_now(), alert=timedelta(seconds=self._settings.close_alert_seconds)
            )
        metrics.show(figures, now)
