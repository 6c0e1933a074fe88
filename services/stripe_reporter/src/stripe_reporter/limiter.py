"""How fast Stripe is called: faster while it answers, half as fast after a 429."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

INCREASE_PER_SECOND = 25.0
SLOWEST = 1.0
HALVE_AT_MOST_EVERY_SECONDS = 1.0  # the answers of one burst are one signal


class Limiter:
    """Additive increase, multiplicative decrease of the rate; a fixed bound of calls in flight."""

    def __init__(self, *, start: float, fastest: float, concurrency: int, gauge: Gauge) -> None:
        self.rate = min(start, fastest)
        self._fastest, self._gauge = fastest, gauge
        self._slots = asyncio.Semaphore(concurrency)
        self._next = 0.0
        self._halved_at = float("-inf")
        self._gauge.set(self.rate)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a free slot and for the moment that the rate allows."""
        async with self._slots:
            now = time.monotonic()
            at = max(self._next, now)
            self._next = at + 1 / self.rate
            if at > now:
                await asyncio.sleep(at - now)
            yield

    def answered(self) -> None:
        self.rate = min(self.rate + INCREASE_PER_SECOND / self.rate, self._fastest)
        self._gauge.set(self.rate)

    def too_fast(self) -> None:
        now = time.monotonic()
        if now - self._halved_at < HALVE_AT_MOST_EVERY_SECONDS:
            return
        self._halved_at = now
        self.rate = max(self.rate / 2, SLOWEST)
        self._next = max(self._next, now + 1 / self.rate)
        self._gauge.set(self.rate)
