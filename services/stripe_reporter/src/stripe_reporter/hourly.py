"""Reconciles by itself: once an hour of wall time, at one replica, everything that has moved and everything that did not agree."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from stripe_reporter import metrics, reconciliation_store
from stripe_reporter.reconciling import SUBSCRIPTIONS_MAX, Stations, reconcile

log = structlog.get_logger(__name__)
LOOK_SECONDS = 30.0
DAY = timedelta(days=1)
DAYS_BACK = 40  # the running month and what was invoiced for the last one; reports trail, late usage comes
MOVED_WITHIN = timedelta(days=2)
TRY_AGAIN = timedelta(minutes=5)
HOUR = timedelta(hours=1)
ROLLED_WITHIN = timedelta(minutes=15)  # after its end an hour's events are added up; where they are not, more have come since


async def run_once(stations: Stations) -> int:
    """Compare what has moved in two days or was open; returns how many subscriptions."""
    started = time.monotonic()
    now = stations.clocks.now
    until = now.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    since = until - DAYS_BACK * DAY
    async with stations.pool.acquire() as connection:
        names = await reconciliation_store.active_since(connection, stations.clocks.wall - MOVED_WITHIN)
    for start in range(0, len(names), SUBSCRIPTIONS_MAX):
        chunk = names[start : start + SUBSCRIPTIONS_MAX]
        answers = await reconcile(stations, chunk, since, until, rolled_up=True)
        whole = [one for one in answers if not one.problems]  # what did not answer has not said that it agrees
        found = [difference for one in whole for difference in one.found if difference.difference.needs_attention]
        hours = {hour for one in answers for hour in one.left_out if hour + HOUR + ROLLED_WITHIN <= now}
        undecided = {hour.replace(hour=0) for hour in hours}
        async with stations.pool.acquire() as connection, connection.transaction():
            await reconciliation_store.put_differences(
                connection, [one.subscription_id for one in whole], since, found, now, undecided=undecided
            )
    metrics.RECONCILING.observe(time.monotonic() - started)
    return len(names)


async def show(stations: Stations) -> None:
    """Put what the last run left into the gauges, at every replica."""
    async with stations.pool.acquire() as connection:
        counts = await reconciliation_store.counts(connection)
        last = await reconciliation_store.last_run(connection)
    metrics.show_differences([(row["cause"], row["explained"], row["n"]) for row in counts], last)


async def run(stations_now: Callable[[], Stations], every: timedelta) -> None:
    while True:
        stations = stations_now()
        wall: datetime = stations.clocks.wall
        async with stations.pool.acquire() as connection:
            mine = await reconciliation_store.begin_run(connection, wall, wall - every)
        if mine:
            try:
                done = await run_once(stations)
            except Exception:
                async with stations.pool.acquire() as connection:
                    await reconciliation_store.begin_again(connection, wall - every + TRY_AGAIN)
                raise
            async with stations.pool.acquire() as connection:
                await reconciliation_store.end_run(connection, stations_now().clocks.wall)
            log.info("stations compared", subscriptions=done)
        await show(stations)
        await asyncio.sleep(LOOK_SECONDS)
