"""Meters with one number for a period: different values and the highest, from events to windows and closed totals."""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import SubscriptionUpdated, UsageCollected, UsageSegmentClosed
from billing_common.testing import events_in_outbox
from usage_collector import corrections, publishing, window_store
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment, CorrectionRefusedError, Deletion
from usage_collector.observing import Observation
from usage_collector.reconciliation import reconcile

from .conftest import (
    FEBRUARY,
    START,
    FixedClock,
    Publish,
    call,
    catalogue_applied,
    collect,
    empty,
    make_collector,
    outcomes,
    settle,
    state,
    windows,
)

HOUR = timedelta(hours=1)
FIRST = START.replace(minute=0)
METERS = {
    "users": {"name": "Users", "unit": "user", "property": "user", "aggregation": "unique"},
    "peak": {"name": "Seats", "unit": "seat", "property": "seats", "aggregation": "max"},
    "load": {"name": "Load", "unit": "call", "property": "quantity", "aggregation": "max"},
    "routes": {"name": "Routes", "unit": "route", "property": "template", "aggregation": "unique"},
    "events": {"name": "Events", "unit": "event", "aggregation": "count"},
}
PRICES = [{"meter": meter, "amount": "1"} for meter in ("events", "users", "peak")]
CATALOGUE = {
    "version": 1,
    "meters": METERS,
    "products": [
        {"id": "team", "name": "Team", "model": "Hybrid", "source": "ingest", "price": {"usage": PRICES}},
        {"id": "crew", "name": "Crew", "model": "Hybrid", "source": "ingest", "price": {"usage": PRICES[1:]}},
        {"id": "loaded", "name": "Load", "model": "Metered", "source": "ingest", "price": {"usage": [{"meter": "load", "amount": "1"}]}},
        {"id": "routed", "name": "Routes", "model": "Metered", "price": {"usage": [{"meter": "routes", "amount": "1"}]}},
        {"id": "free", "name": "Free", "model": "Free", "source": "ingest", "quota": {"calls": 9, "meter": "users"}},
    ],
}


def use(name: str, at: datetime, *, user: str | None = None, seats: int | None = None, **fields: Any) -> Observation:
    stated = {"user": user, "seats": seats}
    properties = {key: value for key, value in stated.items() if value is not None}
    plain: dict[str, Any] = {"origin": "ingest", "status": None, "method": None, "template": None, "properties": properties or None}
    return call(name, at, **(plain | fields))


@pytest.fixture
async def ready(publish: Publish) -> None:
    await publish(catalogue_applied(CATALOGUE))
    await publish(state(product_id="team"))


async def quantities(pool: asyncpg.Pool, meter: str) -> dict[tuple[str, datetime], int]:
    """Return (subscription, hour) -> quantity of one meter's windows that are not zero."""
    return {(sub, hour): quantity for (sub, name, _, hour), (quantity, _) in (await windows(pool)).items() if name == meter and quantity}


async def totals(pool: asyncpg.Pool) -> dict[tuple[datetime, str], int]:
    """Return (segment start, meter) -> sum of the windows, where it is not zero."""
    rows = await pool.fetch(
        "select s.started_at, w.meter_id, sum(w.quantity)::bigint as total from usage_window w join segment s on s.id = w.segment_id "
        "group by 1, 2 having sum(w.quantity) <> 0"
    )
    return {(row["started_at"], row["meter_id"]): row["total"] for row in rows}


async def test_the_first_event_with_a_value_carries_it_and_repeats_add_nothing(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    seen = [use("a", START, user="ada"), use("b", START + HOUR, user="ada"), use("c", START + HOUR, user="bob")]
    await collect(collector, clock, seen)
    await collect(collector, clock, seen)
    await collect(make_collector(pool), clock, [use("d", START + HOUR, user="bob")])
    assert await quantities(pool, "users") == {("sub-1", FIRST): 1, ("sub-1", FIRST + HOUR): 1}
    assert await quantities(pool, "events") == {("sub-1", FIRST): 1, ("sub-1", FIRST + HOUR): 3}


async def test_an_earlier_event_that_comes_later_moves_the_growth_and_not_the_sum(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [use("b", START + HOUR, user="ada", seats=5)])
    assert await quantities(pool, "peak") == {("sub-1", FIRST + HOUR): 5}
    await collect(collector, clock, [use("a", START, user="ada", seats=3)])
    assert await quantities(pool, "users") == {("sub-1", FIRST): 1}
    assert await quantities(pool, "peak") == {("sub-1", FIRST): 3, ("sub-1", FIRST + HOUR): 2}


async def test_the_highest_value_is_what_the_hours_add_up_to(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    heights = [3, 9, 2, 9, 12]
    await collect(collector, clock, [use(f"e{n}", START + n * HOUR / 3, seats=seats) for n, seats in enumerate(heights)])
    assert sum((await quantities(pool, "peak")).values()) == 12


async def test_the_quantity_of_an_event_can_be_a_height_and_the_template_of_a_call_a_value(
    pool: asyncpg.Pool, ready: None, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(state(sub="sub-2", product_id="loaded"))
    await publish(state(sub="sub-3", product_id="routed"))
    await collect(collector, clock, [use(f"q{n}", START, sub="sub-2", quantity=n) for n in (4, 70, 6)])
    routes = ["/a", "/b", "/a", "/c"]
    await collect(collector, clock, [call(f"r{n}", START, sub="sub-3", template=route) for n, route in enumerate(routes)])
    assert await quantities(pool, "load") == {("sub-2", FIRST): 70}
    assert await quantities(pool, "routes") == {("sub-3", FIRST): 3}


async def test_an_event_without_the_property_counts_for_the_other_meters_only_or_is_told(
    pool: asyncpg.Pool, ready: None, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(state(sub="sub-2", product_id="crew"))
    seen = [
        use("bare", START),
        use("named", START, stated_meter="users", seats=1),
        use("text", START, stated_meter="peak", properties={"seats": "a text"}),
        use("nothing", START, sub="sub-2"),
    ]
    await collect(collector, clock, seen)
    assert await outcomes(pool) == {
        "bare": "counted",
        "named": "rejected: missing_property",
        "text": "rejected: missing_property",
        "nothing": "filtered: no_property",
    }
    assert await quantities(pool, "events") == {("sub-1", FIRST): 1}


async def test_periods_begin_anew_with_each_segment_and_for_free_plans_with_each_month(
    pool: asyncpg.Pool, ready: None, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY + HOUR
    await publish(state(SubscriptionUpdated, revision=2, product_id="team", current_period_start=FEBRUARY, current_period_end=None))
    await publish(state(sub="sub-2", product_id="free", current_period_end=None, stripe_subscription_id=None))
    for sub in ("sub-1", "sub-2"):
        moments = [START, START + HOUR, FEBRUARY, FEBRUARY + HOUR / 2]
        await collect(collector, clock, [use(f"{sub}-{n}", at, sub=sub, user="ada") for n, at in enumerate(moments)])
    assert await quantities(pool, "users") == {(sub, hour): 1 for sub in ("sub-1", "sub-2") for hour in (FIRST, FEBRUARY)}


async def test_the_closed_segment_says_the_number_of_the_period(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY
    users = ["ada", "bob", "ada", "cleo"]
    await collect(collector, clock, [use(f"e{n}", START + n * HOUR, user=user, seats=n) for n, user in enumerate(users)])
    segment = await pool.fetchval("select id from segment where ended_at = $1", FEBRUARY)
    await publishing.close_segments(pool, collector.directory, [segment], now=clock.now())
    async with pool.acquire() as connection:
        (closed,) = await events_in_outbox(connection, UsageSegmentClosed)
        collected = await events_in_outbox(connection, UsageCollected)
    assert closed.totals == {"events": 4, "users": 3, "peak": 3}
    assert sum(event.quantity for event in collected if event.meter_id == "users") == 3


async def test_a_plan_change_known_late_takes_values_and_heights_to_the_new_segment(
    pool: asyncpg.Pool, ready: None, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = START + 5 * HOUR
    seen = [use("a", START, user="ada", seats=5), use("b", START + 2 * HOUR, user="ada", seats=9), use("c", START + 3 * HOUR, user="bob")]
    await collect(collector, clock, seen)
    await publish(state(SubscriptionUpdated, revision=2, product_id="crew", occurred_at=START + HOUR))
    await settle(collector)
    assert await totals(pool) == {
        (START, "events"): 1,
        (START, "users"): 1,
        (START, "peak"): 5,
        (START + HOUR, "users"): 2,
        (START + HOUR, "peak"): 9,
    }


async def test_what_left_a_segment_with_its_events_is_seen_anew_when_it_comes_earlier(
    pool: asyncpg.Pool, ready: None, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = START + 5 * HOUR
    await collect(collector, clock, [use("a", START + 3 * HOUR, user="ada", seats=9)])
    await publish(state(SubscriptionUpdated, revision=2, product_id="crew", occurred_at=START + 2 * HOUR))
    await settle(collector)
    await collect(collector, clock, [use("b", START + HOUR, user="ada", seats=4)])
    assert await totals(pool) == {
        (START, "events"): 1,
        (START, "users"): 1,
        (START, "peak"): 4,
        (START + 2 * HOUR, "users"): 1,
        (START + 2 * HOUR, "peak"): 9,
    }


async def test_a_person_can_change_the_number_but_not_delete_an_event_that_others_may_repeat(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [use("a", START, user="ada", seats=5), use("b", START, user="bob")])
    wanted = Adjustment("sub-1", "users", -1, START, "a test account", "Ada")
    await corrections.adjust(collector, wanted, now=clock.now())
    assert (await totals(pool))[START, "users"] == 1
    deletion = Deletion("sub-1", "apim", "a", START.date(), "a probe", "Ada")
    with pytest.raises(CorrectionRefusedError, match="counts for peak, users, where other events may say the same"):
        await corrections.delete(collector, deletion, now=clock.now())
    assert (await totals(pool)) == {(START, "events"): 2, (START, "users"): 1, (START, "peak"): 5}


async def test_states_are_forgotten_with_their_closed_segments_and_kept_while_open(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [use("a", START, user="ada", seats=5)])
    await collector.keep_partitions(clock.now() + timedelta(days=300), timedelta(days=90))
    assert await pool.fetchval("select count(*) from unique_value") == 1
    clock.instant = FEBRUARY
    segment = await pool.fetchval("select id from segment")
    await publishing.close_segments(pool, collector.directory, [segment], now=clock.now())
    await collector.keep_partitions(clock.now() + timedelta(days=300), timedelta(days=90))
    for table in ("unique_value", "max_record", "meter_state"):
        assert await pool.fetchval(f"select count(*) from {table}") == 0


EVENTS = st.lists(st.tuples(st.integers(0, 4 * 60), st.sampled_from([None, "a", "b", "c"]), st.integers(0, 9)), max_size=14)


def expected(events: Sequence[Observation], changed_at: datetime | None) -> dict[tuple[datetime, str], int]:
    """Count slowly: per segment the different users and the most seats."""
    found: dict[tuple[datetime, str], int] = {}
    for start in {START, changed_at or START}:
        inside = [one for one in events if (changed_at is not None and one.at >= changed_at) == (start == changed_at)]
        users = {(one.properties or {}).get("user") for one in inside} - {None}
        seats = [int((one.properties or {})["seats"]) for one in inside]
        found |= {(start, "users"): len(users), (start, "peak"): max(seats, default=0)}
    return {key: number for key, number in found.items() if number}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=EVENTS, change=st.one_of(st.none(), st.integers(1, 4 * 60)), seed=st.integers(0, 2**32))
async def test_any_order_of_events_repeats_restarts_and_a_plan_change_gives_the_same_numbers(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, drawn: list[tuple[int, str | None, int]], change: int | None, seed: int
) -> None:
    await empty(pool)
    await publish(catalogue_applied(CATALOGUE))
    clock.instant = START + 6 * HOUR
    await publish(state(product_id="team"))
    order = random.Random(seed)
    events = [use(f"e{n}", START + timedelta(minutes=m), user=user, seats=seats) for n, (m, user, seats) in enumerate(drawn)]
    changed_at = START + timedelta(minutes=change) if change is not None else None
    waiting = order.sample(events + order.choices(events, k=4) if events else [], len(events) + 4 if events else 0)
    change_after = order.randint(0, len(waiting))
    collector, done = make_collector(pool), 0
    while done < len(waiting):
        batch = waiting[done : done + order.randint(1, len(waiting))]
        await collect(collector, clock, batch)
        if order.random() < 0.3:  # killed after its transaction and before its offset: a new process gets the batch again
            collector = make_collector(pool)
            await collect(collector, clock, batch)
        done += len(batch)
        if changed_at is not None and done >= change_after:
            await publish(state(SubscriptionUpdated, revision=2, product_id="crew", occurred_at=changed_at))
            await settle(collector)
    if changed_at is not None:
        await publish(state(SubscriptionUpdated, revision=2, product_id="crew", occurred_at=changed_at))
        await settle(collector)
    assert {key: number for key, number in (await totals(pool)).items() if key[1] != "events"} == expected(events, changed_at)
    async with pool.acquire() as connection:
        answer = await reconcile(connection, "sub-1", ["sub-1"], FIRST, FIRST + 6 * HOUR)
    assert answer["balanced"]
    assert answer["events"]["received"] == len(events) == answer["events"]["counted"] + answer["events"]["filtered"]


async def test_batches_at_once_count_a_value_once(pool: asyncpg.Pool, ready: None, clock: FixedClock) -> None:
    collectors = [make_collector(pool) for _ in range(4)]
    clock.instant = START + 13 * HOUR
    names = ("ada", "bob", "cleo")
    batches = [[use(f"{n}-{user}", START + n * HOUR, user=user, seats=n) for user in names] for n in reversed(range(12))]
    await asyncio.gather(*(collect(collectors[n % 4], clock, batch) for n, batch in enumerate(batches)))
    assert await quantities(pool, "users") == {("sub-1", FIRST): 3}
    assert await quantities(pool, "peak") == {("sub-1", FIRST + n * HOUR): 1 for n in range(1, 12)}
    async with pool.acquire() as connection:
        counted = await window_store.counted_quantities(connection, ["sub-1"], FIRST, FIRST + 12 * HOUR)
    assert counted == {"events": 36, "users": 3, "peak": 11}
