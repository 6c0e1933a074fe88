"""The writer applies what is desired; what it told and what it asked of API Management are read back."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from billing_common import testing
from billing_common.catalogue import Product
from billing_common.catalogue_model import Policies
from billing_common.clock import BusinessClock
from billing_common.events import AccessGranted, AccessRestored, AccessRevoked, AccessSuspended, SubscriptionState
from subscription_enforcer import domain, plans, store
from subscription_enforcer.apim_gateway import Found
from subscription_enforcer.repair import Repair
from subscription_enforcer.writer import Writer


def graceful(days: int) -> Product:
    policies = Policies(dunning_grace_days=days)
    return Product(id="standard", name="Standard", model="Tier", policies=policies)


@pytest.fixture
def writer(pool: asyncpg.Pool, apim: Any, clock: BusinessClock) -> Writer:
    return Writer(pool, apim, clock, minimum=5, share=0.02)


async def take(pool: asyncpg.Pool, event: SubscriptionState, clock: BusinessClock, grace: timedelta = timedelta(0)) -> None:
    """Do what the handler does with a state."""
    async with pool.acquire() as connection, connection.transaction():
        facts = domain.with_state(await store.lock_facts(connection, event.subscription_id, event.account_id), event, clock.now())
        await store.save(connection, facts, domain.decide(facts, clock.now(), grace=grace))


async def test_a_life_is_applied_and_told_step_by_step(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    for revision, status in enumerate(["active", "past_due", "unpaid", "active", "canceled"], 1):
        await take(pool, samples.state(status, revision), clock)
        while await writer.round():
            pass
    assert apim.calls == [("s-1", "active"), ("s-1", "suspended"), ("s-1", "active"), ("s-1", "cancelled")]
    assert await testing.topics_in_outbox(pool) == ["access.granted", "access.suspended", "access.restored", "access.revoked"]
    told = [(await testing.events_in_outbox(pool, event))[0] for event in (AccessGranted, AccessSuspended, AccessRestored, AccessRevoked)]
    assert [(event.revision, event.reason, event.sid) for event in told] == [
        (1, "subscribed", "s-1"),
        (2, "payment_failed", "s-1"),
        (3, "paid", "s-1"),
        (4, "canceled", "s-1"),
    ]
    assert [event.effective_at for event in told] == sorted(event.effective_at for event in told)
    assert await writer.unfinished() is None


async def test_a_refusal_is_held_shown_and_tried_again(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    apim.failures = ["refused: ValidationError: ownerId: User not found"]
    await take(pool, samples.state(), clock)
    await writer.round()
    assert await testing.topics_in_outbox(pool) == []
    assert "User not found" in (await writer.unfinished() or "")
    assert await writer.round() == 0  # it pauses
    await pool.execute("update access set retry_at = now()")
    await writer.round()
    assert await testing.topics_in_outbox(pool) == ["access.granted"]
    assert await writer.unfinished() is None


async def test_an_intent_without_outcome_is_made_good_even_if_it_is_no_longer_wanted(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    await take(pool, samples.state(), clock)
    await writer.round()
    await store.intend(pool, "s-1", uuid4())  # a process wrote the intent to suspend, did it, and died
    apim.subscriptions["s-1"] = Found("s-1", "suspended", "standard")
    await writer.round()
    assert apim.subscriptions["s-1"].state == "active"
    assert await testing.topics_in_outbox(pool) == ["access.granted"]  # nothing new to tell


async def test_an_outcome_of_a_lost_intent_is_not_written(
    pool: asyncpg.Pool, writer: Writer, samples: Any, clock: BusinessClock, apim: Any
) -> None:
    await take(pool, samples.state(), clock)

    async def overtaken(*_: object, **__: object) -> None:
        await store.intend(pool, "s-1", uuid4())  # another writer took over during the call

    apim.apply = overtaken
    await writer.round()
    assert await testing.topics_in_outbox(pool) == []
    assert (await store.backlog(pool)).pending == 1


async def test_grants_go_before_suspensions(pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock) -> None:
    for number in range(6):
        await take(pool, samples.state(subscription_id=f"old-{number}"), clock)
    while await writer.round():
        pass
    for number in range(6):
        await take(pool, samples.state("paused", 2, subscription_id=f"old-{number}"), clock)
    await take(pool, samples.state(subscription_id="new"), clock)
    apim.calls.clear()
    await writer.round()
    assert apim.calls[0] == ("new", "active")


async def test_the_breaker_lets_five_an_hour_through_and_a_person_the_rest(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    for number in range(9):
        await take(pool, samples.state(subscription_id=f"s-{number}"), clock)
    while await writer.round():
        pass
    for number in range(9):
        await take(pool, samples.state("unpaid", 2, subscription_id=f"s-{number}"), clock)
    while await writer.round():
        pass
    suspended = [sid for sid, state in apim.calls if state == "suspended"]
    assert len(suspended) == 5
    assert await writer.unfinished() is None
    assert (await writer.notes() or "").startswith("4 suspensions")
    due = await writer.next_due()
    assert due is not None
    assert timedelta(minutes=59) < due - clock.now() <= timedelta(hours=1)

    held = [row["subscription_id"] for row in await store.held(pool, limit=10)]
    assert await store.approve(pool, "operator", held[:1]) == held[:1]
    while await writer.round():
        pass
    assert [sid for sid, state in apim.calls if state == "suspended"] == [*suspended, held[0]]

    clock.set_offset(timedelta(hours=1, seconds=5))
    while await writer.round():
        pass
    assert await writer.notes() is None
    assert sum(state == "suspended" for _, state in apim.calls) == 9


async def test_a_customer_who_ends_now_is_never_held(pool: asyncpg.Pool, apim: Any, samples: Any, clock: BusinessClock) -> None:
    writer = Writer(pool, apim, clock, minimum=0, share=0)
    await take(pool, samples.state(), clock)
    await writer.round()
    async with pool.acquire() as connection, connection.transaction():
        facts = domain.with_cancellation(await store.lock_facts(connection, "s-1", "a-1"))
        await store.save(connection, facts, domain.decide(facts, clock.now()))
    await writer.round()
    (told,) = await testing.events_in_outbox(pool, AccessSuspended)
    assert told.reason == "cancellation"
    assert told.effective_at <= clock.now()


async def test_a_free_quota_comes_back_when_the_clock_reaches_the_next_month(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    start = clock.now()
    state = samples.state(started_at=start, current_period_start=start, current_period_end=None)
    await take(pool, state, clock)
    await writer.round()
    async with pool.acquire() as connection, connection.transaction():
        facts = domain.with_threshold(await store.lock_facts(connection, "s-1", "a-1"), samples.threshold(start))
        await store.save(connection, facts, domain.decide(facts, clock.now()))
    await writer.round()
    due = await writer.next_due()
    assert (due is not None, apim.subscriptions["s-1"].state) == (True, "suspended")
    assert due is not None
    clock.set_offset(due - start + timedelta(seconds=1))
    while await writer.round():
        pass
    assert apim.subscriptions["s-1"].state == "active"
    assert await writer.next_due() is None


async def test_the_key_is_refused_only_when_the_grace_has_passed_also_after_a_restart(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    week = timedelta(days=7)
    async with pool.acquire() as connection, connection.transaction():
        await plans.add(connection, 1, [graceful(7)])
    await take(pool, samples.state(), clock)
    await writer.round()
    before = clock.now()
    await take(pool, samples.state("unpaid", 2), clock, week)
    await writer.round()
    assert apim.subscriptions["s-1"].state == "active"
    due = await writer.next_due()
    assert due is not None
    assert before + week <= due <= clock.now() + week
    restarted = Writer(pool, apim, clock, minimum=5, share=0.02)
    clock.set_offset(week - timedelta(seconds=10))
    while await restarted.round():
        pass
    assert apim.subscriptions["s-1"].state == "active"
    clock.set_offset(week + timedelta(seconds=1))
    while await restarted.round():
        pass
    assert apim.subscriptions["s-1"].state == "suspended"
    assert [event.reason for event in await testing.events_in_outbox(pool, AccessSuspended)] == ["payment_failed"]
    assert await restarted.next_due() is None


async def test_who_pays_in_the_grace_is_never_suspended(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await plans.add(connection, 1, [graceful(7)])
    for revision, status in enumerate(["active", "past_due", "unpaid", "active"], 1):
        await take(pool, samples.state(status, revision), clock, timedelta(days=7))
        await writer.round()
    clock.set_offset(timedelta(days=8))
    while await writer.round():
        pass
    assert apim.calls == [("s-1", "active")]
    assert await testing.topics_in_outbox(pool) == ["access.granted"]


async def test_drift_is_repaired_without_news_and_foreign_subscriptions_are_left_alone(
    pool: asyncpg.Pool, writer: Writer, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    for sid, status in (("kept", "active"), ("stopped", "active"), ("gone", "active"), ("ended", "canceled")):
        await take(pool, samples.state(status, subscription_id=sid), clock)
    while await writer.round():
        pass
    news = await testing.topics_in_outbox(pool)
    foreign = Found("master", "active", "")
    apim.subscriptions = {
        "master": foreign,
        "kept": apim.subscriptions["kept"],
        "stopped": Found("stopped", "suspended", "standard"),
        "ended": Found("ended", "active", "standard"),
    }
    assert await Repair(pool, apim, interval=timedelta(hours=1)).repair() == 3
    while await writer.round():
        pass
    states = {sid: found.state for sid, found in apim.subscriptions.items()}
    assert states == {"master": "active", "kept": "active", "stopped": "active", "ended": "cancelled", "gone": "active"}
    assert await testing.topics_in_outbox(pool) == news
    assert await Repair(pool, apim, interval=timedelta(hours=1)).repair() == 0


async def test_only_one_of_two_replicas_writes_and_the_other_takes_over(
    pool: asyncpg.Pool, apim: Any, samples: Any, clock: BusinessClock
) -> None:
    first, second = (asyncio.create_task(Writer(pool, apim, clock, minimum=5, share=0.02).run()) for _ in range(2))
    try:
        await asyncio.sleep(0.1)
        await take(pool, samples.state(), clock)
        await asyncio.sleep(0.2)
        assert apim.calls == [("s-1", "active")]
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await take(pool, samples.state("paused", 2), clock)
        await asyncio.sleep(1.3)
        assert apim.calls == [("s-1", "active"), ("s-1", "suspended")]
    finally:
        for task in (first, second):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
