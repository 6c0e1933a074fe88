"""Every threshold that a running total has ever reached is told exactly once: jumps, corrections, changes of plan, two collectors."""

import asyncio
from copy import deepcopy
from datetime import timedelta
from typing import Any

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import SubscriptionUpdated, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import corrections, publishing
from usage_collector.corrections import Adjustment

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

TIERS = [{"up_to": 2, "amount": "0.10"}, {"up_to": 6, "amount": "0.05"}, {"up_to": 12, "amount": "0.02"}, {"up_to": None, "amount": "0.01"}]
SHARES = ("0.5", "1", "2")
PLAN: dict[str, Any] = {
    "id": "graduated",
    "name": "Graduated",
    "model": "Graduated",
    "price": {"usage": [{"meter": "calls", "tiers": TIERS}]},
    "quota": {"calls": 10, "window": "30_days", "beyond": "overage", "thresholds": SHARES},
}
DOCUMENT: dict[str, Any] = deepcopy(CATALOGUE)
DISCOUNTS = [{"up_to": 6, "percent": "0"}, {"up_to": None, "percent": "20"}]
DISCOUNTED = {"usage": [{"meter": "calls", "amount": "0.10", "included": 4, "discounts": DISCOUNTS}]}
DOCUMENT["products"] += [
    PLAN,
    {**PLAN, "id": "other", "name": "Other"},
    {"id": "discounted", "name": "Discounted", "model": "VolumeDiscount", "price": DISCOUNTED},
]
Told = tuple[str, str, int]  # kind, threshold, quantity


class World:
    """One subscription counted by two collectors, of which any may be a new process."""

    def __init__(self, pool: asyncpg.Pool, clock: FixedClock) -> None:
        self.pool, self.clock, self.calls, self.corrections = pool, clock, 0, 0
        self.collectors = [make_collector(pool), make_collector(pool)]

    async def call(self, count: int, at: Any = START, which: int = 0) -> None:
        await collect(self.collectors[which], self.clock, [call(str(self.calls + n), at) for n in range(count)])
        self.calls += count

    async def adjust(self, quantity: int) -> None:
        self.corrections += 1
        one = Adjustment(
            subscription_id="sub-1", meter_id="calls", quantity=quantity, at=START, reason=f"no. {self.corrections}", author="ada"
        )
        await corrections.adjust(self.collectors[0], one, now=self.clock.now())

    async def publish(self) -> None:
        """Both collectors publish at once."""
        now = self.clock.now()
        await asyncio.gather(*(publishing.publish_all_windows(self.pool, one.directory, now=now) for one in self.collectors))

    async def events(self) -> list[UsageThresholdReached]:
        async with self.pool.acquire() as connection:
            return list(await events_in_outbox(connection, UsageThresholdReached))

    async def told(self) -> list[Told]:
        return [(event.kind, f"{event.threshold:f}", event.quantity) for event in await self.events()]


async def test_each_tier_that_a_jump_enters_is_told_once(pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> None:
    world = World(pool, clock)
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="graduated"))
    for count in (2, 1, 1, 9, 1):
        await world.call(count)
        await world.publish()
    assert await world.told() == [
        ("tier", "2", 3), ("allowance", "0.5", 13), ("allowance", "1", 13), ("tier", "3", 13), ("tier", "4", 13)
    ]  # fmt: skip
    tier = (await world.events())[0]
    assert (tier.limit, tier.hard_stop, tier.period_start, tier.period_end, tier.product_id) == (2, False, START, None, "graduated")


async def test_the_second_tier_is_not_twice_the_quota(pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> None:
    world = World(pool, clock)
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="graduated"))
    await world.call(20)
    await world.publish()
    events = [event for event in await world.events() if f"{event.threshold:f}" == "2"]
    assert {(event.kind, event.limit) for event in events} == {("allowance", 10), ("tier", 2)}
    assert len({event.event_id for event in events}) == len(events)


async def test_an_included_amount_and_discounts_of_one_meter_are_both_told(pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> None:
    world = World(pool, clock)
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="discounted"))
    for count in (4, 3):
        await world.call(count)
        await world.publish()
    assert await world.told() == [("allowance", "0.5", 4), ("allowance", "0.8", 4), ("allowance", "1", 4), ("tier", "2", 7)]


async def test_another_period_and_another_plan_enter_tiers_of_their_own(pool: asyncpg.Pool, clock: FixedClock, publish: Publish) -> None:
    world, changed = World(pool, clock), FEBRUARY + timedelta(hours=1)
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="graduated"))
    await world.call(3)
    await publish(renewed(product_id="graduated"))
    clock.instant = FEBRUARY + timedelta(hours=5)
    period = {"current_period_start": FEBRUARY, "current_period_end": MARCH}
    await publish(state(SubscriptionUpdated, revision=3, product_id="other", occurred_at=changed, **period))
    await world.call(3, FEBRUARY)
    await world.call(3, changed)
    await world.publish()
    events = [event for event in await world.events() if event.kind == "tier"]
    assert sorted((event.period_start, event.product_id, event.quantity) for event in events) == [
        (START, "graduated", 3), (FEBRUARY, "graduated", 3), (changed, "other", 3)
    ]  # fmt: skip


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 9)),
        st.tuples(st.just("adjust"), st.integers(-9, 9).filter(bool)),
        st.tuples(st.just("publish"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
async def test_what_the_total_has_ever_reached_is_told_once(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, steps: list[tuple[str, int]]
) -> None:
    await empty(pool)
    world, total, highest = World(pool, clock), 0, 0
    await publish(catalogue_applied(DOCUMENT))
    await publish(state(product_id="graduated"))
    for step, number in [*steps, ("publish", 0)]:
        if step == "call":
            await world.call(number, which=number % 2)
            total += number
        elif step == "adjust" and total + number >= 0:
            await world.adjust(number)
            total += number
        elif step == "publish":
            await world.publish()
            highest = max(highest, total)
        elif step == "restart":
            world.collectors = [make_collector(pool), make_collector(pool)]
    expected = {("allowance", share) for share in SHARES if highest >= float(share) * 10}
    expected |= {("tier", str(number)) for number, before in ((2, 2), (3, 6), (4, 12)) if highest > before}
    told = [(kind, threshold) for kind, threshold, _ in await world.told()]
    assert sorted(told) == sorted(expected)
