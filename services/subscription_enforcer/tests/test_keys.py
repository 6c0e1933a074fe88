"""Keys beside the first: made, suspended, restored and revoked with their subscription, as many as the plan allows."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from billing_common import testing
from billing_common.clock import BusinessClock
from billing_common.events import AccessGranted, AccessSuspended, Event, InvalidEventError
from subscription_enforcer import keys
from subscription_enforcer.apim_gateway import Found
from subscription_enforcer.handlers import router
from subscription_enforcer.keys import Key
from subscription_enforcer.repair import Repair
from subscription_enforcer.writer import Writer

Publish = Callable[[Event], Awaitable[None]]


class Run:
    """Handlers and writer on one database; what API Management holds afterwards."""

    def __init__(self, publish: Publish, writer: Writer, apim: Any) -> None:
        self.publish, self.writer, self.apim = publish, writer, apim

    async def __call__(self, *events: Event) -> dict[str, str]:
        for event in events:
            await self.publish(event)
            while await self.writer.round():
                pass
        return {sid: found.state for sid, found in self.apim.subscriptions.items()}


@pytest.fixture
async def run(pool: asyncpg.Pool, apim: Any, clock: BusinessClock) -> AsyncIterator[Run]:
    writer = Writer(pool, apim, clock, minimum=5, share=0.02)
    async with testing.memory_kafka(router, pool=pool, clock=clock) as publish:
        yield Run(publish, writer, apim)


def key(number: int, *, revoked: bool = False) -> Key:
    return Key(f"s-1_{number}", number, "", revoked)


@pytest.mark.parametrize(
    ("access", "allowed", "expected"),
    [
        ("granted", 3, {"s-1_2": "active", "s-1_3": "cancelled", "s-1_4": "active"}),
        ("granted", 2, {"s-1_2": "active", "s-1_3": "cancelled", "s-1_4": "suspended"}),
        ("suspended", 3, {"s-1_2": "suspended", "s-1_3": "cancelled", "s-1_4": "suspended"}),
        ("revoked", 3, {"s-1_2": "cancelled", "s-1_3": "cancelled", "s-1_4": "cancelled"}),
        (None, 3, {"s-1_2": "suspended", "s-1_3": "cancelled", "s-1_4": "suspended"}),
    ],
)
def test_a_key_is_as_the_first_one_is_unless_revoked_or_one_too_many(access: Any, allowed: int, expected: dict[str, str]) -> None:
    assert keys.desired([key(4), key(3, revoked=True), key(2)], access, allowed) == expected


async def test_keys_go_through_a_life_with_their_subscription(run: Run, samples: Any, pool: asyncpg.Pool) -> None:
    assert await run(samples.catalogue(), samples.state(), samples.keys(2, 3)) == dict.fromkeys(("s-1", "s-1_2", "s-1_3"), "active")
    granted = await testing.events_in_outbox(pool, AccessGranted)
    assert [(event.revision, event.reason, event.sids) for event in granted] == [
        (1, "subscribed", ("s-1",)),
        (2, "keys", ("s-1", "s-1_2", "s-1_3")),
    ]
    assert set((await run(samples.state("unpaid", 2))).values()) == {"suspended"}
    assert set((await run(samples.state("active", 3))).values()) == {"active"}
    revoked = await run(samples.keys(2, 3, revision=2, revoked=(2,)))
    assert revoked == {"s-1": "active", "s-1_2": "cancelled", "s-1_3": "active"}
    assert set((await run(samples.state("canceled", 4))).values()) == {"cancelled"}
    assert await run.writer.unfinished() is None


async def test_a_key_asked_for_while_suspended_is_made_when_access_is_restored(run: Run, samples: Any, pool: asyncpg.Pool) -> None:
    await run(samples.catalogue(), samples.state(), samples.state("unpaid", 2))
    assert await run(samples.keys(2)) == {"s-1": "suspended"}
    assert await run(samples.state("active", 3)) == {"s-1": "active", "s-1_2": "active"}
    assert len(await testing.events_in_outbox(pool, AccessSuspended)) == 2
    suspensions = await pool.fetchval("select count(*) from access_change where access = 'suspended' and reason = 'payment_failed'")
    assert suspensions == 1  # what the breaker counts


async def test_a_plan_with_fewer_keys_suspends_the_newest_and_a_larger_one_brings_them_back(run: Run, samples: Any) -> None:
    await run(samples.catalogue(), samples.catalogue(version=2, keys=2), samples.state(), samples.keys(2, 3))
    fewer = await run(samples.state(revision=2, catalogue_version=2))
    assert fewer == {"s-1": "active", "s-1_2": "active", "s-1_3": "suspended"}
    assert (await run(samples.state(revision=3, catalogue_version=1)))["s-1_3"] == "active"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)])
async def test_the_newest_wishes_win_whatever_comes_first(run: Run, samples: Any, order: tuple[int, ...]) -> None:
    story = [samples.catalogue(), samples.state(), samples.keys(2, 3), samples.keys(2, 3, revision=2, revoked=(3,))]
    found = await run(*(story[place] for place in order))
    assert found.pop("s-1_3", "cancelled") == "cancelled"
    assert found == {"s-1": "active", "s-1_2": "active"}


async def test_a_refusal_of_one_key_is_tried_again_and_told_when_all_are_there(
    run: Run, samples: Any, pool: asyncpg.Pool, apim: Any
) -> None:
    await run(samples.catalogue(), samples.state())
    await run.publish(samples.keys(2, 3))
    apim.failures = ["later: 429"]
    await run.writer.round()
    assert len(await testing.events_in_outbox(pool, AccessGranted)) == 1
    await pool.execute("update access set retry_at = now()")
    await run.writer.round()
    assert set(apim.subscriptions) == {"s-1", "s-1_2", "s-1_3"}
    assert (await testing.events_in_outbox(pool, AccessGranted))[-1].sids == ("s-1", "s-1_2", "s-1_3")


@pytest.mark.parametrize("sid", ["s-2_2", "s-1", "s-1_1", "s-1_02", "s-1_x", "s-1_2/..", "s-1-2"])
async def test_a_key_of_another_subscription_is_poison(run: Run, samples: Any, pool: asyncpg.Pool, sid: str) -> None:
    with pytest.raises(InvalidEventError):
        await run.publish(samples.keys(keys=[{"sid": sid, "name": "x"}]))
    assert await pool.fetchval("select count(*) from access_key") == 0


async def test_keys_for_another_accounts_subscription_are_poison(run: Run, samples: Any) -> None:
    await run(samples.catalogue(), samples.state())
    with pytest.raises(InvalidEventError, match="another account"):
        await run.publish(samples.keys(2, account_id="a-2"))


async def test_drift_of_a_key_is_repaired(run: Run, samples: Any, pool: asyncpg.Pool, apim: Any) -> None:
    await run(samples.catalogue(), samples.state(), samples.keys(2, 3, 4, revoked=(4,)))
    apim.subscriptions["s-1_2"] = Found("s-1_2", "suspended", "standard")
    apim.subscriptions["s-1_4"] = Found("s-1_4", "active", "standard")
    del apim.subscriptions["s-1_3"]
    repair = Repair(pool, apim, interval=timedelta(hours=1))
    assert await repair.repair() > 0
    while await run.writer.round():
        pass
    states = {sid: found.state for sid, found in apim.subscriptions.items()}
    assert states == {"s-1": "active", "s-1_2": "active", "s-1_3": "active", "s-1_4": "cancelled"}
    assert await repair.repair() == 0
