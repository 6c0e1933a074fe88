"""What reconciliation is told of days: the gateway's own count, events by outcome, corrections, windows."""

from collections.abc import AsyncIterator, Callable
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from billing_common.events import UsageCollected, UsageSegmentClosed
from billing_common.testing import events_in_outbox
from usage_collector import corrections, late, publishing, rolling, routes_days
from usage_collector.apim_gateway import CallCount
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment

from .conftest import FEBRUARY, START, FixedClock, Publish, call, catalogue_applied, collect, door_to, state

DAY = START.replace(hour=0, minute=0)
RETENTION = timedelta(days=90)


class GatewayStandIn:
    """API Management's reports: counts of calls, and what was asked."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, date], CallCount] = {}
        self.asked: list[tuple[datetime, datetime, str | None]] = []
        self.fails = False

    async def ask(self, since: datetime, until: datetime, sid: str | None = None) -> dict[tuple[str, date], CallCount]:
        self.asked.append((since, until, sid))
        if self.fails:
            raise TimeoutError
        return {key: count for key, count in self.calls.items() if sid in {None, key[0]}}


@pytest.fixture
def gateway() -> GatewayStandIn:
    return GatewayStandIn()


@pytest.fixture
async def ask(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock, gateway: GatewayStandIn
) -> AsyncIterator[Callable[..., Any]]:
    """Two calls that count (one twice delivered), one that failed, one refused for its time; an adjustment; it is two hours later."""
    await publish(catalogue_applied())
    await publish(state())
    sent = [
        call("a", START),
        call("b", START + timedelta(minutes=1)),
        call("c", START, status=500),
        call("old", START - timedelta(days=60)),
    ]
    await collect(collector, clock, [*sent, call("a", START)])
    await corrections.adjust(collector, Adjustment("sub-1", "calls", 7, START, "a probe", "Ada"), now=clock.now())
    positions = SimpleNamespace(freshness=lambda: (0.5, 0))
    shared: dict[str, Any] = {"pool": pool, "clock": clock, "collector": collector, "positions": positions}
    shared |= {"gateway_calls": gateway.ask, "reports_lag": timedelta(minutes=45), "usage_retention": RETENTION}
    async with door_to(routes_days.router, "usage:read", "usage:write", **shared) as client:

        async def post(path: str = "/v1/reconciliation/days", **body: Any) -> Any:
            span = {"from": DAY.isoformat(), "to": (DAY + timedelta(days=1)).isoformat()}
            whose = {"subscriptions": ["sub-1"]} if path.endswith("days") else {"subscription_id": "sub-1"}
            answer = await client.post(path, json=span | whose | body)
            assert answer.status_code < 300, answer.text
            return answer.json()

        yield post


async def test_a_day_has_its_outcomes_duplicates_corrections_and_windows(ask: Callable[..., Any]) -> None:
    (day,) = (await ask())["days"]
    assert {(one["outcome"], one["reason"]): one["events"] for one in day["bins"]} == {("counted", ""): 2, ("filtered", "failed"): 1}
    assert day["duplicates"] == 1
    assert day["meters"] == [
        {"product_id": "payg", "meter_id": "calls", "counted": 9, "corrections": 7, "windows": 9, "unpublished": True, "left_out": 0},
    ]


async def test_held_events_say_how_much_they_would_count(
    ask: Callable[..., Any], pool: asyncpg.Pool, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY + timedelta(minutes=1)
    segment = await pool.fetchval("select id from segment")
    await publishing.close_segments(pool, collector.directory, [segment], now=clock.now())
    await collect(collector, clock, [call("late-1", START), call("late-2", START)])
    (day,) = (await ask())["days"]
    held = [(one["reason"], one["events"], one["quantity"]) for one in day["bins"] if one["outcome"] == "held"]
    assert held == [("late", 2, 2)]
    assert {one["quantity"] for one in day["bins"] if one["outcome"] != "held"} == {None}


async def test_what_came_late_is_counted_and_stands_in_no_window(
    ask: Callable[..., Any], pool: asyncpg.Pool, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY + timedelta(minutes=1)
    segment = await pool.fetchval("select id from segment")
    await publishing.close_segments(pool, collector.directory, [segment], now=clock.now())
    await collect(collector, clock, [call("late", START)])
    await late.settle_late(collector, now=clock.now())
    (day,) = (await ask())["days"]
    assert {(one["outcome"], one["reason"]): one["events"] for one in day["bins"]}["counted", "late_billed"] == 1
    assert [(meter["counted"], meter["windows"]) for meter in day["meters"]] == [(9, 9)]


async def test_the_gateway_is_compared_up_to_where_its_reports_are_complete(
    ask: Callable[..., Any], gateway: GatewayStandIn, collector: Collector, clock: FixedClock
) -> None:
    gateway.calls = {("sub-1", DAY.date()): CallCount(4, 3)}
    await collect(collector, clock, [call("new", START + timedelta(minutes=80))])
    (day,) = (await ask())["days"]
    assert (day["gateway"]["calls"], day["gateway"]["received"], day["gateway"]["source"]) == (4, 3, "stream")
    assert datetime.fromisoformat(day["gateway"]["until"]) == START + timedelta(minutes=30)  # 14:30 less 45 minutes, in full hours
    assert gateway.asked == [(DAY, START + timedelta(minutes=30), "sub-1")]


async def test_without_an_answer_of_the_gateway_the_rest_is_there(ask: Callable[..., Any], gateway: GatewayStandIn) -> None:
    gateway.fails = True
    answer = await ask()
    assert (answer["gateway_error"], answer["days"][0]["gateway"]) == ("TimeoutError", None)
    assert answer["days"][0]["meters"][0]["windows"] == 9


async def test_the_same_is_said_of_many_subscriptions_and_after_the_roll_up(
    pool: asyncpg.Pool, ask: Callable[..., Any], publish: Publish, gateway: GatewayStandIn, collector: Collector, clock: FixedClock
) -> None:
    names = [f"sub-{n}" for n in range(2, 6)]
    for name in names:
        await publish(state(sub=name))
    await collect(collector, clock, [call(f"of-{name}", START, sub=name) for name in names])
    gateway.calls = {(name, DAY.date()): CallCount(1, 1) for name in ["sub-1", *names, "somebody-else"]}
    before = await ask(subscriptions=["sub-1", *names])
    assert {day["subscription_id"]: day["gateway"]["received"] for day in before["days"]} == {"sub-1": 3} | dict.fromkeys(names, 1)
    assert gateway.asked[-1][2] is None
    await rolling.roll_up_due(pool, now=clock.now())
    assert (await ask(subscriptions=["sub-1", *names]))["days"] == before["days"]


async def test_refused_events_are_rejected_on_the_day_of_their_time(ask: Callable[..., Any]) -> None:
    old = DAY - timedelta(days=60)
    days = (await ask(**{"from": old.isoformat(), "to": (old + timedelta(days=1)).isoformat()}))["days"]
    assert [(one["outcome"], one["reason"], one["events"]) for day in days for one in day["bins"]] == [("rejected", "too_old", 1)]


async def test_totals_are_published_again_as_a_new_revision(
    pool: asyncpg.Pool, ask: Callable[..., Any], collector: Collector, clock: FixedClock
) -> None:
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    assert await ask("/v1/windows/publish-again") == {"windows": 1, "segments": 0}
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    async with pool.acquire() as connection:
        told = [(event.quantity, event.revision) for event in await events_in_outbox(connection, UsageCollected)]
    assert told[-1] == (9, told[0][1] + 1)


async def test_a_closing_is_said_again_with_the_totals_of_now(
    pool: asyncpg.Pool, ask: Callable[..., Any], collector: Collector, clock: FixedClock
) -> None:
    await pool.execute("update usage_window set quantity = quantity + 7")
    clock.instant = FEBRUARY
    (due,) = await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))
    await publishing.close_segments(pool, collector.directory, [due.id], now=clock.now())
    await pool.execute("update usage_window set quantity = quantity - 7")
    clock.instant = FEBRUARY + timedelta(minutes=1)
    for _ in range(2):
        assert await ask("/v1/windows/publish-again", closings=True) == {"windows": 1, "segments": 1}
    async with pool.acquire() as connection:
        closings = await events_in_outbox(connection, UsageSegmentClosed)
    assert [(one.totals["calls"], one.occurred_at) for one in closings] == [(16, FEBRUARY), (9, clock.instant), (9, clock.instant)]
    first, second, third = closings
    assert len({one.event_id for one in closings}) == 2, "asked in the same instant it is the same event"
    assert second == third
    told = {"subscription_id", "account_id", "segment_start", "segment_end", "reason", "product_id", "catalogue_version"}
    assert second.model_dump(include=told) == first.model_dump(include=told)


async def test_totals_are_published_again_without_the_closing_of_their_segment(
    pool: asyncpg.Pool, ask: Callable[..., Any], collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY
    (due,) = await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))
    await publishing.close_segments(pool, collector.directory, [due.id], now=clock.now())
    await pool.execute("update usage_window set quantity = quantity + 7")  # on a day that nobody has compared
    clock.instant = FEBRUARY + timedelta(minutes=1)
    assert await ask("/v1/windows/publish-again") == {"windows": 1, "segments": 0}
    async with pool.acquire() as connection:
        assert [one.totals["calls"] for one in await events_in_outbox(connection, UsageSegmentClosed)] == [9]


async def test_of_days_whose_events_are_no_longer_kept_only_the_windows_are_told(
    pool: asyncpg.Pool, ask: Callable[..., Any], gateway: GatewayStandIn, collector: Collector, clock: FixedClock
) -> None:
    await rolling.roll_up_due(pool, now=clock.now())
    clock.instant = DAY + RETENTION  # midnight: the day itself is kept to its last second
    gateway.calls = {("sub-1", DAY.date()): CallCount(5, 4)}
    answer = await ask()
    assert (answer["kept_from"], answer["days"][0]["meters"][0]["counted"]) == ("2027-01-10T00:00:00Z", 9)
    assert answer["days"][0]["gateway"]["calls"] == 5
    clock.instant += timedelta(days=1)
    for _ in range(2):
        answer = await ask()
        assert answer["kept_from"] == "2027-01-11T00:00:00Z"
        (day,) = answer["days"]
        assert [(one["counted"], one["windows"]) for one in day["meters"]] == [(None, 9)]
        assert (day["gateway"], day["bins"], day["duplicates"]) == (None, [], 0)
        await collector.keep_partitions(clock.now(), RETENTION)
    clock.instant -= timedelta(days=1)  # as with a retention that was made longer: what is gone stays gone
    assert (await ask())["kept_from"] == "2027-01-11T00:00:00Z"
    assert (await ask())["days"][0]["meters"][0]["counted"] is None


async def test_many_are_asked_about_without_reading_the_events_of_hours_that_are_not_added_up(
    pool: asyncpg.Pool, ask: Callable[..., Any], gateway: GatewayStandIn, collector: Collector, clock: FixedClock
) -> None:
    gateway.calls = {("sub-1", DAY.date()): CallCount(4, 3)}
    await rolling.roll_up_due(pool, now=clock.now())
    running = clock.now().replace(minute=0)
    await collect(collector, clock, [call("new", running), call("newer", running + timedelta(minutes=1))])
    answer = await ask(rolled_up=True)
    (day,) = answer["days"]
    assert [datetime.fromisoformat(hour) for hour in answer["left_out"]] == [running]
    assert [(one["counted"], one["windows"], one["left_out"]) for one in day["meters"]] == [(9, 11, 2)]
    assert day["gateway"] == (await ask())["days"][0]["gateway"] | {"calls": 4, "received": 3}, "up to where its reports are complete"
    await collect(collector, clock, [call("late", START + timedelta(minutes=2))])
    answer = await ask(rolled_up=True)
    (day,) = answer["days"]
    assert [datetime.fromisoformat(hour) for hour in answer["left_out"]] == [START.replace(minute=0), running]
    assert [(one["counted"], one["windows"], one["left_out"]) for one in day["meters"]] == [(0, 12, 12)]
    assert day["gateway"] is None, "an hour before its reports' end is left out: nothing to hold them against"
