"""Finds webhooks that never arrived: asks Stripe for its past events at start, each hour and on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from prometheus_client import Counter

from billing_common.clock import BusinessClock
from webhook_ingress import domain, store
from webhook_ingress.stripe_gateway import StripeGateway
from webhook_ingress.worker import Worker

RECOVERED = Counter("turnpike_webhooks_recovered_total", "Events that Stripe had and no webhook had brought")

log = structlog.get_logger(__name__)


class Recovery:
    """Stores what is missing; the worker does the rest, as for any webhook."""

    def __init__(
        self, pool: asyncpg.Pool, gateway: StripeGateway, worker: Worker, clock: BusinessClock, *, overlap: timedelta, interval: timedelta
    ) -> None:
        self._pool, self._gateway, self._worker, self._clock = pool, gateway, worker, clock
        self._overlap, self._interval = overlap, interval
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Recover now and then at each interval of wall time."""
        while True:
            await self.recover()
            await asyncio.sleep(self._interval.total_seconds())

    async def recover(self) -> int:
        """Return how many events were missing. Raises StripeUnavailableError; what was stored by then stays."""
        async with self._one_at_a_time:
            now = self._clock.now()
            missing = 0
            for start, end in domain.recovery_slices(newest=await store.newest_event(self._pool), now=now, overlap=self._overlap):
                missing += await self._store(self._gateway.events_between(start, end))
            # Stripe gives up after three days: newer events may have arrived and older ones not.
            missing += await self._store(self._gateway.events_between(now - domain.EVENTS_KEPT, now, only_undelivered=True))
        log.info("looked for lost webhooks", missing=missing)
        return missing

    async def _store(self, events: AsyncIterator[dict[str, Any]]) -> int:
        missing = 0
        async for event in events:
            received = domain.read_event(json.dumps(event).encode())
            if await store.receive(self._pool, received, source="recovery"):
                missing += 1
                RECOVERED.inc()
                self._worker.wake()
        return missing
