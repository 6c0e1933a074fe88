"""Subscription and access events go in; segments, windows and outcomes are read back."""

from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from billing_common.events import (
    AccessGranted,
    AccessRestored,
    Event,
    InvalidEventError,
    SubscriptionChangeProgressed,
    SubscriptionUpdated,
    UsageCollected,
)
from billing_common.testing import events_in_outbox
from usage_collector import held_store, publishing
from usage_collector.collecting import Collector

from .conftest import (
    FEBRUARY,
    MARCH,
    START,
    FixedClock,
    Publish,
    call,
    catalogue_applied,
    collect,
    deleted,
    make_collector,
    outcomes,
    renewed,
    settle,
    state,
    suspended,
    windows,
)

HOUR = START.replace(minute=0)
EMPTIED = (
    "subscription",
    "subscription_key",
    "subscription_fact",
    "segment",
    "usage_event",
    "held_event",
    "usage_window",
    "inbox",
    "outbox",
)


async def segments(pool: asyncpg.Pool) -> list[tuple[object, ...]]:
    rows = await pool.fetch("select started_at, ended_at, product_id, reason from segment order by started_at")
    return [tuple(row) for row in rows]


async def test_a_call_before_its_subscription_is_known_is_held_and_counted_later(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START)])
    assert await outcomes(pool) == {"a": "held: unknown_subscription"}
    await publish(state())
    await settle(collector)
    assert await outcomes(pool) == {"a": "held: unknown_catalogue"}
    await publish(catalogue_applied())
    await settle(collector)
    assert await outcomes(pool) == {"a": "counted"}
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (1, 1)}
    assert await pool.fetchval("select count(*) from held_event") == 0


async def test_a_state_delivered_twice_changes_nothing(pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state())
    version = await pool.fetchval("select version from subscription")
    await publish(state())
    assert await pool.fetchval("select version from subscription") == version
    assert await segments(pool) == [(START, FEBRUARY, "payg", "period_end")]


def progressed(state: Any, revision: int, at: datetime, version: int = 2) -> SubscriptionChangeProgressed:
    return SubscriptionChangeProgressed(
        cause_id=f"m-1:{revision}", occurred_at=at, subscription_id="sub-1", account_id="acct-sub-1", change_id="m-1", revision=revision,
        state=state, product_id="payg", catalogue_version=version, effective_at=at,
    )  # fmt: skip


async def test_usage_from_the_cut_on_waits_for_the_new_plan_and_is_stamped_when_that_was_made(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    cut = START + timedelta(hours=2, seconds=5)
    made = cut + timedelta(seconds=9)
    await publish(catalogue_applied())
    await publish(catalogue_applied(version=2))
    await publish(state())
    await collect(collector, clock, [call("before", cut - timedelta(milliseconds=1)), call("early", cut)])
    await publish(progressed("closing", 1, cut))
    await publish(progressed("closing", 1, cut))
    await settle(collector)
    await collect(collector, clock, [call("late", cut + timedelta(seconds=3))])
    assert await segments(pool) == [(START, cut, "payg", "change")]
    assert await outcomes(pool) == {"before": "counted", "early": "held: no_segment", "late": "held: no_segment"}
    await publish(state(SubscriptionUpdated, revision=2, catalogue_version=2, occurred_at=made))
    await publish(progressed("made", 2, cut))
    await settle(collector)
    assert await segments(pool) == [(START, cut, "payg", "change"), (cut, FEBRUARY, "payg", "period_end")]
    assert set((await outcomes(pool)).values()) == {"counted"}
    await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
    async with pool.acquire() as connection:
        told = await events_in_outbox(connection, UsageCollected)
    last = {event.segment_start: (event.catalogue_version, event.timestamp, event.quantity) for event in told}
    assert last == {START: (1, cut.replace(minute=0, second=0), 1), cut: (2, made, 2)}


async def test_a_change_that_failed_gives_the_waiting_calls_back_to_the_old_plan(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    cut = START + timedelta(hours=2)
    await publish(catalogue_applied())
    await publish(state())
    await publish(progressed("closing", 1, cut))
    await collect(collector, clock, [call("waits", cut)])
    await publish(progressed("failed", 2, cut))
    await publish(progressed("closing", 1, cut).model_copy(update={"event_id": uuid4()}))
    await settle(collector)
    assert await segments(pool) == [(START, FEBRUARY, "payg", "period_end")]
    assert await outcomes(pool) == {"waits": "counted"}


async def test_every_order_of_events_and_calls_ends_in_the_same_windows(pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> None:
    clock.instant = FEBRUARY + timedelta(days=10)
    cut = FEBRUARY + timedelta(days=5)
    steps: list[Event | str] = [
        state(),
        renewed(),
        suspended(cut),
        deleted(ended_at=cut + timedelta(minutes=1), current_period_start=FEBRUARY, current_period_end=MARCH),
        "calls",
    ]
    calls = [
        call("january", FEBRUARY - timedelta(seconds=1)),
        call("february", FEBRUARY),
        call("last", cut - timedelta(seconds=1)),
        call("refused", cut),
        call("early", START - timedelta(seconds=1)),
    ]
    results = []
    for order in list(permutations(steps))[::7]:
        for table in EMPTIED:
            await pool.execute(f"delete from {table}")
        collector = make_collector(pool)
        await publish(catalogue_applied())
        for step in order:
            if isinstance(step, str):
                await collect(collector, clock, calls)
            else:
                await publish(step)
            await settle(collector)
        results.append((await windows(pool), await outcomes(pool), await segments(pool)))
    assert results[0][1] == {
        "january": "counted",
        "february": "counted",
        "last": "counted",
        "refused": "rejected: subscription_ended",
        "early": "held: before_start",
    }
    assert all(result == results[0] for result in results)


def test_events_are_held_again_in_pieces_that_leave_none_out() -> None:
    seconds = [(START + timedelta(seconds=n), events) for n, events in ((0, 15_000), (1, 5_000), (5, 30_000), (9, 1))]
    assert held_store.pieces(seconds) == [(at, until) for at, until in (
        (seconds[0][0], seconds[1][0]), (seconds[2][0], seconds[2][0]), (seconds[3][0], seconds[3][0])
    )]  # fmt: skip
    assert held_store.pieces([]) == []


@pytest.mark.parametrize("piece", [held_store.PIECE, 1])
async def test_a_change_of_plan_that_is_learned_late_moves_what_was_counted(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(held_store, "PIECE", piece)
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call("old", START), call("new", START + timedelta(hours=1), properties={"responseBytes": 70})])
    await collect(collector, clock, [call("newer", START + timedelta(minutes=61), properties={"responseBytes": 30})])
    change = START + timedelta(minutes=45)
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=change))
    await settle(collector)
    assert await windows(pool) == {
        ("sub-1", "calls", START, HOUR): (1, 1),
        ("sub-1", "calls", change, HOUR + timedelta(hours=1)): (2, 2),
        ("sub-1", "traffic", change, HOUR + timedelta(hours=1)): (100, 2),
    }
    emptied = await pool.fetchrow("select quantity, revision, dirty from usage_window where events = 0")
    assert (emptied["quantity"], emptied["dirty"], emptied["revision"] > 2) == (0, True, True)  # two batches made it what it was


async def test_a_segment_that_turns_out_wrong_is_announced_as_empty(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await publish(state(SubscriptionUpdated, revision=3, product_id="hybrid", occurred_at=START + timedelta(hours=1)))
    await collect(collector, clock, [call("a", START + timedelta(hours=1, minutes=1), properties={"responseBytes": 5})])
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=START + timedelta(minutes=10)))
    await settle(collector)
    async with pool.acquire() as connection:
        announced = await events_in_outbox(connection, UsageCollected)
    assert {(e.meter_id, e.segment_start, e.quantity) for e in announced} == {
        ("calls", START + timedelta(hours=1), 0),
        ("traffic", START + timedelta(hours=1), 0),
    }
    assert {key[2] for key in await windows(pool)} == {START + timedelta(minutes=10)}


async def test_a_second_key_counts_for_its_subscription(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call("a", START, sub="sub-1-key-2")])
    granted = AccessGranted.model_validate(
        suspended(START).model_dump() | {"sid": "sub-1-key-2", "reason": "subscribed", "event_id": START.strftime("%032d")}
    )
    await publish(granted)
    await settle(collector)
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (1, 1)}


@pytest.mark.parametrize("kind", [AccessGranted, AccessRestored])
async def test_all_keys_of_a_subscription_count_for_it(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock, kind: type[Event]
) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call(sid, START, sub=sid) for sid in ("sub-1", "sub-1_2", "sub-1_3", "sub-2_2")])
    told = {"sids": ["sub-1", "sub-1_2", "sub-1_3"], "reason": "keys", "event_id": "0" * 32}
    await publish(kind.model_validate(suspended(START).model_dump() | told))
    await settle(collector)
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (3, 3)}
    assert (await outcomes(pool))["sub-2_2"] == "held: unknown_subscription"


async def test_a_suspension_for_another_reason_cuts_nothing(pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state())
    await publish(suspended(START + timedelta(hours=1), reason="payment_failed"))
    assert await segments(pool) == [(START, FEBRUARY, "payg", "period_end")]


async def test_a_free_subscription_has_one_open_segment_and_is_not_reported(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state(product_id="free", current_period_end=None, stripe_subscription_id=None, stripe_customer_id=None))
    await collect(collector, clock, [call("a", START)])
    assert await segments(pool) == [(START, None, "free", "period_end")]
    assert await pool.fetchval("select reported from subscription") is False
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (1, 1)}


async def test_a_catalogue_that_cannot_be_read_is_poison(publish: Publish) -> None:
    with pytest.raises(InvalidEventError, match="catalogue version 2 cannot be read"):
        await publish(catalogue_applied({"version": 1, "products": []}, 2))
