"""Batches of observations: each event in exactly one outcome, the same windows however they come."""

import asyncio
from collections import Counter
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from usage_collector import store
from usage_collector.adding import Adding
from usage_collector.app import reading_limits
from usage_collector.collecting import Collector
from usage_collector.directory import Directory
from usage_collector.settings import Settings

from .conftest import START, FixedClock, Publish, call, catalogue_applied, collect, make_collector, outcomes, renewed, state, windows

HOUR = START.replace(minute=0)


@pytest.fixture
async def ready(publish: Publish) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await publish(state(sub="sub-2", product_id="hybrid"))


async def test_an_event_is_counted_once_however_often_it_comes(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START), call("a", START), call("b", START)])
    await collect(collector, clock, [call("a", START)])
    await collect(make_collector(pool), clock, [call("a", START + timedelta(minutes=3))])
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (2, 2)}
    assert await pool.fetchval("select sum(events) from duplicate_count") == 3


async def test_the_same_id_on_another_day_is_another_event(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = START + timedelta(days=2)
    await collect(collector, clock, [call("a", START), call("a", START + timedelta(days=1))])
    assert sum(quantity for quantity, _ in (await windows(pool)).values()) == 2


async def test_an_event_that_comes_again_a_month_later_is_known_to_another_process_too(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START)])
    for days in (1, 30, 39):
        clock.instant = START + timedelta(days=days)
        later = make_collector(pool)
        await later.keep_partitions(clock.now(), timedelta(days=90))
        await collect(later, clock, [call("a", START)])
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (1, 1)}
    assert await pool.fetchval("select sum(events) from duplicate_count") == 3


async def test_the_same_event_in_32_batches_at_once_is_counted_once(pool: asyncpg.Pool, ready: None, clock: FixedClock) -> None:
    collectors = [make_collector(pool) for _ in range(4)]
    await asyncio.gather(*(collect(collectors[n % 4], clock, [call("a", START), call(f"own-{n}", START)]) for n in range(32)))
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (33, 33)}


async def test_what_one_task_found_is_not_taken_from_it_by_another_that_learns_of_a_change(
    pool: asyncpg.Pool, ready: None, publish: Publish
) -> None:
    directory = Directory()
    async with pool.acquire() as connection:
        await directory.refresh(connection)
        found = await directory.find(connection, {"sub-1", "sub-9"})
        await publish(renewed())
        await directory.refresh(connection)
        again = await directory.find(connection, {"sub-1"})
    assert {sid: len(holder.stretches) for sid, holder in found.items()} == {"sub-1": 1}
    assert {sid: len(holder.stretches) for sid, holder in again.items()} == {"sub-1": 2}


async def test_tasks_of_one_process_do_not_meet_at_the_same_event_in_the_database(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    before = REGISTRY.get_sample_value("turnpike_usage_collisions_total")
    batches = [[call("a", START), call("b", START), call(f"own-{n}", START)] for n in range(12)]
    await asyncio.gather(*(collect(collector, clock, batch) for batch in batches))
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (14, 14)}
    assert await pool.fetchval("select sum(events) from duplicate_count") == 22
    assert REGISTRY.get_sample_value("turnpike_usage_collisions_total") == before


async def test_what_another_task_adds_comes_after_it_also_when_that_fails() -> None:
    adding, shared, own = Adding(), call("a", START), call("own", START)
    claim = adding.claim([shared])
    claim.__enter__()
    free, waiting = adding.split([shared, own])
    assert (free, waiting) == ([own], [shared])
    later = asyncio.create_task(adding.ended(waiting))
    await asyncio.sleep(0)
    assert not later.done()
    error = OSError("away")
    assert not claim.__exit__(OSError, error, None)
    await asyncio.wait_for(later, 1)
    assert adding.split([shared, own]) == ([shared, own], ())


async def test_a_batch_that_meets_the_same_event_in_an_open_transaction_is_written_once_that_ends(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    other = make_collector(pool)
    await other.ensure_partitions({START.date()})
    async with pool.acquire() as connection, connection.transaction():
        await other.add(connection, [call("a", START)])
        meeting = asyncio.create_task(collect(collector, clock, [call("a", START), call("b", START), call("b", START)]))
        while not await pool.fetchval("select count(*) from pg_locks where not granted and locktype = 'transactionid'"):
            assert not meeting.done(), "it waits for the other transaction"
            await asyncio.sleep(0.01)
    await meeting
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (2, 2)}
    assert await pool.fetchval("select sum(events) from duplicate_count") == 2


async def test_each_event_ends_in_one_outcome_with_its_reason(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(
        collector,
        clock,
        [
            call("counted", START),
            call("weighted", START, method="POST", template="/orders"),
            call("failed", START, status=500),
            call("blocked", START, status=429),
            call("unanswered", START, status=None),
            call("redirected", START, status=302),
            call("anonymous", START, sub=""),
            call("other source", START, origin="ingest"),
            call("too big", START, sub="sub-2", properties={"responseBytes": 10**16}),
            call("unknown", START, sub="sub-9"),
            call("early", START - timedelta(days=1)),
            call("next period", START + timedelta(days=30)),
            call("old", START - timedelta(days=50)),
            call("future", clock.now() + timedelta(minutes=6)),
        ],
    )
    assert await outcomes(pool) == {
        "counted": "counted",
        "weighted": "counted",
        "failed": "filtered: failed",
        "blocked": "filtered: blocked",
        "unanswered": "filtered: no_status",
        "redirected": "filtered: meter_filter",
        "anonymous": "filtered: no_subscription",
        "other source": "filtered: other_source",
        "too big": "rejected: quantity_too_large",
        "unknown": "held: unknown_subscription",
        "early": "held: before_start",
        "next period": "rejected: in_the_future",
        "old": "rejected: too_old",
        "future": "rejected: in_the_future",
    }
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (6, 2)}


async def test_what_the_door_took_is_taken_by_a_collector_whose_clock_is_a_little_behind(
    pool: asyncpg.Pool, ready: None, clock: FixedClock
) -> None:
    given = {"database_url": "postgresql://x", "kafka_bootstrap_servers": "x:1", "internal_token_keys": "k" * 32}
    age_max, ahead_max = reading_limits(Settings.model_validate(given))
    collector = Collector(pool, batch_max=10, age_max=age_max, ahead_max=ahead_max)
    at_the_door = clock.now()
    clock.instant -= timedelta(seconds=59)
    await collect(collector, clock, [call("ahead", at_the_door + timedelta(minutes=4, seconds=59))])
    await collect(collector, clock, [call("far", at_the_door + timedelta(minutes=5, seconds=2))])
    assert await outcomes(pool) == {"ahead": "counted", "far": "rejected: in_the_future"}


async def test_an_event_counts_for_each_meter_of_its_plan(pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock) -> None:
    seen = [call(str(n), START, sub="sub-2", properties={"responseBytes": 100 + n}) for n in range(3)]
    await collect(collector, clock, seen)
    await collect(collector, clock, seen)
    assert await windows(pool) == {("sub-2", "calls", START, HOUR): (3, 3), ("sub-2", "traffic", START, HOUR): (303, 3)}


async def test_a_batch_that_fails_leaves_no_trace(pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await collect(collector, clock, [call("a", START), call("b", START, template="\x00")])
    assert await outcomes(pool) == {}
    assert await windows(pool) == {}
    await collect(collector, clock, [call("a", START)])
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (1, 1)}


async def test_an_hour_that_grows_beyond_what_stripe_takes_stops_nobody_else(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START), call("b", START, sub="sub-2")])
    await pool.execute(
        "update usage_window set quantity = 999999999999999 where segment_id = (select id from segment where subscription_id = 'sub-1')"
    )
    later = START + timedelta(hours=1)
    await collect(
        collector,
        clock,
        [call("c", START), call("d", later), *(call(f"e{n}", START, sub="sub-2") for n in range(3)), call("unknown", START, sub="sub-9")],
    )
    assert (await outcomes(pool))["c"] == "rejected: total_too_large"
    found = await windows(pool)
    assert found["sub-1", "calls", START, HOUR + timedelta(hours=1)] == (1, 1)
    assert found["sub-1", "calls", START, HOUR] == (999999999999999, 1)
    assert found["sub-2", "calls", START, HOUR] == (4, 4)
    assert (await outcomes(pool))["unknown"].startswith("held")


async def test_days_beyond_the_retention_are_dropped_and_coming_days_are_made(
    pool: asyncpg.Pool, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START)])
    now = clock.now() + timedelta(days=100)
    await collector.keep_partitions(now, timedelta(days=90))
    async with pool.acquire() as connection:
        days = await store.partition_days(connection)
    assert START.date() not in days
    assert {now.date() + timedelta(days=n) for n in range(3)} <= days
    assert await pool.fetchval("select count(*) from held_event") == 0


SENT = st.lists(
    st.tuples(
        st.integers(0, 25),  # which event
        st.sampled_from(["sub-1", "sub-2", "sub-9"]),
        st.integers(0, 5400),  # seconds after the start
        st.sampled_from([200, 201, 404, 429, None]),
    ),
    max_size=25,
    unique_by=lambda event: event[0],
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=SENT, data=st.data())
async def test_any_interleaving_of_repeats_order_and_restarts_gives_the_same_windows(
    pool: asyncpg.Pool, ready: None, clock: FixedClock, sent: list[tuple[int, str, int, int | None]], data: st.DataObject
) -> None:
    for table in ("usage_event", "usage_event_meter", "held_event", "duplicate_count", "usage_window"):
        await pool.execute(f"delete from {table}")
    events = [
        call(f"event-{n}", START + timedelta(seconds=s), sub=sub, status=status, properties={"responseBytes": n})
        for n, sub, s, status in sent
    ]
    deliveries = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=20) if events else st.just([]))))
    collector = make_collector(pool)
    while deliveries:
        size = data.draw(st.integers(1, len(deliveries)))
        batch, deliveries = deliveries[:size], deliveries[size:]
        await collect(collector, clock, batch)
        if data.draw(st.booleans()):  # killed after its transaction and before its offset: a new process gets the batch again
            collector = make_collector(pool)
            await collect(collector, clock, batch)
    expected: Counter[tuple[str, str, object]] = Counter()
    for one in events:
        if one.sid != "sub-9" and one.status in (200, 201):
            hour = one.at.replace(minute=0, second=0)
            expected[one.sid, "calls", hour] += 1
            if one.sid == "sub-2":
                expected[one.sid, "traffic", hour] += (one.properties or {})["responseBytes"]
    found = {(sub, meter, hour): quantity for (sub, meter, _, hour), (quantity, _) in (await windows(pool)).items()}
    assert found == dict(expected) | {key: 0 for key in found if key[1] == "traffic" and not expected[key]}
    assert sorted(await outcomes(pool)) == sorted(one.external_id for one in events)
