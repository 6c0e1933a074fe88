"""Adjustments and deletions: where they go before and after the close, what is refused, and that each is made once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.events import SubscriptionUpdated, UsageCollected, UsageCorrected, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import correction_store, corrections, publishing, routes_corrections, store
from usage_collector.collecting import Collector
from usage_collector.corrections import Adjustment, CorrectionRefusedError, Deletion, Made
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
    windows,
)

HOUR = START.replace(minute=0)


@pytest.fixture
async def ready(publish: Publish, collector: Collector, clock: FixedClock) -> None:
    """Four calls at 12:30, 12:50, 13:10 and 13:30; it is 14:30."""
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call(str(n), START + timedelta(minutes=20 * n)) for n in range(4)])


def adjustment(quantity: int, *, at: Any = START, meter: str = "calls", reason: str = "a test run", **fields: Any) -> Adjustment:
    return Adjustment(**{"subscription_id": "sub-1", "author": "Ada"} | fields, meter_id=meter, quantity=quantity, at=at, reason=reason)


def deletion(name: str, **fields: Any) -> Deletion:
    values: dict[str, Any] = {"subscription_id": "sub-1", "source": "apim", "day": START.date(), "reason": "a probe", "author": "Ada"}
    return Deletion(**values | fields, external_id=name)


async def close(pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> None:
    clock.instant = FEBRUARY + timedelta(minutes=5)
    due = await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))
    assert await publishing.close_segments(pool, collector.directory, [one.id for one in due], now=clock.now()) == 1


async def told(pool: asyncpg.Pool) -> list[UsageCorrected]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, UsageCorrected)


async def hours(pool: asyncpg.Pool) -> dict[int, int]:
    return {hour.hour: quantity for (_, _, _, hour), (quantity, _) in (await windows(pool)).items()}


async def test_an_adjustment_moves_the_running_total_of_its_hour(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    made = await corrections.adjust(collector, adjustment(-2), now=clock.now())
    assert (made.state, made.hour_before, made.totals_before, made.totals_after) == ("made", {"calls": 2}, {"calls": 4}, {"calls": 2})
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    async with pool.acquire() as connection:
        totals = [(event.hour, event.quantity, event.revision) for event in await events_in_outbox(connection, UsageCollected)]
    assert totals[-1] == (HOUR, 0, 2)
    (event,) = await told(pool)
    assert (event.kind, event.amounts, event.after_close, event.totals_after) == ("adjustment", {"calls": -2}, False, {})
    assert "Ada" not in event.model_dump_json()
    assert "test run" not in event.model_dump_json()


async def test_the_same_words_twice_are_one_adjustment(pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock) -> None:
    made = [await corrections.adjust(collector, adjustment(-1), now=clock.now()) for _ in range(2)]
    assert [one.state for one in made] == ["made", "known"]
    assert await hours(pool) == {12: 1, 13: 2}
    assert len(await told(pool)) == 1
    await corrections.adjust(collector, adjustment(-1, reason="another"), now=clock.now())
    assert (await hours(pool))[12] == 0


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (adjustment(-3), "holds 2 of calls: no more can be taken"),
        (adjustment(1, meter="traffic"), 'has no meter "traffic"; it has calls'),
        (adjustment(1, at=START - timedelta(days=1)), "before the subscription began"),
        (adjustment(1, at=START + timedelta(hours=3)), "lies in the future"),
        (adjustment(1, subscription_id="nobody"), "no usage is known"),
    ],
)
async def test_an_adjustment_that_makes_no_sense_is_refused_with_a_reason(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, wanted: Adjustment, words: str
) -> None:
    with pytest.raises(CorrectionRefusedError, match=words):
        await corrections.adjust(collector, wanted, now=clock.now())
    assert await hours(pool) == {12: 2, 13: 2}
    assert await told(pool) == []


@pytest.mark.parametrize(
    ("sub", "at"), [("sub-1", datetime(225, 11, 1, tzinfo=UTC)), ("nobody", START), ("sub-1", START + timedelta(days=1))]
)
async def test_an_adjustment_that_is_refused_or_only_tried_leaves_no_partition(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, sub: str, at: datetime
) -> None:
    async with pool.acquire() as connection:
        before = await store.partition_days(connection)
        clock.instant = START + timedelta(days=2)
        with contextlib.suppress(CorrectionRefusedError):
            await corrections.adjust(collector, adjustment(5, at=at, subscription_id=sub), now=clock.now(), dry_run=True)
        if sub == "nobody" or at < START:
            with pytest.raises(CorrectionRefusedError):
                await corrections.adjust(collector, adjustment(5, at=at, subscription_id=sub), now=clock.now())
        assert await store.partition_days(connection) == before


def test_days_of_early_years_have_names_that_can_be_read() -> None:
    assert store.partition_of(date(225, 11, 1)) == "usage_event_02251101"


async def test_an_adjustment_beyond_what_stripe_takes_in_an_hour_is_refused(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await pool.execute("update usage_window set quantity = 999999999999999")
    with pytest.raises(CorrectionRefusedError, match="an hour holds at most"):
        await corrections.adjust(collector, adjustment(1), now=clock.now())


async def test_an_adjustment_older_than_stripe_takes_is_refused_while_the_period_is_open(
    publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state(current_period_end=START + timedelta(days=365)))
    clock.instant = START + timedelta(days=40)
    with pytest.raises(CorrectionRefusedError, match="past 35 days"):
        await corrections.adjust(collector, adjustment(1), now=clock.now())
    await corrections.adjust(collector, adjustment(1, at=START + timedelta(days=39)), now=clock.now())


async def test_two_corrections_at_once_cannot_take_the_same_usage(pool: asyncpg.Pool, ready: None, clock: FixedClock) -> None:
    tries = [corrections.adjust(make_collector(pool), adjustment(-2, reason=str(n)), now=clock.now()) for n in range(6)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Made) for one in results) == 1
    assert (await hours(pool))[12] == 0


async def test_a_deleted_event_counts_no_more_even_when_it_comes_again(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    made = [await corrections.delete(collector, deletion("1"), now=clock.now()) for _ in range(2)]
    assert [one.state for one in made] == ["made", "known"]
    await collect(collector, clock, [call("1", START + timedelta(minutes=20))])
    assert await hours(pool) == {12: 1, 13: 2}
    assert (await outcomes(pool))["1"] == "rejected: deleted"
    (event,) = await told(pool)
    assert (event.kind, event.amounts) == ("deletion", {"calls": -1})


async def test_a_deletion_takes_every_meter_back(pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock) -> None:
    await publish(catalogue_applied())
    await publish(state(product_id="hybrid"))
    sent = [call(str(n), START, method="POST", template="/orders", properties={"responseBytes": 700}) for n in range(2)]
    await collect(collector, clock, sent)
    made = await corrections.delete(collector, deletion("0"), now=clock.now())
    assert (made.totals_before, made.totals_after) == ({"calls": 10, "traffic": 1400}, {"calls": 5, "traffic": 700})
    assert {meter: figures for (_, meter, _, _), figures in (await windows(pool)).items()} == {"calls": (5, 1), "traffic": (700, 1)}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (deletion("nothing"), "no event nothing of apim"),
        (deletion("0", day=START.date() + timedelta(days=1)), "check source, id and UTC day"),
        (deletion("0", subscription_id="sub-2"), "belongs to this subscription"),
        (deletion("failed"), r"it is filtered \(failed\)"),
        (deletion("x", source=corrections.SOURCE), "make the opposite one"),
    ],
)
async def test_what_was_not_counted_cannot_be_deleted(
    publish: Publish, ready: None, collector: Collector, clock: FixedClock, wanted: Deletion, words: str
) -> None:
    await publish(state(sub="sub-2"))
    await collect(collector, clock, [call("failed", START, status=500)])
    with pytest.raises(CorrectionRefusedError, match=words):
        await corrections.delete(collector, wanted, now=clock.now())


async def test_after_the_close_windows_stand_and_the_totals_follow_one_another(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await close(pool, collector, clock)
    await corrections.adjust(collector, adjustment(-1), now=clock.now())
    await corrections.delete(collector, deletion("1"), now=clock.now())
    with pytest.raises(CorrectionRefusedError, match="holds 0 of calls"):
        await corrections.adjust(collector, adjustment(-1, reason="too much"), now=clock.now())
    assert await hours(pool) == {12: 2, 13: 2}
    assert (await outcomes(pool))["1"] == "counted"
    assert [(event.after_close, event.totals_before, event.totals_after) for event in await told(pool)] == [
        (True, {"calls": 4}, {"calls": 3}),
        (True, {"calls": 3}, {"calls": 2}),
    ]
    assert (await told(pool))[0].segment_end == FEBRUARY


async def test_an_adjustment_moves_with_its_segment(
    pool: asyncpg.Pool, publish: Publish, ready: None, collector: Collector, clock: FixedClock
) -> None:
    await corrections.adjust(collector, adjustment(7, at=START + timedelta(minutes=50)), now=clock.now())
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=START + timedelta(minutes=45)))
    await settle(collector)
    found = {(start, hour.hour): quantity for (_, meter, start, hour), (quantity, _) in (await windows(pool)).items() if meter == "calls"}
    assert found == {(START, 12): 2, (START, 13): 1, (START + timedelta(minutes=45), 13): 8}


async def test_a_correction_that_would_take_more_than_moved_events_left_is_held_and_seen(
    pool: asyncpg.Pool, publish: Publish, ready: None, collector: Collector, clock: FixedClock
) -> None:
    made = await corrections.adjust(collector, adjustment(-2, at=START + timedelta(minutes=50)), now=clock.now())
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=START + timedelta(minutes=45)))
    await settle(collector)
    assert min(quantity for quantity, _ in (await windows(pool)).values()) >= 0
    assert (await outcomes(pool))[str(made.correction.correction_id)] == "held: below_zero"
    late = [call("late", START + timedelta(minutes=55))]
    await collect(collector, clock, late)
    await publish(state(SubscriptionUpdated, revision=3, product_id="hybrid", occurred_at=START + timedelta(minutes=45)))
    await settle(collector)
    assert (await outcomes(pool))[str(made.correction.correction_id)] == "counted"


async def test_a_dry_run_says_what_would_change_and_changes_nothing(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    for made in (
        await corrections.adjust(collector, adjustment(-2), now=clock.now(), dry_run=True),
        await corrections.delete(collector, deletion("0"), now=clock.now(), dry_run=True),
    ):
        assert (made.state, made.totals_before) == ("tried", {"calls": 4})
    assert await hours(pool) == {12: 2, 13: 2}
    assert await told(pool) == []
    assert await pool.fetchval("select count(*) from correction") == 0


async def test_a_correction_does_not_announce_a_threshold_again(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state(product_id="free", stripe_subscription_id=None, stripe_customer_id=None))
    await collect(collector, clock, [call(str(n), START) for n in range(81)])
    for quantity in (-60, +65, -70, +90):
        await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
        await corrections.adjust(collector, adjustment(quantity, reason=str(quantity)), now=clock.now())
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    async with pool.acquire() as connection:
        reached = [(str(event.threshold), event.quantity) for event in await events_in_outbox(connection, UsageThresholdReached)]
    assert reached == [("0.5", 81), ("0.8", 81), ("1", 106)]


# --- the door ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def door(pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock) -> AsyncIterator[httpx.AsyncClient]:
    shared = {"pool": pool, "clock": clock, "collector": collector}
    async with door_to(routes_corrections.router, "usage:write", "usage:read", **shared) as client:
        yield client


async def test_the_door_makes_refuses_and_lists_corrections(door: httpx.AsyncClient) -> None:
    body = {"subscription_id": "sub-1", "meter": "calls", "quantity": -1, "at": START.isoformat(), "reason": "a probe", "by": "Ada"}
    answer = (await door.post("/v1/corrections/adjustments", json=body)).json()
    assert (answer["state"], answer["place"], answer["totals_after"], answer["segment"]["closed"]) == (
        "made",
        "window",
        {"calls": 3},
        False,
    )
    removed = {"subscription_id": "sub-1", "source": "apim", "id": "3", "day": str(START.date()), "reason": "a probe", "by": "Ada"}
    assert (await door.post("/v1/corrections/deletions", json=removed)).json()["amounts"] == {"calls": -1}
    listed = (await door.get("/v1/corrections", params={"subscription_id": "sub-1"})).json()
    assert {(one["kind"], one["by"], one["reason"], one["id"]) for one in listed} == {
        ("adjustment", "Ada", "a probe", None),
        ("deletion", "Ada", "a probe", "3"),
    }
    assert (await door.get("/v1/corrections", params={"subscription_id": "sub-2"})).json() == []
    for wrong, status in (({"quantity": 0}, 422), ({"quantity": -9}, 422), ({"reason": " "}, 422), ({"subscription_id": "x"}, 404)):
        refused = await door.post("/v1/corrections/adjustments", json=body | wrong)
        assert refused.status_code == status, refused.text


async def test_the_door_needs_the_scope_to_write(door: httpx.AsyncClient) -> None:
    answer = await door.post("/v1/corrections/deletions", json={}, headers=allowed("usage:read"))
    assert answer.status_code == 403


# --- any sequence ----------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("adjust"), st.integers(-4, 4).filter(bool), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("change"), st.just(0), st.integers(0, 3)),
    ),
    max_size=14,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
async def test_windows_are_what_was_counted_plus_adjustments_whatever_happens(
    pool: asyncpg.Pool, publish: Publish, clock: FixedClock, steps: list[tuple[str, int, int]]
) -> None:
    """Events (some twice), adjustments, deletions and changes of the plan in any order; a slow count beside it."""
    await empty(pool)
    collector = make_collector(pool)
    await publish(catalogue_applied())
    await publish(state())
    events: set[tuple[int, int]] = set()
    gone: set[tuple[int, int]] = set()
    adjusted: dict[UUID, int] = {}
    for number, (kind, value, place) in enumerate(steps):
        at = START + timedelta(minutes=25 * place)
        if kind == "event":
            await collect(collector, clock, [call(f"{value}-{place}", at)] * 2)
            events.add((value, place))
        elif kind == "change":
            await publish(state(SubscriptionUpdated, revision=number + 2, product_id="hybrid", occurred_at=at))
            await settle(collector)
        else:
            wanted: Any = adjustment(value, at=at, reason=str(number)) if kind == "adjust" else deletion(f"{value}-{place}")
            try:
                make: Any = corrections.adjust if kind == "adjust" else corrections.delete
                made = await make(collector, wanted, now=clock.now())
            except CorrectionRefusedError:
                continue
            if kind == "delete":
                gone.add((value, place))
            else:
                adjusted[made.correction.correction_id] = value
    held = {name for name, outcome in (await outcomes(pool)).items() if outcome == "held: below_zero"}
    expected = len(events - gone) + sum(amount for name, amount in adjusted.items() if str(name) not in held)
    found = await windows(pool)
    assert sum(quantity for (_, meter, _, _), (quantity, _) in found.items() if meter == "calls") == expected
    assert all(quantity >= 0 for quantity, _ in found.values())
    async with pool.acquire() as connection:
        figures = await reconcile(connection, "sub-1", ["sub-1"], HOUR, HOUR + timedelta(hours=3))
        assert await correction_store.listed(connection, "sub-1", START, clock.now() + timedelta(days=1), 100) or not adjusted
    assert figures["balanced"]
    assert figures["events"]["received"] == len(events)
