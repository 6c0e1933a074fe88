"""From windows to Stripe: what is sent, once, whatever fails in between."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from billing_common.events import UsageRejected, UsageReported, UsageSettled
from billing_common.testing import empty, events_in_outbox, topics_in_outbox
from stripe_reporter import ledger, store

from .conftest import HOUR

DAY = timedelta(hours=24)
LEASE_OVER = timedelta(seconds=31)


@pytest.fixture
async def known(publish: Any, facts: Any, clock: Any) -> None:
    """A customer on a metered product, one window of 5 calls, and its hour is over."""
    await publish(facts.catalogue())
    await publish(facts.subscription())
    await publish(facts.usage(5))
    clock.instant += timedelta(minutes=32)


async def states(pool: asyncpg.Pool) -> list[tuple[str, int]]:
    return [tuple(row) for row in await pool.fetch("select state, quantity from ledger order by created_at, quantity")]


async def until_settled(sender: Any, pool: asyncpg.Pool, clock: Any, rounds: int = 60) -> None:
    for _ in range(rounds):
        await sender.round()
        async with pool.acquire() as connection:
            if not await store.waiting_for(connection, clock.now()):
                return
        await asyncio.sleep(0.02)
    raise AssertionError(await states(pool))


async def test_a_window_is_sent_after_its_hour_and_not_before(known: None, sender: Any, stripe: Any, clock: Any) -> None:
    clock.instant -= timedelta(minutes=3)
    await sender.round()
    assert stripe.calls == []
    clock.instant += timedelta(minutes=3)
    await sender.round()
    assert stripe.total() == 5


async def test_an_acknowledged_window_is_announced_and_sent_once(known: None, sender: Any, stripe: Any, pool: asyncpg.Pool) -> None:
    for _ in range(3):
        await sender.round()
    assert stripe.keys == stripe.calls
    assert len(stripe.calls) == 1
    async with pool.acquire() as connection:
        (reported,) = await events_in_outbox(connection, UsageReported)
    assert (reported.subscription_id, reported.meter_id, reported.quantity) == ("s-1", "calls", 5)


async def test_a_later_total_sends_only_the_difference_also_a_negative_one(
    known: None, sender: Any, stripe: Any, publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await sender.round()
    for revision, total in ((2, 9), (3, 7), (4, 7)):
        await publish(facts.usage(total, revision))
        clock.instant += timedelta(seconds=61)
        await sender.round()
    assert await states(pool) == [("acknowledged", 5), ("acknowledged", 4), ("acknowledged", -2)]
    assert stripe.total() == 7


async def test_killed_between_ledger_and_send_it_is_sent_once_by_the_next(
    known: None, new_sender: Any, stripe: Any, pool: asyncpg.Pool
) -> None:
    await new_sender()._plan()
    assert await states(pool) == [("intent", 5)]
    await new_sender().round()
    assert (await states(pool), stripe.total(), len(stripe.calls)) == ([("acknowledged", 5)], 5, 1)


async def test_killed_between_send_and_answer_the_same_identifier_goes_again(
    known: None, new_sender: Any, stripe: Any, pool: asyncpg.Pool
) -> None:
    stripe.failures = ["silent"]
    dying = asyncio.create_task(new_sender().round())
    await stripe.stored.wait()
    dying.cancel()
    with suppress(asyncio.CancelledError):
        await dying
    assert await states(pool) == [("sent", 5)]
    await new_sender().round()
    assert len(stripe.calls) == 1, "the dead replica's lease still holds"
    await new_sender(LEASE_OVER).round()
    assert (await states(pool), stripe.total(), len(set(stripe.calls))) == ([("acknowledged", 5)], 5, 1)


async def test_a_replica_that_lost_the_database_before_it_wrote_the_answer_goes_on_without_waiting_for_its_own_lease(
    known: None, new_sender: Any, stripe: Any, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, acknowledge = new_sender(), ledger.acknowledge
    monkeypatch.setattr(ledger, "acknowledge", AsyncMock(side_effect=ConnectionRefusedError))
    with pytest.raises(ConnectionRefusedError):
        await sender.run()
    assert await states(pool) == [("sent", 5)]
    monkeypatch.setattr(ledger, "acknowledge", acknowledge)
    running = asyncio.create_task(sender.run())
    async with asyncio.timeout(10):
        while await states(pool) != [("acknowledged", 5)]:
            await asyncio.sleep(0.02)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (stripe.total(), len(set(stripe.calls))) == (5, 1)


@pytest.mark.parametrize("failure", ["silent", "lost", "500", "429", "401"])
async def test_a_call_without_a_good_answer_is_repeated_until_it_counts_once(
    failure: str, known: None, new_sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    stripe.failures = [failure]
    await new_sender().round()
    assert await states(pool) == [("unknown", 5)]
    async with pool.acquire() as connection:
        assert await store.waiting_for(connection, clock.now()) == ["1 meter events without an answer"]
    await new_sender(timedelta(seconds=2)).round()
    assert (await states(pool), stripe.total(), len(set(stripe.calls))) == ([("acknowledged", 5)], 5, 1)


async def test_a_replayed_server_error_is_left_behind_by_a_new_key_under_the_same_identifier(
    known: None, new_sender: Any, stripe: Any
) -> None:
    stripe.failures = ["500"]
    await new_sender().round()
    await new_sender(timedelta(seconds=2)).round()
    assert stripe.keys == [stripe.calls[0], f"{stripe.calls[0]}:1"]


async def test_a_refused_key_stops_everything_and_one_call_tries_again(
    known: None, sender: Any, stripe: Any, publish: Any, facts: Any, clock: Any
) -> None:
    for number in (2, 3):
        await publish(facts.subscription(number, customer=f"cus_{number}"))
        await publish(facts.usage(1, number=number))
    clock.instant += timedelta(hours=1)
    stripe.failures = ["401"] * 9
    await sender.round()
    calls = len(stripe.calls)
    for _ in range(3):
        await sender.round()
    assert len(stripe.calls) == calls, "nothing is sent while stopped"
    sender._stopped_until = 1.0  # the pause is over
    sender.wall_now = lambda later=sender.wall_now: later() + timedelta(seconds=5)
    await sender.round()
    assert len(stripe.calls) == calls + 1


@pytest.mark.parametrize("stored", [True, False])
async def test_after_a_day_the_hour_is_compared_and_only_the_difference_sent(
    stored: bool, known: None, new_sender: Any, stripe: Any, pool: asyncpg.Pool
) -> None:
    stripe.failures = ["silent" if stored else "lost"]
    await new_sender().round()
    stripe.known.clear()  # Stripe has forgotten the identifier
    for _ in range(2):
        await new_sender(DAY).round()
    assert stripe.total() == 5
    assert len(set(stripe.calls)) == (1 if stored else 2)
    assert await pool.fetchval("select acknowledged from usage_window") == 5


async def test_new_usage_of_an_hour_waits_while_its_old_rows_are_compared(
    known: None, new_sender: Any, stripe: Any, publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    stripe.failures = ["lost"]
    await new_sender().round()
    await publish(facts.usage(8, 2))
    clock.instant += timedelta(seconds=61)
    stripe.known.clear()
    await new_sender(DAY).round()
    assert sorted(await states(pool)) == [("acknowledged", 5), ("intent", 3), ("intent", 5)]
    assert await pool.fetchval("select credited from ledger where state = 'acknowledged'") == 0
    await new_sender(DAY).round()
    assert stripe.total() == 8


async def test_an_hour_is_not_compared_while_stripes_summary_may_lag(
    known: None, new_sender: Any, stripe: Any, publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await new_sender().round()
    stripe.failures = ["lost"]
    await publish(facts.usage(3).model_copy(update={"segment_start": clock.now() - timedelta(hours=1), "event_id": uuid4()}))
    clock.instant += timedelta(seconds=61)
    await new_sender().round()
    await pool.execute("update ledger set first_sent_at = first_sent_at - interval '1 day' where state = 'unknown'")
    for later in (timedelta(seconds=5), timedelta(minutes=14)):
        await new_sender(later).round()
        assert (stripe.total(), len(stripe.calls)) == (5, 2)
    for _ in range(2):
        await new_sender(timedelta(minutes=17)).round()
    assert (stripe.total(), len(stripe.calls)) == (8, 3)


async def test_refused_usage_is_parked_and_announced_and_can_be_tried_again(
    known: None, sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    stripe.refused["cus_1"] = "meter_event_customer_not_found"
    for _ in range(3):
        await sender.round()
    assert len(stripe.calls) == 1
    async with pool.acquire() as connection:
        (rejected,) = await events_in_outbox(connection, UsageRejected)
        assert (rejected.code, rejected.quantity) == ("meter_event_customer_not_found", 5)
        assert await store.waiting_for(connection, clock.now()) == []
    stripe.refused.clear()
    async with pool.acquire() as connection, connection.transaction():
        assert await ledger.reopen_rejected(connection, "s-1", sender.wall_now()) == 1
    await sender.round()
    assert stripe.total() == 5


async def test_too_many_requests_slow_the_sender_and_lose_nothing(
    publish: Any, facts: Any, sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await publish(facts.catalogue())
    for number in range(12):
        await publish(facts.subscription(number, customer=f"cus_{number}"))
        await publish(facts.usage(number + 1, number=number))
    clock.instant += timedelta(hours=1)
    before = sender._limiter.rate
    stripe.failures = ["429"] * 8
    await sender.round()
    assert sender._limiter.rate < before
    sender._limiter.rate = before
    sender.wall_now = lambda later=sender.wall_now: later() + timedelta(seconds=5)
    await until_settled(sender, pool, clock)
    assert sum(value for _, _, value, _ in stripe.events.values()) == sum(range(1, 13))


async def test_a_lane_that_gets_on_between_failures_pauses_as_briefly_as_the_first_time(
    known: None, sender: Any, stripe: Any, pool: asyncpg.Pool, publish: Any, facts: Any, clock: Any
) -> None:
    """One call in a few fails: the pause must not grow with each, or a backlog would take minutes longer than its calls."""
    for hour in range(1, 8):
        await publish(facts.usage(1, hour=HOUR + timedelta(hours=hour)))
    clock.instant += timedelta(hours=9)
    for failure in ("500", "429", "500"):
        stripe.failures = ["", failure]
        await sender.round()
        assert await pool.fetchval("select failures from lane") == 1
        await pool.execute("update lane set retry_at = retry_at - interval '1 minute'")
    stripe.failures = ["500"]
    await sender.round()
    assert await pool.fetchval("select failures from lane") == 2, "nothing moved: the pause grows"
    await pool.execute("update lane set retry_at = retry_at - interval '1 minute'")
    await sender.round()
    assert (await pool.fetchval("select failures from lane"), stripe.total()) == (0, 5 + 7)


async def test_two_replicas_share_the_work_and_never_call_twice(
    publish: Any, facts: Any, new_sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await publish(facts.catalogue())
    for number in range(6):
        await publish(facts.subscription(number, customer=f"cus_{number % 3}"))  # two subscriptions of one customer share a lane
        for hour in range(4):
            await publish(facts.usage(1, number=number, hour=clock.now().replace(minute=0) - timedelta(hours=hour)))
    clock.instant += timedelta(hours=2)
    replicas = [new_sender(), new_sender()]
    await asyncio.gather(*(until_settled(replica, pool, clock) for replica in replicas))
    assert (len(stripe.calls), len(stripe.events), stripe.most_together) == (24, 24, 1)


async def test_a_closed_segment_goes_at_once_and_is_settled_once_when_its_totals_are_in(
    known: None, sender: Any, stripe: Any, publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    clock.instant -= timedelta(minutes=20)  # the hour is not over
    await publish(facts.closed({"calls": 5, "bytes": 3}, product_id="payg", catalogue_version=4))
    await sender.round()
    assert stripe.total() == 5
    async with pool.acquire() as connection:
        assert await events_in_outbox(connection, UsageSettled) == []
        (reason,) = await store.waiting_for(connection, clock.now())
    assert "bytes: 3 counted at the close, 0 in windows" in reason
    await publish(facts.usage(3, meter="bytes"))
    for _ in range(3):
        await sender.round()
    async with pool.acquire() as connection:
        (settled,) = await events_in_outbox(connection, UsageSettled)
        assert await store.waiting_for(connection, clock.now()) == []
    assert (settled.totals, settled.reason) == ({"calls": 5, "bytes": 3}, "cancellation")
    assert (settled.product_id, settled.catalogue_version) == ("payg", 4)


async def test_a_free_product_sends_nothing_and_is_settled_at_once(
    publish: Any, facts: Any, sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await publish(facts.catalogue())
    await publish(facts.subscription(customer=None))
    await publish(facts.usage(5, product="free"))
    await publish(facts.closed({"calls": 5}))
    await sender.round()
    async with pool.acquire() as connection:
        assert await topics_in_outbox(connection) == [UsageSettled.topic]
        assert await store.waiting_for(connection, clock.now()) == []
    assert stripe.calls == []


async def test_a_window_waits_for_its_customer_and_catalogue(
    publish: Any, facts: Any, sender: Any, stripe: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    await publish(facts.usage(5))
    clock.instant += timedelta(hours=1)
    for late in (facts.subscription(customer=None), facts.catalogue(), facts.subscription(revision=2)):
        await sender.round()
        assert stripe.calls == []
        async with pool.acquire() as connection:
            assert await store.waiting_for(connection, clock.now()) == ["1 usage windows due"]
        await publish(late)
    await sender.round()
    assert stripe.total() == 5


async def test_a_period_is_complete_when_its_segment_is_settled(
    known: None, sender: Any, publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any
) -> None:
    end = clock.now()
    await pool.execute(
        "insert into period_close values ('in_1', 's-1', $1, $2, $3, 1)", end - timedelta(days=1), end, end + timedelta(hours=1)
    )
    await sender.round()
    alert = timedelta(hours=2)
    async with pool.acquire() as connection:
        figures = await store.figures(connection, now=end, wall=sender.wall_now(), alert=alert)
        assert (figures["close_open"], figures["close_at_risk"]) == (1, 1)
    await publish(facts.closed({"calls": 5}, reason="period_end", segment_end=end))
    await sender.round()
    async with pool.acquire() as connection:
        figures = await store.figures(connection, now=end, wall=sender.wall_now(), alert=alert)
        assert (figures["close_open"], figures["close_at_risk"]) == (0, 0)


REVISIONS = strategies.lists(strategies.integers(0, 50), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(totals=REVISIONS, picks=strategies.data())
async def test_any_order_of_events_ends_in_the_last_totals(
    totals: list[int],
    picks: Any,
    publish: Any,
    facts: Any,
    new_sender: Any,
    stripe: Any,
    pool: asyncpg.Pool,
    clock: Any,
) -> None:
    await empty(pool, "subscription, catalogue, stripe_meter, usage_window, ledger, lane, segment, period_close, inbox, outbox")
    stripe.__init__(base=stripe.base)
    events = [facts.usage(total, revision) for revision, total in enumerate(totals, 1)]
    events += [facts.catalogue(), facts.subscription(), facts.closed({"calls": totals[-1]})]
    events = picks.draw(strategies.permutations([*events, events[0]]))
    sender = new_sender()
    for event in events:
        await publish(event)
        clock.instant += timedelta(minutes=2)
        stripe.failures = picks.draw(strategies.lists(strategies.sampled_from(["", "500", "429"]), max_size=1))
        await sender.round()
        sender.wall_now = lambda later=sender.wall_now: later() + timedelta(seconds=5)
    sender._limiter.rate = 500
    clock.instant += timedelta(hours=1)
    await until_settled(sender, pool, clock)
    assert stripe.total() == totals[-1]
    async with pool.acquire() as connection:
        assert len(await events_in_outbox(connection, UsageSettled)) == 1
