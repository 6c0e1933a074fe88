"""Usage that comes after its segment was closed: billed, waived or kept, each event in one outcome, and the sums agree."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import UsageCorrected, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import corrections, late, late_store, publishing, routes_late, window_store
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment, CorrectionRefusedError, Deletion
from usage_collector.reconciliation import reconcile

from .conftest import (
    FEBRUARY,
    START,
    FixedClock,
    Publish,
    allowed,
    call,
    catalogue_applied,
    collect,
    door_to,
    empty,
    make_collector,
    outcomes,
    settle,
    state,
)

HOUR = START.replace(minute=0)
METERS = {
    "calls": {"name": "API calls", "weights": [{"method": "POST", "weight": 5}]},
    "routes": {"name": "Routes", "property": "template", "aggregation": "unique"},
    "peak": {"name": "Peak", "property": "responseBytes", "aggregation": "max"},
}


def catalogue(policy: str = "next_invoice") -> dict[str, Any]:
    def plan(product_id: str, *meters: str) -> dict[str, Any]:
        price = {"usage": [{"meter": meter, "amount": "1"} for meter in meters]}
        return {"id": product_id, "name": "P", "model": "Hybrid", "price": price, "policies": {"late_usage": policy}}

    return {"version": 1, "meters": METERS, "products": [plan("payg", "calls"), plan("wide", "calls", "routes", "peak")]}


async def close(pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> None:
    clock.instant = max(clock.instant, FEBRUARY + timedelta(minutes=1))
    segments = [row["id"] for row in await pool.fetch("select id from segment where ended_at <= $1", clock.now())]
    await publishing.close_segments(pool, collector.directory, segments, now=clock.now())


async def settle_late(collector: Collector, clock: FixedClock) -> None:
    while await late.settle_late(collector, now=clock.now()):
        pass


async def told(pool: asyncpg.Pool) -> list[UsageCorrected]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, UsageCorrected)


async def reconciled(pool: asyncpg.Pool) -> dict[str, Any]:
    async with pool.acquire() as connection:
        return await reconcile(connection, "sub-1", ["sub-1"], HOUR, FEBRUARY)


class Closed:
    """One subscription whose January is closed with two calls, and its plan's policy."""

    def __init__(self, pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> None:
        self.pool, self.publish, self.clock = pool, publish, clock
        self.collector = make_collector(pool)

    async def begin(self, policy: str, **fields: Any) -> Collector:
        await self.publish(catalogue_applied(catalogue(policy)))
        await self.publish(state(**fields))
        await collect(self.collector, self.clock, [call("a", START), call("b", START + timedelta(hours=1))])
        await close(self.pool, self.collector, self.clock)
        return self.collector


@pytest.fixture
def closed(pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> Closed:
    return Closed(pool, publish, clock)


LATE = [call("late", START, method="POST"), call("failed", START, status=500), call("later", START + timedelta(hours=2))]


async def held_by_reason(pool: asyncpg.Pool) -> dict[str, int]:
    async with pool.acquire() as connection:
        return await late_store.held_by_reason(connection)


async def test_next_invoice_moves_the_invoice_once_by_what_would_have_counted(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock
) -> None:
    collector = await closed.begin("next_invoice")
    for _ in range(2):
        await collect(collector, clock, LATE)
        await settle_late(collector, clock)
    assert await outcomes(pool) == {
        "a": "counted",
        "b": "counted",
        "late": "counted: late_billed",
        "later": "counted: late_billed",
        "failed": "filtered: failed",
    }
    (event,) = await told(pool)
    assert (event.kind, event.after_close, event.amounts) == ("late", True, {"calls": 6})
    assert (event.totals_before, event.totals_after) == ({"calls": 2}, {"calls": 8})
    assert (event.product_id, event.segment_start, event.segment_end) == ("payg", START, FEBRUARY)
    figures = await reconciled(pool)
    assert figures["events"] == {"received": 5, "counted": 4, "filtered": 1, "rejected": 0, "held": 0, "duplicates": 3}
    assert figures["meters"] == {"calls": {"counted": 8, "windows": 2, "late_billed": 6, "late_waived": 0}}
    assert figures["balanced"]


async def test_late_usage_that_is_billed_reaches_the_thresholds_of_its_own_period_once(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock
) -> None:
    document = catalogue()
    document["products"][0]["price"]["usage"][0]["included"] = 10
    await closed.publish(catalogue_applied(document))
    collector = closed.collector
    await closed.publish(state())
    await collect(collector, clock, [call("a", START), call("b", START + timedelta(hours=1))])
    await close(pool, collector, clock)
    for name in ("x", "y"):
        await collect(collector, clock, [call(name, START + timedelta(hours=2), method="POST")])
        await settle_late(collector, clock)
    async with pool.acquire() as connection:
        reached = await events_in_outbox(connection, UsageThresholdReached)
    assert [(float(one.threshold), one.quantity, one.period_start) for one in reached] == [
        (0.5, 7, START),
        (0.8, 12, START),
        (1.0, 12, START),
    ]


@pytest.mark.parametrize("policy", ["waive", "hold"])
async def test_late_usage_that_is_not_billed_reaches_nothing(pool: asyncpg.Pool, closed: Closed, clock: FixedClock, policy: str) -> None:
    document = catalogue(policy)
    document["products"][0]["price"]["usage"][0]["included"] = 10
    await closed.publish(catalogue_applied(document))
    await closed.publish(state())
    await collect(closed.collector, clock, [call("a", START)])
    await close(pool, closed.collector, clock)
    await collect(closed.collector, clock, [call(name, START, method="POST") for name in ("x", "y")])
    await settle_late(closed.collector, clock)
    async with pool.acquire() as connection:
        assert await events_in_outbox(connection, UsageThresholdReached) == []
        span = window_store.Span("sub-1", "calls", START, None)
        assert await window_store.totals_of(connection, [span]) == {span: 1}


async def test_what_comes_later_still_starts_from_the_totals_before_it(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("next_invoice")
    for name in ("x", "y"):
        await collect(collector, clock, [call(name, START)])
        await settle_late(collector, clock)
    assert [(event.totals_before, event.totals_after) for event in await told(pool)] == [
        ({"calls": 2}, {"calls": 3}),
        ({"calls": 3}, {"calls": 4}),
    ]


async def test_waived_usage_is_counted_apart_and_charged_to_nobody(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("waive")
    await collect(collector, clock, LATE)
    await settle_late(collector, clock)
    assert await told(pool) == []
    assert (await outcomes(pool))["late"] == "filtered: late_waived"
    figures = await reconciled(pool)
    assert figures["meters"] == {"calls": {"counted": 2, "windows": 2, "late_billed": 0, "late_waived": 6}}
    assert (figures["balanced"], figures["reasons"]["filtered"]) == (True, {"late_waived": 2, "failed": 1})


async def test_kept_usage_waits_for_a_person(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("hold")
    await collect(collector, clock, LATE)
    await settle_late(collector, clock)
    assert await told(pool) == []
    assert (await outcomes(pool))["late"] == "held: late"
    assert (await reconciled(pool))["reasons"]["held"] == {"late": 3}
    assert await late_store.count_pending(pool) == 0
    assert await held_by_reason(pool) == {"late": 3}


async def test_a_free_plan_has_no_invoice_to_move(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("next_invoice", stripe_subscription_id=None, stripe_customer_id=None)
    await collect(collector, clock, LATE)
    await settle_late(collector, clock)
    assert (await outcomes(pool))["late"] == "filtered: late_waived"
    assert await told(pool) == []


async def test_what_is_older_than_stripe_takes_is_parked_with_a_reason(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("next_invoice")
    clock.instant = START + timedelta(days=36)
    await collect(collector, clock, [call("too old", START), call("just in time", START + timedelta(days=2))])
    await settle_late(collector, clock)
    assert (await outcomes(pool))["too old"] == "held: too_old_to_bill"
    assert (await outcomes(pool))["just in time"] == "counted: late_billed"
    assert await held_by_reason(pool) == {"too_old_to_bill": 1}


async def test_old_usage_of_an_open_year_is_parked_before_stripe_refuses_it(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied(catalogue()))
    await publish(state(current_period_end=START + timedelta(days=365)))
    await publish(state(sub="sub-2", revision=1))
    clock.instant = START + timedelta(days=36)
    unknown = call("unknown yet", START + timedelta(hours=1), sub="sub-3")
    await collect(collector, clock, [call("too old", START), call("recent", clock.now() - timedelta(days=34)), unknown])
    await publish(state(sub="sub-3", current_period_end=START + timedelta(days=365)))
    await settle(collector, clock.now())
    assert await outcomes(pool) == {"too old": "held: too_old_to_bill", "recent": "counted", "unknown yet": "held: too_old_to_bill"}


async def test_late_values_and_heights_count_only_what_is_new_and_move_nothing(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock
) -> None:
    collector = closed.collector
    await closed.publish(catalogue_applied(catalogue()))
    await closed.publish(state(product_id="wide"))
    at = START + timedelta(hours=1)
    await collect(collector, clock, [call("a", at, template="/a", properties={"responseBytes": 50})])
    await close(pool, collector, clock)
    windows = await pool.fetch("select * from usage_window order by meter_id, hour")
    heights = [("b", "/a", 40), ("c", "/b", 70), ("d", "/b", 65)]
    late_ones = [call(name, START, template=template, properties={"responseBytes": size}) for name, template, size in heights]
    for one in late_ones:
        await collect(collector, clock, [one])
        await settle_late(collector, clock)
    assert [event.amounts for event in await told(pool)] == [{"calls": 1}, {"calls": 1, "routes": 1, "peak": 20}, {"calls": 1}]
    assert (await told(pool))[-1].totals_after == {"calls": 4, "routes": 2, "peak": 70}
    assert await pool.fetch("select * from usage_window order by meter_id, hour") == windows
    assert (await reconciled(pool))["balanced"]


async def test_a_crash_between_two_pages_bills_nothing_twice_and_a_burst_is_one_line(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = await closed.begin("next_invoice")
    monkeypatch.setattr(late, "PAGE", 2)
    await collect(collector, clock, [call(f"x{n}", START + timedelta(minutes=n)) for n in range(5)])
    segment_id = await pool.fetchval("select segment_id from late_segment")
    await late.settle_page(collector, late.Look(segment_id, "sub-1"), now=clock.now())  # and its process is gone
    assert await pool.fetchval("select sum(quantity) from late_usage") == 2
    assert await told(pool) == []
    await asyncio.gather(*(settle_late(make_collector(pool), clock) for _ in range(2)))
    (event,) = await told(pool)
    assert (event.amounts, event.totals_before, event.totals_after) == ({"calls": 5}, {"calls": 2}, {"calls": 7})
    assert await late_store.count_pending(pool) == 0
    await settle_late(collector, clock)
    assert len(await told(pool)) == 1


async def test_a_crash_before_the_last_page_leaves_nothing_unannounced(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = await closed.begin("next_invoice")
    monkeypatch.setattr(late, "PAGE", 2)
    await collect(collector, clock, [call(f"x{n}", START + timedelta(minutes=n)) for n in range(2)])
    segment_id = await pool.fetchval("select segment_id from late_segment")
    await late.settle_page(collector, late.Look(segment_id, "sub-1"), now=clock.now())  # all events are settled; it dies before the rest
    assert await told(pool) == []
    await pool.execute("update late_segment set disposition = 'keep'")  # whatever is decided meanwhile
    await settle_late(make_collector(pool), clock)
    assert [event.amounts for event in await told(pool)] == [{"calls": 2}]


async def test_what_comes_behind_a_look_is_left_to_the_next_one(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = await closed.begin("next_invoice")
    monkeypatch.setattr(late, "PAGE", 2)
    await collect(collector, clock, [call(f"x{n}", START + timedelta(days=1, minutes=n)) for n in range(3)])
    look = late.Look(await pool.fetchval("select segment_id from late_segment"), "sub-1")
    await late.settle_page(collector, look, now=clock.now())
    await collect(collector, clock, [call("behind", START)])
    while look.place is not None:
        await late.settle_page(collector, look, now=clock.now())
    assert [event.amounts for event in await told(pool)] == [{"calls": 3}]
    assert await late_store.count_pending(pool) == 1
    await settle_late(collector, clock)
    assert [event.totals_after for event in await told(pool)] == [{"calls": 5}, {"calls": 6}]


def deletion(name: str, day: int) -> Deletion:
    return Deletion("sub-1", "apim", name, (START + timedelta(days=day)).date(), "a probe", "Ada")


async def test_each_late_event_that_was_billed_can_be_deleted_once(pool: asyncpg.Pool, closed: Closed, clock: FixedClock) -> None:
    collector = await closed.begin("next_invoice")
    await collect(collector, clock, [call("l1", START + timedelta(days=1)), call("l2", START + timedelta(days=2))])
    await settle_late(collector, clock)
    taken = Adjustment("sub-1", "calls", -2, START + timedelta(days=2), "too much", "Ada")
    with pytest.raises(CorrectionRefusedError, match="holds 1 of calls"):  # the burst of 2 stands at this hour
        await corrections.adjust(collector, taken, now=clock.now())
    for day, name in ((1, "l1"), (2, "l2")):
        made = [await corrections.delete(collector, deletion(name, day), now=clock.now()) for _ in range(2)]
        assert ([one.state for one in made], made[0].hour_before) == (["made", "known"], {"calls": 1})
    assert (await told(pool))[-1].totals_after == {"calls": 2}


async def test_a_late_event_is_not_deleted_before_it_is_billed(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await closed.publish(catalogue_applied(catalogue()))
    await closed.publish(state())
    collector = closed.collector
    await close(pool, collector, clock)
    monkeypatch.setattr(late, "PAGE", 1)
    await collect(collector, clock, [call("l1", START + timedelta(days=1))])
    look = late.Look(await pool.fetchval("select segment_id from late_segment"), "sub-1")
    await late.settle_page(collector, look, now=clock.now())
    with pytest.raises(CorrectionRefusedError, match="being billed right now"):
        await corrections.delete(collector, deletion("l1", 1), now=clock.now())
    await late.settle_page(collector, look, now=clock.now())
    assert (await corrections.delete(collector, deletion("l1", 1), now=clock.now())).totals_after == {"calls": 0}


EVENTS = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["/a", "/b", "/c"]), st.integers(1, 9)), min_size=1, max_size=10)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=EVENTS, seed=st.integers(0, 2**32))
async def test_whatever_comes_in_time_and_late_adds_up_to_all_of_it(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, drawn: list[tuple[int, str, int]], seed: int
) -> None:
    await empty(pool)
    clock.instant = START + timedelta(hours=5)
    await publish(catalogue_applied(catalogue()))
    await publish(state(product_id="wide"))
    order, collector = random.Random(seed), make_collector(pool)
    events = [
        call(f"e{n}", START + timedelta(minutes=minute), template=template, properties={"responseBytes": size})
        for n, (minute, template, size) in enumerate(drawn)
    ]
    order.shuffle(events)
    in_time = order.randint(0, len(events))
    await collect(collector, clock, events[:in_time])
    await close(pool, collector, clock)
    for one in events[in_time:]:
        await collect(collector, clock, [one, order.choice(events)])
        if order.random() < 0.5:
            await settle_late(collector, clock)
    await settle_late(collector, clock)
    everything = {"calls": len(events), "routes": len({t for _, t, _ in drawn}), "peak": max(size for *_, size in drawn)}
    corrections = await told(pool)
    rows = await pool.fetch("select meter_id, sum(quantity)::bigint as total from usage_window group by 1")
    totals = corrections[-1].totals_after if corrections else {row["meter_id"]: row["total"] for row in rows}
    assert {meter: number for meter, number in totals.items() if number} == everything
    figures = await reconciled(pool)
    assert figures["balanced"]
    assert figures["events"]["received"] == figures["events"]["counted"] == len(events)


# --- the door ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def door(pool: asyncpg.Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with door_to(routes_late.router, "usage:write", "usage:read", pool=pool) as client:
        yield client


async def test_a_person_sees_what_is_kept_and_decides(
    pool: asyncpg.Pool, closed: Closed, clock: FixedClock, door: httpx.AsyncClient
) -> None:
    collector = await closed.begin("hold")
    await collect(collector, clock, LATE)
    await settle_late(collector, clock)
    (shown,) = (await door.get("/v1/late", params={"subscription_id": "sub-1"})).json()
    assert (shown["disposition"], shown["held_events"], shown["billed"], shown["waived"]) == ("keep", 3, {}, {})
    wanted = {"subscription_id": "sub-1", "segment_start": shown["segment_start"], "disposition": "bill", "by": "ada"}
    assert (await door.post("/v1/late/decisions", json=wanted)).status_code == 202
    await settle_late(collector, clock)
    (shown,) = (await door.get("/v1/late")).json()
    assert (shown["disposition"], shown["decided_by"], shown["held_events"]) == ("bill", "ada", 0)
    assert shown["billed"] == {"calls": {"quantity": 6, "events": 2}}
    assert [event.amounts for event in await told(pool)] == [{"calls": 6}]
    assert (await door.post("/v1/late/decisions", json=wanted | {"subscription_id": "sub-2"})).status_code == 404
    assert (await door.post("/v1/late/decisions", json=wanted | {"disposition": "keep"})).status_code == 422


async def test_a_decision_needs_the_scope_to_write(door: httpx.AsyncClient) -> None:
    answer = await door.post("/v1/late/decisions", json={}, headers=allowed("usage:read"))
    assert answer.status_code == 403
