"""Usage by hour, day, endpoint, status and outcome; single events; and where a subscription stands, with how fresh it is."""

from collections.abc import AsyncIterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from billing_common import rating
from billing_common.catalogue import Catalogue
from billing_common.events import SubscriptionUpdated
from usage_collector import corrections, rolling, rollup_store, routes_usage
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment

from .conftest import (
    CATALOGUE,
    FEBRUARY,
    START,
    FixedClock,
    Publish,
    call,
    catalogue_applied,
    collect,
    door_to,
    settle,
    state,
)

HOUR = START.replace(minute=0)
POSITIONS: Any = SimpleNamespace(freshness=lambda: (0.75, 0))


@pytest.fixture
async def ready(publish: Publish, collector: Collector, clock: FixedClock) -> None:
    """Two products' worth of traffic in two hours: what counted, what failed, and two meters."""
    await publish(catalogue_applied())
    await publish(state(product_id="hybrid"))
    later = START + timedelta(hours=1)
    await collect(
        collector,
        clock,
        [
            call("a", START, properties={"responseBytes": 300}),
            call("b", START + timedelta(minutes=1), properties={"responseBytes": 200}),
            call("c", START, method="POST", template="/orders", status=201, properties={"responseBytes": 100}),
            call("d", START, status=500),
            call("e", later, status=429),
            call("f", later, properties={"responseBytes": 50}),
        ],
    )


def door_of(pool: asyncpg.Pool, clock: FixedClock, collector: Collector) -> httpx.AsyncClient:
    return door_to(routes_usage.router, "usage:read", pool=pool, clock=clock, collector=collector, positions=POSITIONS)


@pytest.fixture
async def door(pool: asyncpg.Pool, ready: None, clock: FixedClock, collector: Collector) -> AsyncIterator[httpx.AsyncClient]:
    async with door_of(pool, clock, collector) as client:
        yield client


async def split(door: httpx.AsyncClient, *by: str, hours: int = 2) -> list[dict[str, Any]]:
    params: Any = {"from": HOUR.isoformat(), "to": (HOUR + timedelta(hours=hours)).isoformat(), "by": list(by)}
    answer = await door.get("/v1/usage/sub-1/split", params=params)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["complete_until"], found["freshness"]["staleness_seconds"]) == (None, 0.75)
    rows: list[dict[str, Any]] = found["rows"]
    return rows


async def test_usage_is_split_by_endpoint_and_status_for_each_meter(door: httpx.AsyncClient) -> None:
    rows = await split(door, "endpoint", "status", "outcome")
    found = {
        (row["method"], row["template"], row["status"], row["meter_id"]): (row["distinct"], row["events"], row["quantity"]) for row in rows
    }
    assert found == {
        ("GET", "/orders/{id}", 200, "calls"): (3, 3, 3),
        ("GET", "/orders/{id}", 200, "traffic"): (0, 3, 550),
        ("POST", "/orders", 201, "calls"): (1, 1, 5),
        ("POST", "/orders", 201, "traffic"): (0, 1, 100),
        ("GET", "/orders/{id}", 500, ""): (1, 1, 0),
        ("GET", "/orders/{id}", 429, ""): (1, 1, 0),
    }
    assert {(row["outcome"], row["reason"]) for row in rows} == {("counted", ""), ("filtered", "failed"), ("filtered", "blocked")}


async def test_the_same_is_said_before_and_after_hours_are_rolled_up(
    pool: asyncpg.Pool, door: httpx.AsyncClient, collector: Collector, clock: FixedClock
) -> None:
    before = [await split(door, *by) for by in (("hour",), ("day", "endpoint"), ("status", "outcome"))]
    assert await rolling.roll_up_due(pool, now=HOUR + timedelta(minutes=70)) == 1  # the hour from 13:00 is not over
    assert [await split(door, *by) for by in (("hour",), ("day", "endpoint"), ("status", "outcome"))] == before


async def test_what_comes_after_the_roll_up_is_seen_at_once_and_rolled_up_again(
    pool: asyncpg.Pool, door: httpx.AsyncClient, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = START + timedelta(hours=9)
    assert await rolling.roll_up_due(pool, now=clock.now()) == 2
    assert await rolling.roll_up_due(pool, now=clock.now()) == 0
    await collect(collector, clock, [call("late", START + timedelta(minutes=3), properties={"responseBytes": 1})])
    for _ in range(2):
        assert sum(row["quantity"] for row in await split(door, "hour") if row["meter_id"] == "calls") == 9
        await rolling.roll_up_due(pool, now=clock.now())
    assert await pool.fetchval("select count(*) from changed_hour") == 0


async def test_a_change_while_an_hour_is_rolled_up_is_not_lost(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        assert await rollup_store.roll_up(connection, HOUR)
        await collect(collector, clock, [call("meanwhile", START)])
    assert await pool.fetchval("select count(*) from changed_hour where hour = $1", HOUR) == 1


async def test_events_that_move_to_another_plan_move_in_the_roll_up(
    pool: asyncpg.Pool, publish: Publish, door: httpx.AsyncClient, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = START + timedelta(hours=9)
    await rolling.roll_up_due(pool, now=clock.now())
    await publish(state(SubscriptionUpdated, revision=2, product_id="payg", occurred_at=START + timedelta(seconds=30)))
    await settle(collector)
    await rolling.roll_up_due(pool, now=clock.now())
    assert {row["segment_id"] for row in await pool.fetch("select segment_id from usage_rollup where outcome = 'counted'")} == {
        row["id"] for row in await pool.fetch("select id from segment")
    }


async def test_too_much_to_add_up_in_time_is_said(
    pool: asyncpg.Pool, door: httpx.AsyncClient, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_store, "OF_KEYS", f"select pg_sleep(1), * from ({rollup_store.OF_KEYS}) as slow")
    monkeypatch.setattr(rollup_store, "RAW_LIMIT", "20ms")
    params: Any = {"from": HOUR.isoformat(), "to": (HOUR + timedelta(hours=2)).isoformat(), "by": "hour"}
    answer = (await door.get("/v1/usage/sub-1/split", params=params)).json()
    assert answer["rows"] == []
    assert datetime.fromisoformat(answer["complete_until"]) == HOUR
    assert answer["freshness"]["staleness_seconds"] == (clock.now() - HOUR).total_seconds()


async def test_all_events_of_an_hour_are_shown_with_what_they_counted_for_one_meter(door: httpx.AsyncClient) -> None:
    shown = {}
    for meter in ("calls", "traffic"):
        answer = await door.get("/v1/usage/sub-1/events", params={"hour": HOUR.isoformat(), "counted_for": meter})
        shown[meter] = {one["id"]: one["counted"] for one in answer.json()["events"]}
    assert shown == {"calls": {"a": 1, "b": 1, "c": 5, "d": 0}, "traffic": {"a": 300, "b": 200, "c": 100, "d": 0}}


async def test_single_events_are_shown_page_by_page_with_what_they_counted(door: httpx.AsyncClient) -> None:
    params: dict[str, Any] = {"hour": HOUR.isoformat(), "meter_id": "traffic", "outcome": "counted", "limit": 2}
    first = (await door.get("/v1/usage/sub-1/events", params=params)).json()
    second = (await door.get("/v1/usage/sub-1/events", params=params | {"after": first["next"]})).json()
    shown = [*first["events"], *second["events"]]
    assert sorted((one["id"], one["counted"], one["status"]) for one in shown) == [("a", 300, 200), ("b", 200, 200), ("c", 100, 201)]
    assert second["next"] is None
    weighted = (await door.get("/v1/usage/sub-1/events", params={"hour": HOUR.isoformat(), "template": "/orders"})).json()
    assert [(one["id"], one["counted"], one["source"]) for one in weighted["events"]] == [("c", 5, "apim")]
    failed = (await door.get("/v1/usage/sub-1/events", params={"hour": HOUR.isoformat(), "meter_id": "", "status": 500})).json()
    assert [(one["id"], one["outcome"], one["reason"], one["counted"]) for one in failed["events"]] == [("d", "filtered", "failed", 0)]
    for reason, ids in {"failed": ["d"], "": ["a", "b", "c"]}.items():
        found = (await door.get("/v1/usage/sub-1/events", params={"hour": HOUR.isoformat(), "reason": reason})).json()["events"]
        assert sorted(one["id"] for one in found) == ids
    assert (await door.get("/v1/usage/sub-1/events", params=params | {"after": "x"})).status_code == 422
    assert (await door.get("/v1/usage/nobody/events", params=params)).status_code == 404


async def test_the_standing_says_usage_bill_projection_with_basis_and_freshness(door: httpx.AsyncClient, clock: FixedClock) -> None:
    clock.instant = START + timedelta(days=5)
    found = (await door.get("/v1/usage/sub-1/standing")).json()
    assert (found["totals"], found["bill"]["currency"]) == ({"calls": 9 - 1, "traffic": 650}, "usd")
    assert sum(line["amount_minor"] for line in found["bill"]["lines"]) == found["bill"]["total_minor"] > 0
    basis = found["projected"]["basis"]
    whole, elapsed = (datetime(2027, 2, 1, tzinfo=UTC) - START), timedelta(days=5)
    assert basis["usage"]["traffic"] == 650 * (whole // timedelta(seconds=1)) // (elapsed // timedelta(seconds=1))
    assert (basis["method"], datetime.fromisoformat(basis["since"]), datetime.fromisoformat(basis["until"])) == (
        "pace",
        START,
        clock.instant,
    )
    assert found["freshness"]["staleness_seconds"] == 0.75
    assert (await door.get("/v1/usage/nobody/standing")).status_code == 404


async def test_the_standing_after_a_change_of_plan_is_of_the_whole_period(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    dearer = deepcopy(CATALOGUE)
    for product in dearer["products"]:
        if product["id"] == "hybrid":
            product["price"] = {"base": "9", "usage": [{"meter": "calls", "amount": "0.50"}, {"meter": "traffic", "amount": "0.01"}]}
    await publish(catalogue_applied(dearer, version=2))
    await publish(state(product_id="hybrid"))
    changed_at = START + timedelta(days=4)
    clock.instant = START + timedelta(hours=3)
    await collect(collector, clock, [call(f"a{n}", START + timedelta(hours=n)) for n in range(3)])
    change: Any = {"occurred_at": changed_at, "plan_since": changed_at, "catalogue_version": 2}
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", **change))
    clock.instant = changed_at + timedelta(days=1)
    await collect(collector, clock, [call(f"b{n}", changed_at + timedelta(hours=n)) for n in range(5)])
    async with door_of(pool, clock, collector) as door:
        found = (await door.get("/v1/usage/sub-1/standing")).json()
    assert (datetime.fromisoformat(found["period_start"]), found["totals"]["calls"]) == (START, 8)
    old, new = [Catalogue.from_document(document) for document in (CATALOGUE, dearer)]
    product, period = old.product("hybrid"), rating.period_at(old.product("hybrid"), started_at=START, at=START)
    left = rating.Facts(START, ended_at=changed_at, end_reason="change", currency="usd")
    present = rating.Facts(changed_at, currency="usd", setup_due=False)
    expected = [
        rating.rate(old, product, period=period, usage={"calls": 3, "traffic": 0}, facts=left).total_minor,
        rating.rate(new, new.product("hybrid"), period=period, usage={"calls": 5, "traffic": 0}, facts=present).total_minor,
    ]
    assert found["bill"]["total_minor"] == sum(line["amount_minor"] for line in found["bill"]["lines"]) == sum(expected)
    ahead = found["projected"]
    assert ahead["total_minor"] == sum(line["amount_minor"] for line in ahead["lines"]) > sum(expected)
    assert ahead["basis"]["usage"]["calls"] == 5 * ((FEBRUARY - changed_at) // timedelta(seconds=1)) // 86_400


async def test_the_standing_of_a_quota_says_what_is_left(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state(product_id="free", stripe_subscription_id=None, stripe_customer_id=None, current_period_end=None))
    await collect(collector, clock, [call(str(n), START) for n in range(60)])
    await corrections.adjust(collector, Adjustment("sub-1", "calls", -15, START, "a probe", "Ada"), now=clock.now())
    async with door_of(pool, clock, collector) as door:
        (quota,) = (await door.get("/v1/usage/sub-1/standing")).json()["quotas"]
    assert (quota["limit"], quota["used"], quota["remaining"], quota["stops"]) == (100, 45, 55, True)


async def test_free_days_cost_nothing_while_they_run(pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock) -> None:
    document = deepcopy(CATALOGUE)
    product = next(one for one in document["products"] if one["id"] == "hybrid")
    product.update(trial_days=14, billing_anchor="anniversary")
    await publish(catalogue_applied(document))
    await publish(state(product_id="hybrid", current_period_end=START + timedelta(days=14)))
    await collect(collector, clock, [call(str(n), START, properties={"responseBytes": 300}) for n in range(3)])
    clock.instant = START + timedelta(days=5)
    async with door_of(pool, clock, collector) as door:
        found = (await door.get("/v1/usage/sub-1/standing")).json()
    assert (found["totals"]["traffic"], found["bill"]["total_minor"]) == (900, 0)
    assert datetime.fromisoformat(found["period_end"]) == START + timedelta(days=14)


async def test_growth_that_moves_to_an_earlier_event_moves_in_the_roll_up(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    """A value that an earlier event turns out to have stated first: both hours are added up again."""
    document = deepcopy(CATALOGUE)
    document["meters"]["users"] = {"name": "Users", "property": "user", "aggregation": "unique"}
    price = {"usage": [{"meter": "users", "amount": "1"}]}
    document["products"].append({"id": "team", "name": "Team", "model": "Metered", "source": "ingest", "price": price})
    await publish(catalogue_applied(document))
    await publish(state(product_id="team"))
    clock.instant = START + timedelta(hours=9)
    plain: dict[str, Any] = {"origin": "ingest", "status": None, "method": None, "template": None, "properties": {"user": "ada"}}
    for name, at in (("second", START + timedelta(hours=2)), ("first", START)):
        await collect(collector, clock, [call(name, at, **plain)])
        await rolling.roll_up_due(pool, now=clock.now())
    async with pool.acquire() as connection:
        found = await rollup_store.split(connection, ["sub-1"], HOUR, HOUR + timedelta(hours=3), ["hour"])
    assert {row["hour"]: row["quantity"] for row in found.rows if row["quantity"]} == {HOUR: 1}
