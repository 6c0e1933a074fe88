"""Keeps the roll-up, in a twentieth of the time: adds up hours that are over and have changed, and forgets what is too old."""

import asyncio
import time
from datetime import datetime, timedelta

import asyncpg

from billing_common.clock import BusinessClock
from usage_collector import metrics, rollup_store
from usage_collector.failing import Failing

OVER = timedelta(minutes=2)  # an hour is added up when most of its stragglers are there: each later one has it added up again
PAUSE_SECONDS = 5.0
PAUSES, PAUSE_MAX_SECONDS = 19, 3600.0  # times as long as a round took until the next: a backlog changes past hours all the time
HOURS_MAX = 24
FORGET_SECONDS = 600.0


async def roll_up_due(pool: asyncpg.Pool, *, now: datetime, failing: Failing[datetime] | None = None) -> int:
    """Add up changed hours that are over, each once; returns how many. One that fails does not keep the others waiting."""
    failing = failing or Failing("roll_up")
    resting = set(failing.resting())
    done, after = 0, None
    while hours := await rollup_store.due_hours(pool, after=after, before=now - OVER, limit=HOURS_MAX):
        for hour in hours:
            after = hour
            if hour in resting:
                continue
            started = time.monotonic()
            with failing.one(hour):
                async with pool.acquire() as connection, connection.transaction():
                    done += await rollup_store.roll_up(connection, hour)
            metrics.ROLLING.observe(time.monotonic() - started)
    metrics.ROLLING_DUE.set(await rollup_store.count_due(pool, before=now - OVER))
    return done


async def run(pool: asyncpg.Pool, clock: BusinessClock, retention: timedelta) -> None:
    forgotten_at = float("-inf")
    failing = Failing[datetime]("roll_up")
    while True:
        started = time.monotonic()
        await roll_up_due(pool, now=clock.now(), failing=failing)
        pause = min(PAUSES * (time.monotonic() - started), PAUSE_MAX_SECONDS)
        if time.monotonic() - forgotten_at > FORGET_SECONDS:
            forgotten_at = time.monotonic()
            async with pool.acquire() as connection:
                await rollup_store.forget_before(connection, (clock.now() - retention).replace(hour=0, minute=0, second=0, microsecond=0))
        await asyncio.sleep(max(PAUSE_SECONDS, pause))
