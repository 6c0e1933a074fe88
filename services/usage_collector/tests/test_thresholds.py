"""Shares of quotas and included amounts: announced once each, however the totals move."""

from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from billing_common.catalogue import Catalogue
from billing_common.events import SubscriptionUpdated, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import publishing
from usage_collector.collecting import Collector
from usage_collector.limits import limits_of
from usage_collector.thresholds import span_of

from .conftest import CATALOGUE, FEBRUARY, JANUARY, MARCH, START, FixedClock, Publish, call, catalogue_applied, collect, renewed, state

THIRTY_DAYS = timedelta(days=30)
GATEWAYS_WINDOW = START - (START - datetime(1, 1, 1, tzinfo=UTC)) % THIRTY_DAYS
HALF, MOST, ALL = Decimal("0.5"), Decimal("0.8"), Decimal(1)
DOCUMENT: dict[str, Any] = deepcopy(CATALOGUE)
DOCUMENT["products"][0]["model"] = "Freemium"
DOCUMENT["products"][0]["price"]["usage"][0]["included"] = 10
DOCUMENT["products"][3]["quota"] |= {"calls": 10, "thresholds": ["0.8", "1"]}
DOCUMENT["products"].append(
    {"id": "roomy", "name": "Roomy", "model": "Tier", "price": {"base": "5"}, "quota": {"calls": 20, "thresholds": ["0.8", "1"]}}
)
DOCUMENT["products"].append(
    {
        "id": "own-30",
        "name": "Own gateway, 30 days",
        "model": "Tier",
        "source": "ingest",
        "price": {"base": "5"},
        "quota": {"calls": 4, "window": "30_days"},
    }
)
DOCUMENT["products"].append(
    {"id": "own", "name": "Own gateway", "model": "Tier", "source": "ingest", "price": {"base": "5"}, "quota": {"calls": 4}}
)


@pytest.fixture
async def ready(publish: Publish) -> None:
    await publish(catalogue_applied(DOCUMENT))


class Told:
    """Counts calls and reads back what was announced of them."""

    def __init__(self, pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> None:
        self.pool, self.collector, self.clock, self.calls = pool, collector, clock, 0

    async def after(self, calls: int, *, at: Any = START, **fields: Any) -> list[tuple[Decimal, int, bool]]:
        """Return (threshold, quantity, hard stop) of everything that was announced, oldest first."""
        await collect(self.collector, self.clock, [call(str(self.calls + n), at, **fields) for n in range(calls)])
        self.calls += calls
        await publishing.publish_all_windows(self.pool, self.collector.directory, now=self.clock.now())
        return [(event.threshold, event.quantity, event.hard_stop) for event in await self.events()]

    async def events(self) -> Sequence[UsageThresholdReached]:
        async with self.pool.acquire() as connection:
            return await events_in_outbox(connection, UsageThresholdReached)


@pytest.fixture
def told(pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock) -> Told:
    return Told(pool, collector, clock)


async def test_each_share_of_the_included_amount_is_announced_once(told: Told, publish: Publish) -> None:
    await publish(state())
    assert await told.after(4) == []
    assert await told.after(1) == [(HALF, 5, False)]
    assert await told.after(1, at=START + timedelta(hours=1)) == [(HALF, 5, False)]
    assert await told.after(20) == [(HALF, 5, False), (MOST, 26, False), (ALL, 26, False)]
    assert await told.after(5) == [(HALF, 5, False), (MOST, 26, False), (ALL, 26, False)]
    first = (await told.events())[0]
    assert (first.subscription_id, first.account_id, first.meter_id, first.period_start) == ("sub-1", "acct-sub-1", "calls", START)
    assert len({event.event_id for event in await told.events()}) == 3


async def test_a_total_that_is_corrected_announces_nothing_again(told: Told, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state())
    assert await told.after(5) == [(HALF, 5, False)]
    await pool.execute("update usage_window set quantity = 1, dirty = true")
    assert await told.after(0) == [(HALF, 5, False)]
    assert await told.after(5) == [(HALF, 5, False)]


async def test_the_next_period_begins_at_nothing(told: Told, publish: Publish) -> None:
    await publish(state())
    await told.after(9)
    await publish(renewed())
    told.clock.instant = FEBRUARY + timedelta(hours=2)
    assert (await told.after(5, at=FEBRUARY))[2:] == [(HALF, 5, False)]
    assert [event.period_start for event in await told.events()] == [START, START, FEBRUARY]


async def test_a_free_products_quota_is_one_of_calendar_months(told: Told, publish: Publish) -> None:
    await publish(state(product_id="free", current_period_end=None))
    told.clock.instant = FEBRUARY + timedelta(hours=2)
    assert await told.after(8) == [(MOST, 8, False)]
    assert await told.after(8, at=FEBRUARY) == [(MOST, 8, False), (MOST, 8, False)]
    assert [event.period_start for event in await told.events()] == [JANUARY, FEBRUARY]


async def test_only_a_gateway_that_is_not_api_management_is_told_to_stop(told: Told, publish: Publish) -> None:
    await publish(state(product_id="own"))
    assert await told.after(4, origin="ingest") == [(HALF, 4, False), (MOST, 4, False), (ALL, 4, True)]


async def test_nothing_is_remembered_of_what_was_not_announced(told: Told, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state())
    await collect(told.collector, told.clock, [call(f"lost {n}", START) for n in range(10)])
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await publishing.publish_windows(connection, now=told.clock.now(), directory=told.collector.directory)
        await transaction.rollback()  # killed before the commit
    assert [share for share, *_ in await told.after(0)] == [HALF, MOST, ALL]


def test_a_quota_goes_before_an_included_amount_of_the_same_meter() -> None:
    document = deepcopy(DOCUMENT)
    document["products"][0]["quota"] = {"calls": 50, "beyond": "overage"}
    document["products"][0]["source"] = "ingest"
    (limit,) = limits_of(Catalogue.from_document(document).product("payg"))
    assert (limit.amount, limit.quota and limit.quota.window, limit.stops_at(ALL)) == (50, "calendar_month", False)


@pytest.mark.parametrize(
    ("window", "keys", "segment_start", "hour", "since", "until"),
    [
        (None, 1, START, FEBRUARY, START, None),
        ("calendar_month", 1, START, FEBRUARY, FEBRUARY, MARCH),
        ("calendar_month", 3, START, START.replace(minute=0), JANUARY, FEBRUARY),
        ("30_days", 1, START, START.replace(minute=0), START, START + THIRTY_DAYS),
        ("30_days", 1, FEBRUARY, FEBRUARY, START, START + THIRTY_DAYS),  # the period is over, the gateway's window is not
        ("30_days", 1, FEBRUARY, START.replace(minute=0) + THIRTY_DAYS, START, START + THIRTY_DAYS),  # an hour is in one window only
        ("30_days", 1, FEBRUARY, START + THIRTY_DAYS, START + THIRTY_DAYS, START + 2 * THIRTY_DAYS),
        ("30_days", 3, START, START.replace(minute=0), GATEWAYS_WINDOW, GATEWAYS_WINDOW + THIRTY_DAYS),
        ("30_days", 3, FEBRUARY, GATEWAYS_WINDOW + THIRTY_DAYS, GATEWAYS_WINDOW + THIRTY_DAYS, GATEWAYS_WINDOW + 2 * THIRTY_DAYS),
    ],
)
def test_a_window_belongs_to_one_period(window: Any, keys: int, segment_start: Any, hour: Any, since: Any, until: Any) -> None:
    quota = {"quota": {"calls": 10, "window": window}} if window else {}
    document = {"id": "tier", "name": "Tier", "model": "Tier" if window else "Freemium", "keys": keys, **quota}
    document["price"] = {"base": "5"} if window else {"usage": [{"meter": "calls", "amount": "1", "included": 10}]}
    (limit,) = limits_of(
        Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "API calls"}}, "products": [document]}).product("tier")
    )
    row = {"subscription_id": "sub-1", "hour": hour, "segment_start": segment_start, "started_at": START}
    span = span_of(limit, row)
    assert (span.since, span.until) == (since, until)


async def test_another_plan_in_the_same_month_has_thresholds_of_its_own(told: Told, publish: Publish) -> None:
    await publish(state(product_id="free"))
    assert [threshold for threshold, *_ in await told.after(10)] == [MOST, ALL]
    changed = START + timedelta(hours=3)
    told.clock.instant = START + timedelta(hours=5)
    await publish(state(SubscriptionUpdated, revision=2, product_id="roomy", occurred_at=changed))
    await told.after(5, at=changed)
    await told.after(1, at=changed + timedelta(hours=1))
    events = await told.events()
    assert [(event.product_id, event.threshold, event.quantity) for event in events[2:]] == [("roomy", MOST, 16)]
    assert len({event.event_id for event in events}) == 3


async def test_a_quota_of_30_days_goes_on_over_the_end_of_the_period_and_says_when_it_ends(told: Told, publish: Publish) -> None:
    await publish(state(product_id="own-30"))
    await told.after(3, origin="ingest")
    await publish(renewed(product_id="own-30"))
    told.clock.instant = FEBRUARY + timedelta(hours=2)
    assert await told.after(1, at=FEBRUARY, origin="ingest") == [(HALF, 3, False), (MOST, 4, False), (ALL, 4, True)]
    assert {(event.period_start, event.period_end) for event in await told.events()} == {(START, START + THIRTY_DAYS)}
