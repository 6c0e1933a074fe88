"""Thresholds where a new version of the plan begins within a quota's window: each limit is told of the totals it was in force for."""

from copy import deepcopy
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from billing_common.events import SubscriptionUpdated, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import publishing
from usage_collector.collecting import Collector

from .conftest import CATALOGUE, FEBRUARY, START, FixedClock, Publish, call, catalogue_applied, collect, renewed, state

CHANGED = START + timedelta(hours=3)
HALF, MOST, ALL = Decimal("0.5"), Decimal("0.8"), Decimal(1)


def version_with(version: int, quota: int, *, window: str = "calendar_month", **more: Any) -> Any:
    """Return a version of the catalogue whose plan "own" has this quota, kept by a gateway that is not API Management."""
    document: dict[str, Any] = deepcopy(CATALOGUE)
    price = {"base": "5", "usage": [{"meter": "calls", "amount": "1"}]}
    plan = {"id": "own", "name": "Own", "model": "Hybrid", "source": "ingest", "price": price, **more}
    if quota:
        plan |= {"model": "Tier", "price": {"base": "5"}, "quota": {"calls": quota, "window": window}}
    document["products"].append(plan)
    return catalogue_applied(document, version=version)


class Told:
    """Counts calls, publishes, and reads back what was announced."""

    def __init__(self, pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> None:
        self.pool, self.collector, self.clock, self.calls = pool, collector, clock, 0

    async def after(self, *places: tuple[int, Any]) -> list[tuple[int | None, Decimal, int, bool]]:
        """Count some calls at each time; return (limit, threshold, quantity, hard stop) of all that was announced, oldest first."""
        for count, at in places:
            await collect(self.collector, self.clock, [call(str(self.calls + n), at, origin="ingest") for n in range(count)])
            self.calls += count
        await publishing.publish_all_windows(self.pool, self.collector.directory, now=self.clock.now())
        async with self.pool.acquire() as connection:
            events = await events_in_outbox(connection, UsageThresholdReached)
        assert len({event.event_id for event in events}) == len(events)
        return [(event.limit, event.threshold, event.quantity, event.hard_stop) for event in events]


@pytest.fixture
def told(pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> Told:
    clock.instant = START + timedelta(hours=5)
    return Told(pool, collector, clock)


async def begin(publish: Publish, quotas: tuple[int, int]) -> None:
    for version, quota in enumerate(quotas, start=1):
        await publish(version_with(version, quota))
    await publish(state(product_id="own"))


async def change(publish: Publish) -> None:
    await publish(state(SubscriptionUpdated, revision=2, product_id="own", catalogue_version=2, occurred_at=CHANGED))


async def test_a_quota_that_was_raised_is_told_again_with_its_new_amount(told: Told, publish: Publish) -> None:
    await begin(publish, (4, 10))
    before = [(4, HALF, 4, False), (4, MOST, 4, False), (4, ALL, 4, True)]
    assert await told.after((4, START)) == before
    await change(publish)
    assert await told.after((5, CHANGED)) == [*before, (10, HALF, 9, False), (10, MOST, 9, False)]
    assert (await told.after((1, CHANGED)))[5:] == [(10, ALL, 10, True)]


async def test_a_new_version_with_the_same_quota_repeats_nothing(told: Told, publish: Publish) -> None:
    await begin(publish, (4, 4))
    assert await told.after((2, START)) == [(4, HALF, 2, False)]
    await change(publish)
    assert await told.after((2, CHANGED)) == [(4, HALF, 2, False), (4, MOST, 4, False), (4, ALL, 4, True)]


async def test_a_late_call_of_the_old_version_does_not_reach_the_old_quota_with_calls_of_the_new_one(told: Told, publish: Publish) -> None:
    await begin(publish, (10, 100))
    await change(publish)
    assert await told.after((4, START), (20, CHANGED)) == []
    assert await told.after((1, START)) == [(10, HALF, 5, False)]


async def test_a_late_call_of_the_old_version_reaches_the_new_quota(told: Told, publish: Publish) -> None:
    await begin(publish, (100, 20))
    await change(publish)
    assert await told.after((4, START), (11, CHANGED)) == [(20, HALF, 15, False)]
    assert await told.after((1, START)) == [(20, HALF, 15, False), (20, MOST, 16, False)]


async def test_both_versions_in_one_round_of_publishing_are_told_each(told: Told, publish: Publish) -> None:
    await begin(publish, (4, 40))
    await change(publish)
    assert sorted(await told.after((2, START), (18, CHANGED))) == [(4, HALF, 2, False), (40, HALF, 20, False)]


async def test_the_old_quota_is_told_where_the_new_version_has_none(told: Told, publish: Publish) -> None:
    await begin(publish, (4, 0))
    await change(publish)
    assert await told.after((3, START), (9, CHANGED)) == [(4, HALF, 3, False)]


async def test_a_quota_that_is_still_ahead_is_not_told_yet(told: Told, publish: Publish) -> None:
    for version, quota in ((1, 100), (2, 4)):
        await publish(version_with(version, quota, window="30_days"))
    await publish(state(product_id="own"))
    await publish(renewed(product_id="own", catalogue_version=2, occurred_at=FEBRUARY))  # of a host whose clock is ahead
    assert await told.after((4, START)) == []
    told.clock.instant = FEBRUARY + timedelta(hours=2)
    assert await told.after((1, START)) == [(4, HALF, 5, False), (4, MOST, 5, False), (4, ALL, 5, True)]


async def test_what_was_announced_before_limits_were_remembered_is_not_repeated(told: Told, pool: asyncpg.Pool, publish: Publish) -> None:
    await begin(publish, (4, 10))
    assert len(await told.after((2, START))) == 1
    await pool.execute("update threshold_reached set limit_amount = 0")
    await pool.execute("update usage_window set dirty = true")
    assert [threshold for _, threshold, *_ in await told.after((2, START))] == [HALF, MOST, ALL]


async def test_a_spend_cap_that_was_raised_is_told_again(told: Told, publish: Publish) -> None:
    for version, cap in ((1, "10"), (2, "20")):
        price = {"base": "5", "usage": [{"meter": "calls", "amount": "1"}], "spend_cap": cap}
        await publish(version_with(version, 0, price=price))
    await publish(state(product_id="own"))
    first = {(limit, threshold) for limit, threshold, *_ in await told.after((12, START))}
    assert (1000, ALL) in first
    await change(publish)
    later = {(limit, threshold) for limit, threshold, *_ in await told.after((12, CHANGED))} - first
    assert (2000, ALL) in later
