"""One source bills every instant, whatever the order in which the news of a change, the calls and the reports arrive."""

from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import asyncpg
import pytest

from billing_common.events import AccessGranted, SubscriptionUpdated
from usage_collector import corrections, report_store
from usage_collector.collecting import Collector
from usage_collector.observing import Observation
from usage_collector.report_polling import ReportPolling

from .conftest import (
    CATALOGUE,
    START,
    FixedClock,
    Publish,
    call,
    catalogue_applied,
    collect,
    empty,
    outcomes,
    settle,
    state,
    suspended,
    windows,
)

HOUR = START.replace(minute=0)
CHANGED_AT = START + timedelta(minutes=15)
CALLS = [
    *(call(f"before-{n}", CHANGED_AT - timedelta(milliseconds=1 + 60_000 * n)) for n in range(10)),
    *(call(f"after-{n}", CHANGED_AT + timedelta(minutes=n)) for n in range(7)),
    *(call(f"later-{n}", HOUR + timedelta(hours=1, minutes=n)) for n in range(3)),
]
Step = Callable[[], Awaitable[object]]


def sources(first: str, second: str) -> dict[str, Any]:
    document: dict[str, Any] = deepcopy(CATALOGUE)
    for product, source in zip(document["products"][:2], (first, second), strict=True):
        product["source"] = source
    document["products"][1]["price"]["usage"].pop()
    del document["meters"]["traffic"]
    del document["meters"]["calls"]["weights"]
    return document


class Gateway:
    """API Management's reports of some calls. `meanwhile` happens while it is asked, once."""

    def __init__(self, calls: Sequence[Observation]) -> None:
        self.calls, self.meanwhile = list(calls), list[Step]()

    async def ask(self, since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.calls:
            if since <= one.at < until and sid in {None, one.sid}:
                found[one.sid] = found.get(one.sid, 0) + 1
        while self.meanwhile:
            await self.meanwhile.pop()()
        return found


@pytest.fixture
def gateway() -> Gateway:
    return Gateway(CALLS)


@pytest.fixture
def polling(pool: asyncpg.Pool, collector: Collector, gateway: Gateway, clock: FixedClock) -> ReportPolling:
    return poller(pool, collector, gateway, clock)


def poller(pool: asyncpg.Pool, collector: Collector, gateway: Gateway, clock: FixedClock) -> ReportPolling:
    return ReportPolling(
        pool, collector, gateway.ask, clock=clock, interval=timedelta(minutes=5), overlap=timedelta(hours=3), lag=timedelta(minutes=45)
    )


async def billed(pool: asyncpg.Pool) -> dict[tuple[datetime, datetime], int]:
    return {(started_at, hour): quantity for (_, _, started_at, hour), (quantity, _) in (await windows(pool)).items()}


def changed(revision: int = 2, product_id: str = "hybrid", at: datetime = CHANGED_AT) -> Any:
    return state(SubscriptionUpdated, revision=revision, product_id=product_id, occurred_at=at)


ORDERS = [order for order in permutations(["news", "calls", "poll", "poll again"]) if order.index("poll") < order.index("poll again")]


@pytest.mark.parametrize("pair", [("reports", "stream"), ("stream", "reports"), ("reports", "reports"), ("stream", "stream")])
async def test_every_order_ends_in_the_same_windows(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, clock: FixedClock, publish: Publish, pair: tuple[str, str]
) -> None:
    for number, order in enumerate(ORDERS):
        await empty(pool)
        await publish(catalogue_applied(sources(*pair)))
        await publish(state())
        steps: dict[str, Step] = {
            "news": lambda: publish(changed()),
            "calls": lambda: collect(collector, clock, CALLS),
            "poll": lambda: polling.read_round(now=clock.now()),
            "poll again": lambda: polling.read_round(now=clock.now()),
        }
        for name in order:
            await steps[name]()
            if number % 2:
                await settle(collector)
        await settle(collector)
        await polling.read_round(now=clock.now())
        assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 7, (CHANGED_AT, HOUR + timedelta(hours=1)): 3}, order


async def test_news_that_comes_while_reports_are_asked_for(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await collect(collector, clock, CALLS)
    gateway.meanwhile = [lambda: publish(changed())]
    await polling.read_round(now=clock.now())
    await settle(collector)
    assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 7, (CHANGED_AT, HOUR + timedelta(hours=1)): 3}
    assert not gateway.meanwhile


async def test_news_of_an_hour_that_a_long_round_has_passed_is_read_with_the_next(
    pool: asyncpg.Pool, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "reports")))
    await publish(state())
    clock.instant = START + timedelta(hours=30)
    await report_store.begin(pool, START)
    gateway.calls = [call("last", clock.instant, sub="sub-1"), call("missed", START + timedelta(hours=5), sub="sub-9")]

    async def hours_later(since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        if since == START + timedelta(hours=29, minutes=-30):
            await publish(state(sub="sub-9", started_at=START + timedelta(hours=4), current_period_start=START + timedelta(hours=4)))
        return await gateway.ask(since, until, sid)

    polling._ask = hours_later
    while await polling.is_behind(now=clock.now()):
        await polling.read_round(now=clock.now())
    assert sorted(sub for sub, *_ in await windows(pool)) == ["sub-1", "sub-9"]


async def test_two_collectors_that_read_again_at_once_count_once(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    """The second reads and counts while the first waits for its answer; a third, after a stop, finds nothing new."""
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await polling.read_round(now=clock.now())
    await publish(changed())
    gateway.meanwhile = [lambda: poller(pool, collector, gateway, clock).read_round(now=clock.now())]
    await polling.read_round(now=clock.now())
    assert await poller(pool, collector, gateway, clock).read_round(now=clock.now()) == 0
    assert await billed(pool) == {(START, HOUR): 10}
    assert sorted((await outcomes(pool)).values()) == ["counted", "filtered: read_again", "filtered: read_again"]


async def test_a_change_that_goes_back_and_forth_is_billed_once(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await collect(collector, clock, CALLS)
    again = CHANGED_AT + timedelta(minutes=3)
    for news in (changed(), changed(3, "payg", again)):
        await polling.read_round(now=clock.now())
        await publish(news)
        await settle(collector)
    await polling.read_round(now=clock.now())
    assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 3, (again, HOUR): 4, (again, HOUR + timedelta(hours=1)): 3}


async def test_calls_after_a_cancellation_that_is_learned_late_are_not_billed(
    pool: asyncpg.Pool, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await polling.read_round(now=clock.now())
    await publish(suspended(CHANGED_AT))
    for _ in range(2):
        await polling.read_round(now=clock.now())
    assert await billed(pool) == {(START, HOUR): 10}


async def test_a_period_that_ends_where_it_was_counted_to_is_not_read_anew(
    pool: asyncpg.Pool, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state(current_period_end=CHANGED_AT))
    await polling.read_round(now=clock.now())
    await publish(state(SubscriptionUpdated, revision=2, current_period_start=CHANGED_AT, current_period_end=START + timedelta(days=30)))
    await polling.read_round(now=clock.now())
    assert await billed(pool) == {(START, HOUR): 10, (CHANGED_AT, HOUR): 7, (CHANGED_AT, HOUR + timedelta(hours=1)): 3}
    assert set((await outcomes(pool)).values()) == {"counted"}


async def test_a_key_that_is_learned_late_has_its_calls_looked_for(
    pool: asyncpg.Pool, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    gateway.calls = [call("second", START + timedelta(minutes=5), sub="key-2")]
    clock.instant = START + timedelta(days=1)
    while await polling.is_behind(now=clock.now()):
        await polling.read_round(now=clock.now())
    granted = AccessGranted(
        cause_id="key-2", occurred_at=START, subscription_id="sub-1", account_id="acct-sub-1", user_id="user-1", product_id="payg",
        sid="sub-1", sids=("sub-1", "key-2"), revision=2, reason="keys", effective_at=START,
    )  # fmt: skip
    await publish(granted)
    await polling.read_round(now=clock.now())
    assert await billed(pool) == {(START, HOUR): 1}


async def test_what_a_person_corrected_stays_corrected(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, clock: FixedClock, publish: Publish
) -> None:
    """2 calls are taken away before the change: for a moment nothing is there to take them from."""
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    await polling.read_round(now=clock.now())
    await corrections.adjust(collector, corrections.Adjustment("sub-1", "calls", -2, START, "test calls", "ada"), now=clock.now())
    await publish(changed())
    assert await pool.fetchval("select min(quantity) from usage_window") >= 0
    await settle(collector)
    assert await pool.fetchval("select min(quantity) from usage_window") >= 0
    await polling.read_round(now=clock.now())
    await settle(collector)
    assert await billed(pool) == {(START, HOUR): 8}


async def test_what_a_person_deleted_stays_deleted(
    pool: asyncpg.Pool, collector: Collector, polling: ReportPolling, gateway: Gateway, clock: FixedClock, publish: Publish
) -> None:
    await publish(catalogue_applied(sources("reports", "stream")))
    await publish(state())
    gateway.calls = CALLS[:4]
    await polling.read_round(now=clock.now())
    name = f"sub-1:{HOUR.isoformat()}:4"
    await corrections.delete(
        collector, corrections.Deletion("sub-1", "apim/reports", name, START.date(), "test calls", "ada"), now=clock.now()
    )
    gateway.calls = CALLS
    await polling.read_round(now=clock.now())
    for news in (changed(), changed(3, "payg", CHANGED_AT + timedelta(minutes=3))):
        await publish(news)
        await polling.read_round(now=clock.now())
    assert (await billed(pool))[START, HOUR] == 6
