"""Held events are judged page by page: a crash, another collector or a change between two pages loses and doubles nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import SubscriptionUpdated
from usage_collector import corrections, settling
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment
from usage_collector.settling import Pass, begin, judge_page

from .conftest import START, FixedClock, Publish, call, catalogue_applied, collect, empty, make_collector, outcomes, settle, state, windows

CHANGED_AT = START + timedelta(minutes=20)


@pytest.fixture(autouse=True)
def tiny_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PAGE", 2)


def calls(number: int, sub: str = "sub-1") -> list[Any]:
    return [call(f"{sub}-{n}", START + timedelta(minutes=5 * n), sub=sub, properties={"responseBytes": 7}) for n in range(number)]


async def is_unsettled(pool: asyncpg.Pool) -> bool:
    return bool(await pool.fetchval("select bool_or(unsettled) from subscription"))


async def test_a_handler_comes_in_between_two_pages(pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock) -> None:
    await publish(catalogue_applied())
    await collect(collector, clock, calls(5))
    await publish(state())
    begun = await begin(collector)
    assert not await judge_page(collector, begun, clock.now())
    assert sum(events for _, events in (await windows(pool)).values()) == 2
    await asyncio.wait_for(publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=CHANGED_AT)), 5)
    assert await judge_page(collector, begun, clock.now()), "it changed meanwhile: the rest is left to another pass"
    assert await is_unsettled(pool)
    await settle(collector, clock.now())
    assert {(meter, at): quantity for (_, meter, at, _), (quantity, _) in (await windows(pool)).items()} == {
        ("calls", START): 4,
        ("calls", CHANGED_AT): 1,
        ("traffic", CHANGED_AT): 7,
    }


async def test_an_hour_that_is_full_keeps_nobody_else_waiting(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await collect(collector, clock, [*calls(3), call("next-hour", START + timedelta(minutes=40)), *calls(1, "sub-2")])
    for sub in ("sub-1", "sub-2"):
        await publish(state(sub=sub))
    begun = await begin(collector)
    await judge_page(collector, begun, clock.now())
    await pool.execute("update usage_window set quantity = 999999999999999 where hour = $1", START.replace(minute=0))
    while not await judge_page(collector, begun, clock.now()):
        pass
    found = await outcomes(pool)
    assert sorted(found.values()).count("rejected: total_too_large") in {1, 2}
    assert found["sub-2-0"] == "counted"
    assert found["next-hour"] == "counted"
    assert not await is_unsettled(pool)


async def test_a_catalogue_that_comes_between_two_pages_is_not_missed(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, calls(5))
    await publish(state())
    begun = await begin(collector)
    await judge_page(collector, begun, clock.now())
    await publish(catalogue_applied())
    while not await judge_page(collector, begun, clock.now()):
        pass
    await settle(collector, clock.now())
    assert set((await outcomes(pool)).values()) == {"counted"}


async def test_what_a_page_took_stays_taken_when_the_next_one_crashes(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await collect(collector, clock, calls(5))
    await publish(state())
    await judge_page(collector, await begin(collector), clock.now())  # and its process is gone
    assert await is_unsettled(pool)
    await settle(make_collector(pool), clock.now())
    assert sum(quantity for quantity, _ in (await windows(pool)).values()) == 5
    assert await pool.fetchval("select count(*) from held_event") == 0
    assert not await is_unsettled(pool)


async def test_events_that_stay_held_are_judged_once_in_a_pass(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    early = [call(f"early-{n}", START - timedelta(minutes=1 + n)) for n in range(3)]
    await collect(collector, clock, [*early, *calls(4)])
    await publish(state())
    await asyncio.wait_for(settle(collector, clock.now()), 5)
    assert list((await outcomes(pool)).values()).count("held: before_start") == 3
    assert sum(quantity for quantity, _ in (await windows(pool)).values()) == 4
    assert not await is_unsettled(pool)


async def test_two_collectors_settle_the_same_subscription_once(pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> None:
    await publish(catalogue_applied())
    await collect(make_collector(pool), clock, [*calls(9), *calls(4, "sub-2")])
    for sub in ("sub-1", "sub-2"):
        await publish(state(sub=sub))
    await asyncio.gather(*(settle(make_collector(pool), clock.now()) for _ in range(3)))
    assert {sub: quantity for (sub, _, _, hour), (quantity, _) in (await windows(pool)).items() if hour < START} == {"sub-1": 6, "sub-2": 4}
    assert sum(quantity for quantity, _ in (await windows(pool)).values()) == 13
    assert not await is_unsettled(pool)


async def test_what_takes_away_is_judged_after_what_it_takes_from(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, calls(6))
    for number, less in enumerate((-2, -2, -1)):
        wanted = Adjustment("sub-1", "calls", less, START + timedelta(minutes=2, seconds=number), f"probe {number}", "Ada")
        await corrections.adjust(collector, wanted, now=clock.now())
    await publish(state(SubscriptionUpdated, revision=2, product_id="enterprise", occurred_at=START + timedelta(minutes=1)))
    await publish(state(SubscriptionUpdated, revision=3, product_id="payg", occurred_at=START + timedelta(minutes=1)))
    begun, is_last = await begin(collector), False
    while not is_last:
        is_last = await judge_page(collector, begun, clock.now())
        assert min(quantity for quantity, _ in (await windows(pool)).values()) >= 0
    assert sum(quantity for quantity, _ in (await windows(pool)).values()) == 1
    assert not await is_unsettled(pool)


STEPS = st.lists(st.sampled_from(["page of one", "page of the other", "crash"]), min_size=20, max_size=20)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, data=st.data())
async def test_whatever_happens_between_pages_all_ends_as_if_everything_had_been_known(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, steps: list[str], data: st.DataObject
) -> None:
    """Two collectors, crashes, batches and news in any order; pages of two events."""
    seen = [*calls(7), *calls(5, "sub-2")]
    changed = state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=CHANGED_AT)
    known = [catalogue_applied(), state(), changed, state(sub="sub-2", product_id="hybrid")]
    news: list[Callable[[], Awaitable[None]]] = [
        *(lambda event=event: publish(event) for event in known),
        *(lambda batch=batch: collect(make_collector(pool), clock, batch) for batch in (seen[:5], seen[3:9], seen[8:])),
    ]
    await empty(pool)
    passes: dict[str, tuple[Collector, Pass]] = {}
    for one in data.draw(st.permutations(news)):
        await one()
        for step in (steps.pop() for _ in range(min(2, len(steps)))):
            if step == "crash":
                passes.clear()
                continue
            if step not in passes:
                collector = make_collector(pool)
                passes[step] = collector, await begin(collector)
            if await judge_page(*passes[step], clock.now()):
                del passes[step]
    await settle(make_collector(pool), clock.now())
    found = {(sub, meter, at): quantity for (sub, meter, at, hour), (quantity, _) in (await windows(pool)).items() if hour < START}
    assert found == {
        ("sub-1", "calls", START): 4,
        ("sub-1", "calls", CHANGED_AT): 2,
        ("sub-1", "traffic", CHANGED_AT): 14,
        ("sub-2", "calls", START): 5,
        ("sub-2", "traffic", START): 35,
    }
    assert sum(events for _, events in (await windows(pool)).values()) == 4 + 2 * 3 + 2 * 5
    assert set((await outcomes(pool)).values()) == {"counted"}
