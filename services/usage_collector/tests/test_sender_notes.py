"""What a sender is told of the usage that it may send and that another source bills."""

from collections.abc import Sequence
from copy import deepcopy

import asyncpg
import pytest

from billing_common.events import SubscriptionUpdated
from usage_collector import sender_notes
from usage_collector.directory import Directory

from .conftest import CATALOGUE, FEBRUARY, START, FixedClock, Publish, catalogue_applied, state

STREAMED = 'sub-1 has the product "payg", which is billed from the gateway\'s own stream of calls'


@pytest.fixture
async def known(publish: Publish) -> None:
    """A subscription that the gateway's stream bills, and one that is billed from what is sent."""
    await publish(catalogue_applied())
    await publish(state())
    await publish(state(sub="sub-2", product_id="enterprise"))


async def notes(pool: asyncpg.Pool, clock: FixedClock, *scopes: Sequence[str] | None) -> list[list[str]]:
    async with pool.acquire() as connection:
        return await sender_notes.notes(connection, Directory(), scopes, now=clock.now())


async def test_a_subscription_that_another_source_bills_is_named(pool: asyncpg.Pool, known: None, clock: FixedClock) -> None:
    first, second, third = await notes(pool, clock, ["sub-2"], ["sub-2", "sub-1"], ["sub-9"])
    assert first == []
    assert second == [f"{STREAMED}: what is sent for it is answered 202 and counts nothing (filtered: other_source)"]
    assert third == ["sub-9 is not known here: what is sent for it waits until it is"]


async def test_a_key_is_taken_for_its_subscription_and_the_plan_of_now_decides(
    pool: asyncpg.Pool, known: None, publish: Publish, clock: FixedClock
) -> None:
    await pool.execute("insert into subscription_key (sid, subscription_id) values ('sub-1-k2', 'sub-1')")
    changed = {"product_id": "enterprise", "plan_since": FEBRUARY, "current_period_start": FEBRUARY}
    await publish(state(SubscriptionUpdated, revision=2, **changed, current_period_end=FEBRUARY.replace(month=3)))
    ((found,),) = await notes(pool, clock, ["sub-1-k2"])
    assert found.startswith(STREAMED.replace("sub-1", "sub-1-k2", 1))
    clock.instant = FEBRUARY
    assert await notes(pool, clock, ["sub-1-k2"]) == [[]]
    clock.instant = START.replace(year=START.year - 1)  # before it begins: the plan that it will have
    assert len((await notes(pool, clock, ["sub-1-k2"]))[0]) == 1


async def test_a_sender_for_all_is_told_which_products_it_can_bill(
    pool: asyncpg.Pool, known: None, publish: Publish, clock: FixedClock
) -> None:
    assert await notes(pool, clock, None) == [['only products with `"source": "ingest"` are billed from what it sends: enterprise']]
    document = deepcopy(CATALOGUE)
    document["products"] = [one for one in document["products"] if one["id"] != "enterprise"]
    await publish(catalogue_applied(document, version=2))
    ((found,),) = await notes(pool, clock, None)
    assert found.startswith("no product has")


async def test_a_long_list_is_cut(pool: asyncpg.Pool, known: None, clock: FixedClock) -> None:
    (found,) = await notes(pool, clock, [f"other-{number}" for number in range(23)])
    assert (len(found), found[-1]) == (21, "and 3 further ones")
