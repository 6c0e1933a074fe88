"""Calls to Stripe whose outcome cannot be written: they are made again, soon, and never by two workers at once."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from checkout import intents
from checkout.intents import Worker, intend


class Stripe:
    """Answers a cancellation when it is let; counts how often it was asked."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.asked: list[str] = []

    async def cancel_now(self, subscription: str, *, key: str) -> None:
        self.asked.append(key)
        await self.answer.wait()


@pytest.fixture
def slow_stripe() -> Any:
    return Stripe()


@pytest.fixture
async def intended(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await intend(connection, "cancel_now", key="account", cause="one", parameters={"subscription": "sub_1"})


async def asked(stripe: Stripe, times: int) -> None:
    async with asyncio.timeout(60):
        while len(stripe.asked) < times:
            await asyncio.sleep(0.01)


async def state(pool: asyncpg.Pool) -> Any:
    return await pool.fetchval("select state from intent")


async def test_a_worker_that_lost_the_database_in_a_call_makes_it_again_at_once(
    intended: None, pool: asyncpg.Pool, slow_stripe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, end = Worker(pool, slow_stripe, poll_seconds=0.05), intents.end

    async def refused(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError

    slow_stripe.answer.set()
    monkeypatch.setattr(intents, "end", refused)
    with pytest.raises(ConnectionRefusedError):
        await worker.run()
    monkeypatch.setattr(intents, "end", end)
    running = asyncio.create_task(worker.run())
    await asked(slow_stripe, 2)
    async with asyncio.timeout(5):
        while await state(pool) != "done":
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(set(slow_stripe.asked)) == 1, "another idempotency key could do it twice"


async def test_a_long_call_stays_with_its_worker_and_a_dead_workers_call_goes_to_the_next(
    intended: None, pool: asyncpg.Pool, slow_stripe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "LEASE_SECONDS", 0.6)
    first, second = (Worker(pool, slow_stripe, poll_seconds=0.05) for _ in range(2))
    calling = asyncio.create_task(first.drain())
    await asked(slow_stripe, 1)
    await asyncio.sleep(1.0)
    assert await second.drain() == 0, "the lease was renewed"
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    slow_stripe.answer.set()
    assert await second.drain() == 0, "the dead worker's lease still holds"
    await asyncio.sleep(0.7)
    assert (await second.drain(), await state(pool)) == (1, "done")


async def test_a_postponed_call_is_not_given_back_by_its_workers_next_start(intended: None, pool: asyncpg.Pool, slow_stripe: Any) -> None:
    worker = Worker(pool, slow_stripe, poll_seconds=0.05)
    (intent,) = await intents.take(pool, worker._lease)
    await intents.postpone(pool, intent, error="later")
    await intents.release(pool, worker._lease)
    assert await worker.drain() == 0
