"""Shares of a spend cap: told from the bill so far, once each, and nothing stops."""

import asyncio
from copy import deepcopy
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import SubscriptionUpdated, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import corrections, publishing, spending
from usage_collector.corrections import Adjustment
from usage_collector.late import settle_late
from usage_collector.standing import standing

from .conftest import (
    CATALOGUE,
    FEBRUARY,
    MARCH,
    START,
    FixedClock,
    Publish,
    call,
    catalogue_applied,
    collect,
    empty,
    make_collector,
    renewed,
    state,
)

USAGE = [{"meter": "calls", "amount": "1"}]


def plan(product_id: str, cap: str | None, **price: Any) -> dict[str, Any]:
    capped = {"spend_cap": cap} if cap else {}
    return {"id": product_id, "name": product_id, "model": "Hybrid", "price": {"usage": USAGE, **price, **capped}}


DOCUMENT: dict[str, Any] = deepcopy(CATALOGUE)
DOCUMENT["products"] += [
    {**plan("capped", "10"), "currencies": {"eur": {"usage": [{"meter": "calls", "amount": "2"}], "spend_cap": "30"}}},
    plan("higher", "20"),
    plan("open", None),
    {**plan("with-fee", "40", base="31"), "policies": {"proration": "none"}},
    plan("dear", "10", usage=[{"meter": "calls", "amount": "1000"}]),
]
SHARES = (("0.5", 500), ("0.8", 800), ("1", 1000))


class World:
    """One subscription and the collectors that count it."""

    def __init__(self, pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> None:
        self.pool, self.clock, self.publish, self.calls, self.corrections = pool, clock, publish, 0, 0
        self.collectors = [make_collector(pool), make_collector(pool)]

    async def call(self, count: int, at: Any = START) -> None:
        await collect(self.collectors[0], self.clock, [call(str(self.calls + n), at) for n in range(count)])
        self.calls += count

    async def adjust(self, quantity: int) -> None:
        self.corrections += 1
        one = Adjustment(
            subscription_id="sub-1", meter_id="calls", quantity=quantity, at=START, reason=f"no. {self.corrections}", author="ada"
        )
        await corrections.adjust(self.collectors[0], one, now=self.clock.now())

    async def tell(self) -> list[tuple[str, int]]:
        """Have two collectors publish at once; returns (share, bill so far in minor units) of everything that was told, oldest first."""
        now = self.clock.now()
        await asyncio.gather(*(publishing.publish_all_windows(self.pool, one.directory, now=now) for one in self.collectors))
        return [(f"{event.threshold:f}", event.quantity) for event in await self.events()]

    async def events(self) -> list[UsageThresholdReached]:
        async with self.pool.acquire() as connection:
            return [one for one in await events_in_outbox(connection, UsageThresholdReached) if one.kind == "spend_cap"]


@pytest.fixture
async def world(pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> World:
    await publish(catalogue_applied(DOCUMENT))
    return World(pool, clock, publish)


async def test_each_share_of_the_cap_is_told_once_with_the_bill_so_far(world: World) -> None:
    await world.publish(state(product_id="capped"))
    await world.call(4)
    assert await world.tell() == []
    await world.call(1)
    assert await world.tell() == [("0.5", 500)]
    await world.call(7, START + timedelta(hours=1))
    assert await world.tell() == [("0.5", 500), ("0.8", 1200), ("1", 1200)]
    await world.call(9)
    assert len(await world.tell()) == 3
    first = (await world.events())[0]
    assert (first.limit, first.currency, first.meter_id, first.product_id, first.hard_stop) == (1000, "usd", "", "capped", False)
    assert (first.period_start, first.period_end, first.account_id) == (START, FEBRUARY, "acct-sub-1")


async def test_a_cap_counts_in_the_currency_of_the_subscription(world: World) -> None:
    await world.publish(state(product_id="capped", currency="eur"))
    await world.call(8)
    assert await world.tell() == [("0.5", 1600)]
    (event,) = await world.events()
    assert (event.limit, event.currency) == (3000, "eur")


async def test_the_fee_is_part_of_what_is_spent_and_the_next_period_begins_anew(world: World) -> None:
    await world.publish(state(product_id="with-fee"))  # its fee is due from the first full period on
    await world.call(20)
    assert await world.tell() == [("0.5", 2000)]
    await world.publish(renewed(product_id="with-fee"))
    world.clock.instant = FEBRUARY + timedelta(hours=1)
    await world.call(1, FEBRUARY)
    assert await world.tell() == [("0.5", 2000), ("0.5", 3200), ("0.8", 3200)]
    events = await world.events()
    assert [(event.period_start, event.period_end) for event in events] == [(START, FEBRUARY), (FEBRUARY, MARCH), (FEBRUARY, MARCH)]
    assert len({event.event_id for event in events}) == 3


@pytest.mark.parametrize(
    ("after", "expected"), [("higher", [("capped", "0.5", 600), ("higher", "0.5", 1100)]), ("open", [("capped", "0.5", 600)])]
)
async def test_after_a_change_of_plan_the_new_cap_counts_for_all_of_the_period(
    world: World, after: str, expected: list[tuple[str, str, int]]
) -> None:
    changed = START + timedelta(hours=3)
    await world.publish(state(product_id="capped"))
    await world.call(6)
    await world.tell()
    world.clock.instant = START + timedelta(hours=5)
    await world.publish(state(SubscriptionUpdated, revision=2, product_id=after, occurred_at=changed))
    await world.call(5, changed)
    await world.call(0 if after == "higher" else 9, START)  # late news of the plan that was left
    await world.tell()
    assert [(event.product_id, f"{event.threshold:f}", event.quantity) for event in await world.events()] == expected


async def test_another_version_of_the_plan_does_not_tell_a_share_again(world: World) -> None:
    changed = START + timedelta(hours=3)
    await world.publish(catalogue_applied(DOCUMENT, version=2))
    await world.publish(state(product_id="capped"))
    await world.call(6)
    await world.tell()
    world.clock.instant = START + timedelta(hours=5)
    await world.publish(state(SubscriptionUpdated, revision=2, product_id="capped", catalogue_version=2, occurred_at=changed))
    await world.call(2, changed)
    assert await world.tell() == [("0.5", 600), ("0.8", 800)]


async def test_late_usage_that_is_billed_reaches_the_cap_of_its_own_period(world: World) -> None:
    await world.publish(state(product_id="capped"))
    await world.call(4)
    world.clock.instant = FEBRUARY + timedelta(minutes=5)
    due = await publishing.due_segments(world.pool, now=world.clock.now(), wall=START, grace=timedelta(0))
    await publishing.close_segments(world.pool, world.collectors[0].directory, [one.id for one in due], now=world.clock.now())
    await world.call(1)
    while await settle_late(world.collectors[0], now=world.clock.now()):
        pass
    assert await world.tell() == [("0.5", 500)]
    assert (await world.events())[0].period_start == START


async def test_a_plan_that_is_not_sold_in_the_currency_keeps_no_other_from_being_told(world: World) -> None:
    await world.publish(state(product_id="open", currency="eur"))
    changed = START + timedelta(hours=1)
    await world.publish(state(SubscriptionUpdated, revision=2, product_id="capped", currency="eur", occurred_at=changed))
    await world.publish(state(sub="sub-2", product_id="capped"))
    await world.call(20, changed)
    await collect(world.collectors[0], world.clock, [call(f"other {n}", START, sub="sub-2") for n in range(5)])
    assert await world.tell() == [("0.5", 500)]


async def test_a_plan_without_a_cap_costs_no_query(world: World, pool: asyncpg.Pool) -> None:
    directory, nothing = world.collectors[0].directory, Any
    async with pool.acquire() as connection:
        await directory.rules_of(connection, ("open", 1))
    row = {"subscription_id": "sub-1", "segment_start": START, "started_at": START, "product_id": "open", "catalogue_version": 1}
    assert await spending.reached(nothing, directory, [row], now=START) == []  # type: ignore[arg-type]  # it would fail when used


async def test_the_standing_says_the_cap(world: World, pool: asyncpg.Pool) -> None:
    await world.publish(state(product_id="capped"))
    await world.call(4)
    async with pool.acquire() as connection:
        found = await standing(connection, world.collectors[0].directory, "sub-1", now=world.clock.now())
    assert found is not None
    assert found.bill is not None
    assert (found.bill.total_minor, found.spend_cap_minor) == (400, 1000)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 6)),
        st.tuples(st.just("adjust"), st.integers(-6, 6).filter(bool)),
        st.tuples(st.just("tell"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=10,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
async def test_what_the_bill_has_ever_reached_is_told_once(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, steps: list[tuple[str, int]]
) -> None:
    await empty(pool)
    world, total, highest = World(pool, clock, publish), 0, 0
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="capped"))
    for step, number in [*steps, ("tell", 0)]:
        if step == "call":
            await world.call(number)
            total += number
        elif step == "adjust" and total + number >= 0:
            await world.adjust(number)
            total += number
        elif step == "tell":
            await world.tell()
            highest = max(highest, total)
        elif step == "restart":
            world.collectors = [make_collector(pool), make_collector(pool)]
    assert sorted(share for share, _ in await world.tell()) == [share for share, minor in SHARES if highest * 100 >= minor]


async def test_a_bill_beyond_the_largest_whole_number_of_postgres_keeps_no_total_from_being_published(world: World) -> None:
    await world.publish(state(product_id="dear"))
    await world.adjust(10**15 - 1)
    assert await world.tell() == [(share, 2**63 - 1) for share, _ in SHARES]
    async with world.pool.acquire() as connection:
        assert await connection.fetchval("select count(*) from usage_window where dirty") == 0
