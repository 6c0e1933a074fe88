"""What is taken back of reports shows in all sums, waits for nobody's lock in the wrong order, and stops at closed segments."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from billing_common.events import SubscriptionUpdated, UsageCollected
from billing_common.testing import OneConnectionPool, events_in_outbox
from usage_collector import handlers, publishing, rolling, rollup_store, store
from usage_collector.collecting import Collector
from usage_collector.report_polling import ReportPolling

from .conftest import FEBRUARY, START, FixedClock, Publish, catalogue_applied, collect, outcomes, settle, state
from .test_recounting import CALLS, CHANGED_AT, HOUR, Gateway, billed, changed, poller, sources

NEXT_HOUR = HOUR + timedelta(hours=1)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway(CALLS)


@pytest.fixture
def polling(pool: asyncpg.Pool, collector: Collector, gateway: Gateway, clock: FixedClock) -> ReportPolling:
    return poller(pool, collector, gateway, clock)


async def read_all(polling: ReportPolling, clock: FixedClock) -> None:
    await polling.read_round(now=clock.now())
    while await polling.is_behind(now=clock.now()):
        await polling.read_round(now=clock.now())


async def by_hour(pool: asyncpg.Pool) -> tuple[dict[datetime, int], dict[datetime, int]]:
    """Return what each hour has, as pages add it up and as its windows say."""
    async with pool.acquire() as connection:
        found = await rollup_store.split(connection, ["sub-1"], HOUR, HOUR + timedelta(hours=3), ["hour"])
    shown = {row["hour"]: row["quantity"] for row in found.rows if row["quantity"]}
    counted: dict[datetime, int] = {}
    for (_, hour), quantity in (await billed(pool)).items():
        counted[hour] = counted.get(hour, 0) + quantity
    return shown, {hour: quantity for hour, quantity in counted.items() if quantity}


async def test_sums_by_hour_follow_what_is_taken_back_of_a_segment_that_stays(
    pool: asyncpg.Pool, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    """The change is heard of after the period that followed it: the hour of that period is read again as well."""
    clock.instant = START + timedelta(hours=3)
    await publish(catalogue_applied(sources("reports", "reports")))
    await publish(state(current_period_end=NEXT_HOUR))
    period = {"current_period_start": NEXT_HOUR, "current_period_end": FEBRUARY, "occurred_at": NEXT_HOUR}
    await publish(state(SubscriptionUpdated, revision=3, product_id="hybrid", **period))
    await read_all(polling, clock)
    await rolling.roll_up_due(pool, now=clock.now() + timedelta(days=1))
    assert await by_hour(pool) == ({HOUR: 17, NEXT_HOUR: 3}, {HOUR: 17, NEXT_HOUR: 3})
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=CHANGED_AT, current_period_end=NEXT_HOUR))
    shown, counted = await by_hour(pool)
    assert shown == counted
    assert NEXT_HOUR not in counted
    await read_all(polling, clock)
    assert await by_hour(pool) == ({HOUR: 17, NEXT_HOUR: 3}, {HOUR: 17, NEXT_HOUR: 3})


async def test_totals_that_were_told_before_are_told_anew_with_less_and_then_with_what_was_read_again(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    """They are at Stripe by then: the reporter sends the difference between two totals of a window."""
    await publish(catalogue_applied(sources("reports", "reports")))
    await publish(state())
    await read_all(polling, clock)
    assert await told(pool, collector, clock) == {(START, HOUR): [17], (START, NEXT_HOUR): [3]}
    await publish(changed())
    assert await told(pool, collector, clock) == {(START, HOUR): [17, 0], (START, NEXT_HOUR): [3, 0]}
    await read_all(polling, clock)
    assert await told(pool, collector, clock) == {
        (START, HOUR): [17, 0, 10], (START, NEXT_HOUR): [3, 0], (CHANGED_AT, HOUR): [7], (CHANGED_AT, NEXT_HOUR): [3]
    }  # fmt: skip


async def told(pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> dict[tuple[datetime, datetime], list[int]]:
    """Publish; return what was ever told of each window, in the order of revisions."""
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    found: dict[tuple[datetime, datetime], list[int]] = {}
    async with pool.acquire() as connection:
        events = await events_in_outbox(connection, UsageCollected)
    for event in sorted(events, key=lambda event: event.revision):
        found.setdefault((event.segment_start, event.hour), []).append(event.quantity)
    return found


async def test_calls_behind_an_end_that_moves_away_are_read_however_long_ago_they_were(
    pool: asyncpg.Pool, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state(current_period_end=CHANGED_AT))
    clock.instant = START + timedelta(days=1)
    await read_all(polling, clock)
    assert await billed(pool) == {(START, HOUR): 10}
    await publish(state(SubscriptionUpdated, revision=2, current_period_end=FEBRUARY))
    await read_all(polling, clock)
    assert await by_hour(pool) == ({HOUR: 17, NEXT_HOUR: 3}, {HOUR: 17, NEXT_HOUR: 3})


async def test_a_count_waits_for_who_moves_the_segments_before_it_looks_at_them(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await collect(collector, clock, CALLS)
    moved = list[asyncio.Task[None]]()
    holds = asyncio.Event()

    async def move() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await store.lock_exclusive(connection)
            holds.set()
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            async with asyncio.timeout(60):
                while not await pool.fetchval(waiting):
                    await asyncio.sleep(0.02)
            await handlers._on_state(changed(), OneConnectionPool(connection), clock)  # type: ignore[arg-type]

    async def begin() -> None:
        moved.append(asyncio.create_task(move()))
        await holds.wait()

    gateway.meanwhile = [begin]
    await polling.read_round(now=clock.now())
    await moved[0]
    await read_all(polling, clock)
    await settle(collector)
    assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 7, (CHANGED_AT, NEXT_HOUR): 3}


async def test_what_a_closed_segment_has_counted_stays_also_where_it_is_not_known_how_far_it_was_counted(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    clock.instant = START + timedelta(hours=3)
    await publish(catalogue_applied(sources("reports", "reports")))
    await publish(state(current_period_end=CHANGED_AT))
    period = {"current_period_start": CHANGED_AT, "current_period_end": FEBRUARY}
    await publish(state(SubscriptionUpdated, revision=2, occurred_at=CHANGED_AT, **period))
    await read_all(polling, clock)
    before = await billed(pool)
    await pool.execute("update report_bucket set counted_from = null, counted_until = null")  # counted before that was kept
    first = await pool.fetchval("select id from segment order by started_at limit 1")
    assert await publishing.close_segments(pool, collector.directory, [first], now=clock.now()) == 1
    later = CHANGED_AT + timedelta(minutes=3)
    await publish(state(SubscriptionUpdated, revision=3, product_id="hybrid", occurred_at=later, **period))
    assert (await billed(pool))[START, HOUR] == before[START, HOUR] == 10
    await read_all(polling, clock)
    await settle(collector)
    assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 3, (later, HOUR): 4, (later, NEXT_HOUR): 3}
    assert (await outcomes(pool))[f"sub-1:{HOUR.isoformat()}:10"] == "counted"
