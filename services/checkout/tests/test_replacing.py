"""New prices wait for the next period, and the customer asks for another plan: his change is made, and the provider's wish is not lost."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.events import (
    Event,
    SubscriptionCancellationRequested,
    SubscriptionChangeProgressed,
    SubscriptionChangeRequested,
    SubscriptionChangeWithdrawn,
    SubscriptionCreated,
    SubscriptionUpdated,
    UsageSettled,
)
from billing_common.testing import events_in_outbox
from checkout import changing, store, store_changes
from checkout.change_domain import Change
from checkout.stripe_gateway import StripeRefusedError

Publish = Callable[[Event], Awaitable[None]]
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
ASKED = datetime(2026, 11, 16, 12, 0, 7, tzinfo=UTC)
NAMES = {"subscription_id": "s-1", "account_id": "a-1"}
MIGRATION = Change(
    "m-1", "s-1", "a-1", "provider", "period_end", "standard", 1, "standard", 2, "asked", 0, END, None, None, then_cancel=False
)  # fmt: skip
DECLINED = StripeRefusedError("card_declined", "Your card was declined.")


def state(kind: type[Any] = SubscriptionUpdated, revision: int = 2, version: int = 1, **facts: Any) -> Event:
    given: dict[str, Any] = {"current_period_start": START, "current_period_end": END, "status": "active", **NAMES, **facts}
    event: Event = kind(
        cause_id=f"state-{revision}", occurred_at=START, revision=revision, user_id="u-1", product_id="standard", catalogue_version=version,
        display_name="W", currency="usd", started_at=START, stripe_subscription_id="sub_1", stripe_customer_id="cus_1", **given,
    )  # fmt: skip
    return event


def asks(when: str, product: str = "pro") -> SubscriptionChangeRequested:
    facts: dict[str, Any] = {"when": when, **NAMES}
    return SubscriptionChangeRequested(cause_id=f"change-{product}-{when}", occurred_at=ASKED, user_id="u-1", product_id=product, **facts)


@pytest.fixture
async def planned(pool: asyncpg.Pool, publish: Publish, known: None) -> None:
    """A subscription to version 1 whose move to version 2 is planned at Stripe for the end of the period."""
    await publish(state(SubscriptionCreated, 1))
    await pool.execute("update account set stripe_customer_id = 'cus_1'")
    async with pool.acquire() as connection, connection.transaction():
        subscription = await store.get_subscription(connection, "s-1")
        assert subscription is not None
        await changing.begin(connection, MIGRATION, subscription, {}, at=START)
    await answer(pool, changing.after_plan, "m-1", END)


async def answer(pool: asyncpg.Pool, after: Any, change_id: str, result: Any = None, refusal: StripeRefusedError | None = None) -> None:
    """Go on as the worker does when Stripe has answered."""
    async with pool.acquire() as connection, connection.transaction():
        await after(connection, change_id, result, refusal, at=ASKED)


async def intents(pool: asyncpg.Pool) -> list[str]:
    return [row["kind"] for row in await pool.fetch("select kind from intent order by id")]


async def told(pool: asyncpg.Pool) -> list[tuple[str, str, str | None]]:
    async with pool.acquire() as connection:
        events = await events_in_outbox(connection, SubscriptionChangeProgressed)
    return [(event.product_id, event.state, event.reason) for event in events]


async def open_one(pool: asyncpg.Pool) -> Change | None:
    async with pool.acquire() as connection:
        return await store_changes.open_of(connection, "s-1")


@pytest.mark.parametrize(("when", "call"), [("now", "change_make"), ("period_end", "change_plan")])
async def test_the_customers_change_is_made_in_the_place_of_new_prices_that_wait(
    planned: None, pool: asyncpg.Pool, publish: Publish, when: str, call: str
) -> None:
    await publish(asks(when))
    assert await intents(pool) == ["change_plan", "change_withdraw", call]
    assert await told(pool) == [("standard", "scheduled", None), ("standard", "withdrawn", "replaced")]
    await answer(pool, changing.after_withdraw, "m-1", result=True)
    change = await open_one(pool)
    assert change is not None
    assert (change.asked_by, change.product_id, change.from_catalogue_version) == ("customer", "pro", 1)
    after = changing.after_make if when == "now" else changing.after_plan
    await answer(pool, after, change.change_id, ASKED)
    assert await intents(pool) == ["change_plan", "change_withdraw", call]


async def test_a_migration_is_planned_again_when_the_customers_card_is_declined(
    planned: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    request = asks("now")
    await publish(request)
    await answer(pool, changing.after_withdraw, "m-1", result=True)
    for _ in range(2):
        await answer(pool, changing.after_make, str(request.event_id), refusal=DECLINED)
    assert await intents(pool) == ["change_plan", "change_withdraw", "change_make", "change_plan"]
    again = await open_one(pool)
    assert again is not None
    assert (again.asked_by, again.timing, again.catalogue_version, again.effective_at) == ("provider", "period_end", 2, END)
    await answer(pool, changing.after_plan, again.change_id, END)
    assert (await told(pool))[2:] == [("pro", "failed", "card_declined"), ("standard", "scheduled", None)]
    await publish(asks("now", "basic"))  # the next wish takes its place as well
    assert (await intents(pool))[4:] == ["change_withdraw", "change_make"]


async def test_a_migration_is_planned_again_when_the_customer_takes_his_own_change_back(
    planned: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    request = asks("period_end")
    await publish(request)
    await answer(pool, changing.after_plan, str(request.event_id), END)
    await publish(SubscriptionChangeWithdrawn(cause_id="w", occurred_at=ASKED, user_id="u-1", change_id=str(request.event_id), **NAMES))
    await answer(pool, changing.after_withdraw, str(request.event_id), result=True)
    again = await open_one(pool)
    assert again is not None
    assert (again.asked_by, again.catalogue_version) == ("provider", 2)


async def test_a_migration_is_planned_again_when_stripe_did_not_make_the_customers_change(
    planned: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    request = asks("period_end")
    await publish(request)
    await answer(pool, changing.after_plan, str(request.event_id), END)
    await publish(state(current_period_start=END, current_period_end=END + timedelta(days=31)))
    assert (await told(pool))[-1] == ("pro", "failed", "not_made")
    again = await open_one(pool)
    assert again is not None
    assert (again.asked_by, again.catalogue_version) == ("provider", 2)


@pytest.mark.parametrize("why", ["cancelled", "ends", "moved"])
async def test_a_migration_is_not_planned_again_for_who_leaves_or_has_moved(
    planned: None, pool: asyncpg.Pool, publish: Publish, why: str
) -> None:
    request = asks("now")
    await publish(request)
    if why == "cancelled":
        cancels: dict[str, Any] = {"when": "now", **NAMES}
        await publish(SubscriptionCancellationRequested(cause_id="c", occurred_at=ASKED, user_id="u-1", **cancels))
    else:
        await publish(state(cancel_at_period_end=True) if why == "ends" else state(version=3))
    await answer(pool, changing.after_make, str(request.event_id), refusal=DECLINED)
    assert await open_one(pool) is None


async def test_a_migration_that_stripe_had_made_already_is_where_the_customers_change_goes_from(
    planned: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    request = asks("now")
    await publish(request)
    await answer(pool, changing.after_withdraw, "m-1", result=False)
    assert (await told(pool))[-1] == ("standard", "made", None)
    await answer(pool, changing.after_make, str(request.event_id), ASKED)
    facts: dict[str, Any] = {"reason": "change", "product_id": "standard", "catalogue_version": 2, **NAMES}
    await publish(UsageSettled(cause_id="s", occurred_at=ASKED, segment_start=START, segment_end=ASKED, totals={"calls": 7}, **facts))
    assert (await intents(pool))[-1] == "change_drop_old"


async def test_a_migration_that_is_under_way_is_waited_for(pool: asyncpg.Pool, publish: Publish, planned: None) -> None:
    await pool.execute("update plan_change set timing = 'now', state = 'closing'")
    await publish(asks("now"))
    assert (await told(pool))[-1] == ("pro", "failed", "change_pending")
    assert await intents(pool) == ["change_plan"]
