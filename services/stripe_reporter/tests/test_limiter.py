"""Faster while Stripe answers, half as fast after a burst of refusals."""

import asyncio
import time

from stripe_reporter import metrics
from stripe_reporter.limiter import Limiter


def test_a_burst_of_refusals_halves_the_rate_once() -> None:
    limiter = Limiter(start=100, fastest=500, concurrency=4, gauge=metrics.RATE)
    for _ in range(20):
        limiter.too_fast()
    assert limiter.rate == 50


def test_answers_raise_the_rate_up_to_the_fastest() -> None:
    limiter = Limiter(start=100, fastest=102, concurrency=4, gauge=metrics.RATE)
    limiter.answered()
    assert 100 < limiter.rate < 101
    for _ in range(50):
        limiter.answered()
    assert limiter.rate == 102


async def test_calls_are_spread_and_bounded() -> None:
    limiter, running, most = Limiter(start=100, fastest=100, concurrency=2, gauge=metrics.RATE), 0, 0

    async def call() -> None:
        nonlocal running, most
        async with limiter.turn():
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0.005)
            running -= 1

    started = time.monotonic()
    await asyncio.gather(*(call() for _ in range(11)))
    assert time.monotonic() - started >= 0.1
    assert most <= 2
