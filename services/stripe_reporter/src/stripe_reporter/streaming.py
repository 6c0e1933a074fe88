"""A large backlog goes through Stripe's v2 meter event stream, 100 rows a call. It says nothing of single rows: summaries do, later."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import asyncpg
import structlog

from stripe_reporter import domain, ledger, metrics, stream_ledger
from stripe_reporter.domain import Answer, Kind, MeterEvent
from stripe_reporter.settings import Settings

log = structlog.get_logger(__name__)
EVENTS_A_CALL = 100  # Stripe's limit
CALLS_AT_ONCE = 4
LANES_AT_ONCE = 500


class Stream(Protocol):
    """What is asked of Stripe's stream."""

    async def stream(self, events: Sequence[MeterEvent]) -> Answer: ...


@dataclass(frozen=True)
class Streamer:
    """Takes lanes with a backlog, sends what they never sent and leaves them until Stripe's summaries can be asked."""

    pool: asyncpg.Pool
    stripe: Stream
    settings: Settings
    owner: str

    async def round(self, wall: datetime) -> list[Answer]:
        """Return Stripe's answers to the calls of one round; none when v1 serves better."""
        async with self.pool.acquire() as connection, connection.transaction():
            rows, lanes = await stream_ledger.backlog(connection, most=self.settings.stream_from_rows)
            if not domain.stream_serves(rows, lanes, from_rows=self.settings.stream_from_rows):
                return []
            until = wall + timedelta(seconds=self.settings.lease_seconds)
            held = await ledger.claim_lanes(connection, owner=self.owner, wall=wall, until=until, limit=LANES_AT_ONCE)
            events = await stream_ledger.take(connection, held, wall)
        calls = [events[start : start + EVENTS_A_CALL] for start in range(0, len(events), EVENTS_A_CALL)]
        slots = asyncio.Semaphore(CALLS_AT_ONCE)
        answers = await asyncio.gather(*(self._call(call, slots) for call in calls))
        failed = [event for call, answer in zip(calls, answers, strict=True) if answer.kind is not Kind.ACKNOWLEDGED for event in call]
        async with self.pool.acquire() as connection, connection.transaction():
            await stream_ledger.to_single(connection, failed)  # under the same identifier: what arrived after all is not counted twice
            streamed = _lanes(events) - _lanes(failed)  # of the others nothing was sent: they wait for no summary
            shown_at = wall + timedelta(seconds=self.settings.summary_lag_seconds)
            await stream_ledger.release(connection, held, owner=self.owner, parked=streamed, until=shown_at, wall=wall)
        metrics.STREAMED.inc(len(events) - len(failed))
        log.info("meter events streamed", events=len(events), lanes=len(held), not_taken=len(failed))
        return answers

    async def _call(self, events: Sequence[MeterEvent], slots: asyncio.Semaphore) -> Answer:
        async with slots:
            answer = await self.stripe.stream(events)
        metrics.ANSWERS.labels(f"stream_{answer.kind.value}").inc()
        return answer


def _lanes(events: Sequence[MeterEvent]) -> set[tuple[str, str]]:
    return {(event.stripe_customer_id, event.event_name) for event in events}
