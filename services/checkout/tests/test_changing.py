"""A change of plan as events see it: what is asked of Stripe, in which order, and what is told. Stripe itself is in test_stripe_changes."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.events import (
    AccountRegistered,
    Event,
    SubscriptionCancellationRequested,
    SubscriptionChangeProgressed,
    SubscriptionChangeRequested,
    SubscriptionChangeWithdrawn,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionRequested,
    SubscriptionRequestFailed,
    SubscriptionUpdated,
    UsageSettled,
)
from billing_common.testing import events_in_outbox
from checkout import changing, store_catalogue
from checkout.handlers import NotKnownYetError
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeRefusedError

Publish = Callable[[Event], Awaitable[None]]
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
ASKED = datetime(2026, 11, 16, 12, 0, 7, 500_000, tzinfo=UTC)
NAMES = {"subscription_id": "s-1", "account_id": "a-1"}


def state(product: str = "standard", revision: int = 1, kind: type[Any] = SubscriptionCreated, **facts: Any) -> Any:
    given = NAMES | {"status": "active", "current_period_start": START, "current_period_end": END, "stripe_subscription_id": "sub_1"}
    return kind(
        cause_id=f"state-{revision}", occurred_at=facts.pop("at", START), revision=revision, user_id="u-1", product_id=product,
        catalogue_version=1, display_name="Weather", currency="usd", started_at=START, stripe_customer_id="cus_1", **given | facts,
    )  # fmt: skip


def asks(product: str = "pro", when: str = "now", form: str = "1", user: str = "u-1", **more: Any) -> SubscriptionChangeRequested:
    given: dict[str, Any] = {"when": when, "occurred_at": ASKED, **NAMES, **more}
    return SubscriptionChangeRequested(cause_id=f"change-{form}", user_id=user, product_id=product, **given)


def settled(reason: str, product: str = "standard", *, start: datetime = START, end: datetime = ASKED, calls: int = 7) -> UsageSettled:
    facts: dict[str, Any] = {"reason": reason, "product_id": product, "catalogue_version": 1}
    return UsageSettled(
        cause_id=f"settled-{reason}-{product}-{start}", occurred_at=end, segment_start=start, segment_end=end, totals={"calls": calls},
        **NAMES, **facts,
    )  # fmt: skip


def cancels(when: str) -> SubscriptionCancellationRequested:
    facts: dict[str, Any] = {"when": when}
    return SubscriptionCancellationRequested(cause_id=f"cancel-{when}", occurred_at=ASKED, user_id="u-1", **NAMES, **facts)


@pytest.fixture
async def live(pool: asyncpg.Pool, publish: Publish, known: None) -> None:
    await publish(state())
    await pool.execute("update account set stripe_customer_id = 'cus_1'")


async def intents(pool: asyncpg.Pool) -> list[str]:
    return [row["kind"] for row in await pool.fetch("select kind from intent order by id")]


async def told(pool: asyncpg.Pool) -> list[tuple[str, str | None]]:
    async with pool.acquire() as connection:
        return [(event.state, event.reason) for event in await events_in_outbox(connection, SubscriptionChangeProgressed)]


async def change_state(pool: asyncpg.Pool) -> Any:
    return await pool.fetchval("select state from plan_change order by requested_at desc, change_id limit 1")


async def answered(pool: asyncpg.Pool, after: Any, result: Any = None, refusal: StripeRefusedError | None = None) -> None:
    """Go on as the worker does when Stripe has answered."""
    change_id = await pool.fetchval("select change_id from plan_change order by requested_at desc limit 1")
    async with pool.acquire() as connection, connection.transaction():
        await after(connection, change_id, result, refusal, at=ASKED)


# --- now --------------------------------------------------------------------------------------------------------------------


async def test_a_change_is_asked_of_stripe_once_for_the_second_its_price_was_shown(
    live: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    shown = ASKED - timedelta(minutes=3)
    await publish(asks(prorate_at=shown))
    await publish(asks(prorate_at=shown))
    [row] = await pool.fetch("select kind, key, parameters from intent")
    assert (row["kind"], row["key"], json.loads(row["parameters"])["subscription"]) == ("change_make", "a-1", "sub_1")
    assert await pool.fetchval("select effective_at from plan_change") == shown.replace(microsecond=0)
    assert await told(pool) == []


@pytest.mark.parametrize("shown", [ASKED - timedelta(minutes=16), ASKED + timedelta(seconds=1), START - timedelta(seconds=1), None])
async def test_a_price_shown_too_long_ago_is_not_charged(live: None, pool: asyncpg.Pool, publish: Publish, shown: datetime | None) -> None:
    await publish(asks(prorate_at=shown))
    assert await pool.fetchval("select effective_at from plan_change") == ASKED.replace(microsecond=0)


REFUSED = [
    ({"product": "standard"}, {}, "same_product"),
    ({"product": "standart"}, {}, "unknown_product"),
    ({"product": "free"}, {}, "free_product"),
    ({"user": "u-2"}, {}, "wrong_user"),
    ({}, {"status": "trialing"}, "in_trial"),
    ({}, {"status": "past_due"}, "unpaid_invoice"),
    ({}, {"status": "incomplete"}, "not_running"),
    ({}, {"status": "canceled"}, "not_running"),
    ({}, {"cancel_at_period_end": True}, "ending"),
    ({}, {"currency": "eur"}, "other_currency"),
]


@pytest.mark.parametrize(("wish", "facts", "reason"), REFUSED)
async def test_a_change_that_cannot_be_made_is_refused_with_its_reason(
    live: None, pool: asyncpg.Pool, publish: Publish, wish: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    await publish(AccountRegistered(cause_id="r", occurred_at=START, account_id="a-1", user_id="u-1"))
    await pool.execute("update subscription set currency = $1", facts.pop("currency", "usd"))
    if facts:
        await publish(state(revision=2, kind=SubscriptionUpdated, **facts))
    await publish(asks(**wish))
    assert await told(pool) == [("failed", reason)]
    assert (await intents(pool), await pool.fetchval("select count(*) from plan_change")) == ([], 0)


@pytest.mark.parametrize(("base", "outcome"), [("449.95", []), ("549.95", [("failed", "price_changed")])])
async def test_a_price_that_was_not_shown_is_not_charged(
    live: None, pool: asyncpg.Pool, publish: Publish, base: str, outcome: list[tuple[str, str]]
) -> None:
    async with pool.acquire() as connection:
        first = await store_catalogue.get(connection, 1)
        assert first is not None
        document = json.loads(json.dumps(first.document))
        next(product for product in document["products"] if product["id"] == "pro")["price"]["base"] = base
        await store_catalogue.add(connection, Version(2, document, {}, [], "test", START))
    await publish(asks("pro", when="period_end", catalogue_version=1))
    assert (await told(pool), await intents(pool)) == (outcome, [] if outcome else ["change_plan"])
    await publish(asks("basic", form="2", catalogue_version=2))
    assert (await told(pool))[len(outcome) :] == ([] if outcome else [("failed", "change_pending")])


async def test_a_second_click_and_a_product_of_another_subscription_are_refused(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state("payg", subscription_id="s-2", stripe_subscription_id="sub_2"))
    await publish(asks("payg"))
    await publish(asks("pro", form="2"))
    await publish(asks("basic", form="3"))
    assert await told(pool) == [("failed", "already_subscribed"), ("failed", "change_pending")]
    assert await intents(pool) == ["change_make"]


async def test_a_product_that_a_subscription_is_about_to_become_is_not_sold_again(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(asks("pro", when="period_end"))
    await publish(
        SubscriptionRequested(
            cause_id="r2", occurred_at=ASKED, subscription_id="s-2", account_id="a-1", user_id="u-1", product_id="pro",
            catalogue_version=1, display_name="Second",
        )
    )  # fmt: skip
    async with pool.acquire() as connection:
        assert [event.reason for event in await events_in_outbox(connection, SubscriptionRequestFailed)] == ["already_subscribed"]


async def test_an_unpaid_request_for_the_new_product_is_given_up(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(
        SubscriptionRequested(
            cause_id="r2", occurred_at=START, subscription_id="s-2", account_id="a-1", user_id="u-1", product_id="pro",
            catalogue_version=1, display_name="Second",
        )
    )  # fmt: skip
    await pool.execute("insert into checkout_session values ('s-2', 1, 'k', 'cs_1', 'https://pay', now() + interval '1 hour', 'open')")
    await publish(asks("pro"))
    assert await intents(pool) == ["expire_session", "change_make"]
    assert await pool.fetchval("select state from subscription where subscription_id = 's-2'") == "ended"


async def test_a_change_of_an_unknown_subscription_is_held_and_leaves_nothing(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    young = asks(occurred_at=datetime.now(UTC))
    with pytest.raises(NotKnownYetError):
        await publish(young)
    assert await pool.fetchval("select count(*) from inbox") == 0
    await publish(state())
    await pool.execute("update account set stripe_customer_id = 'cus_1'")
    await publish(young)
    assert await intents(pool) == ["change_make"]


@pytest.mark.parametrize("settled_first", [False, True])
async def test_the_old_prices_go_when_the_change_is_paid_and_the_old_usage_is_settled(
    live: None, pool: asyncpg.Pool, publish: Publish, *, settled_first: bool
) -> None:
    await publish(asks())
    if settled_first:
        await publish(settled("change"))
        assert await intents(pool) == ["change_make"]
    await answered(pool, changing.after_make, ASKED)
    if not settled_first:
        assert await intents(pool) == ["change_make"]
        await publish(settled("change"))
    await publish(settled("change"))
    assert await intents(pool) == ["change_make", "change_drop_old"]
    assert (await told(pool), await change_state(pool)) == ([("made", None)], "made")
    await answered(pool, changing.after_drop_old)
    assert (await told(pool), await change_state(pool)) == ([("made", None)], "done")


async def test_a_declined_card_ends_the_change_and_the_next_may_begin(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(asks())
    await answered(pool, changing.after_make, refusal=StripeRefusedError("card_declined", "Your card was declined."))
    await answered(pool, changing.after_make, refusal=StripeRefusedError("card_declined", "Your card was declined."))
    assert await told(pool) == [("failed", "card_declined")]
    await publish(asks(form="2"))
    assert await intents(pool) == ["change_make", "change_make"]


async def test_what_prices_cannot_say_of_the_old_plan_is_added_before_its_prices_go(
    known: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    await publish(state("enterprise"))
    await pool.execute("update account set stripe_customer_id = 'cus_1'")
    await publish(asks("pro"))
    await answered(pool, changing.after_make, ASKED)
    await publish(settled("change", "enterprise", calls=0))
    rows = await pool.fetch("select kind, parameters from intent order by id")
    assert [row["kind"] for row in rows] == ["change_make", "invoice_item", "change_drop_old"]
    added = json.loads(rows[1]["parameters"])
    assert (added["item"]["amount"], "draft_of_period_end" in added) == (74_995, False)


async def test_a_cancellation_waits_for_the_usage_of_the_plan_before(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(asks())
    await answered(pool, changing.after_make, ASKED)
    await publish(cancels("now"))
    await publish(settled("cancellation", "pro", start=ASKED, end=ASKED + timedelta(hours=1)))
    assert await intents(pool) == ["change_make"]
    await publish(settled("change"))
    assert await intents(pool) == ["change_make", "change_drop_old", "cancel_now"]


async def test_a_cancellation_before_the_change_was_made_does_not_wait(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(asks())
    await publish(cancels("now"))
    await publish(settled("cancellation"))
    assert await intents(pool) == ["change_make", "cancel_now"]
    await publish(asks("basic", form="2"))
    assert await told(pool) == [("failed", "ending")]


# --- at the end of the period -------------------------------------------------------------------------------------------------


async def planned(pool: asyncpg.Pool, publish: Publish) -> SubscriptionChangeRequested:
    request = asks("basic", when="period_end")
    await publish(request)
    await answered(pool, changing.after_plan, END)
    return request


async def test_a_planned_change_is_told_comes_true_with_the_period_and_lets_the_schedule_go(
    live: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    await planned(pool, publish)
    new = {"current_period_start": END, "current_period_end": END + timedelta(days=31), "at": END}
    await publish(state("basic", 2, SubscriptionUpdated, plan_since=END, **new))
    await publish(state("standard", 1, SubscriptionUpdated))  # overtaken
    assert await told(pool) == [("scheduled", None), ("made", None)]
    assert await intents(pool) == ["change_plan", "change_let_go"]
    await publish(settled("period_end", end=END))  # of the old plan, after the new one has begun
    assert (await intents(pool), await change_state(pool)) == (["change_plan", "change_let_go"], "done")


async def test_usage_settled_after_the_change_is_rated_under_its_own_plan(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state("enterprise"))
    await pool.execute("update account set stripe_customer_id = 'cus_1'")
    await planned(pool, publish)
    new = {"current_period_start": END, "current_period_end": END + timedelta(days=31), "at": END}
    await publish(state("basic", 2, SubscriptionUpdated, plan_since=END, **new))
    await publish(settled("period_end", "enterprise", end=END, calls=0))
    [row] = await pool.fetch("select parameters from intent where kind = 'invoice_item'")
    assert json.loads(row["parameters"])["item"]["amount"] == 74_995


async def test_a_planned_change_can_be_taken_back_unless_stripe_was_quicker(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    request = await planned(pool, publish)
    back = SubscriptionChangeWithdrawn(cause_id="w", occurred_at=ASKED, user_id="u-1", change_id=str(request.event_id), **NAMES)
    await publish(back)
    await publish(back)
    assert await intents(pool) == ["change_plan", "change_withdraw"]
    await answered(pool, changing.after_withdraw, result=False)
    assert await change_state(pool) == "scheduled"
    await answered(pool, changing.after_withdraw, result=True)
    assert (await change_state(pool), (await told(pool))[-1]) == ("withdrawn", ("withdrawn", None))


async def test_a_cancellation_takes_a_planned_change_back_first(live: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await planned(pool, publish)
    await publish(cancels("period_end"))
    assert await intents(pool) == ["change_plan", "change_withdraw", "cancel_at_period_end"]


@pytest.mark.parametrize(
    ("kind", "facts", "reason"),
    [
        (SubscriptionUpdated, {"current_period_start": END, "current_period_end": END + timedelta(days=31)}, "not_made"),
        (SubscriptionDeleted, {"status": "canceled", "ended_at": ASKED}, "ended"),
    ],
)
async def test_a_planned_change_that_cannot_come_true_any_more_has_failed(
    live: None, pool: asyncpg.Pool, publish: Publish, kind: type[Any], facts: dict[str, Any], reason: str
) -> None:
    await planned(pool, publish)
    await publish(state("standard", 2, kind, at=END, **facts))
    assert (await told(pool))[-1] == ("failed", reason)


# --- a paid plan that goes on as a free one -------------------------------------------------------------------------------------


@pytest.fixture
async def with_free(pool: asyncpg.Pool, known: None) -> Version:
    """Version 2, in which `standard` goes on with the free plan."""
    async with pool.acquire() as connection:
        first = await store_catalogue.get(connection, 1)
        assert first is not None
        document = json.loads(json.dumps(first.document))
        next(product for product in document["products"] if product["id"] == "standard")["on_end"] = "free"
        await store_catalogue.add(connection, Version(2, document, {}, [], "test", START))
        found = await store_catalogue.get(connection, 2)
    assert found is not None
    return found


def ended(**facts: Any) -> SubscriptionDeleted:
    given = {"status": "canceled", "ended_at": END, "at": END, **facts}
    event: SubscriptionDeleted = state("standard", 2, SubscriptionDeleted, **given).model_copy(update={"catalogue_version": 2})
    return event


async def free_ones(pool: asyncpg.Pool) -> list[SubscriptionCreated]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, SubscriptionCreated)


async def test_the_account_goes_on_with_the_free_plan_once(with_free: Version, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(state())
    await publish(ended())
    await publish(ended())
    [event] = await free_ones(pool)
    assert (event.product_id, event.catalogue_version, event.status, event.started_at) == ("free", 2, "active", END)
    assert (event.account_id, event.user_id, event.display_name) == ("a-1", "u-1", "Weather")
    assert event.subscription_id != "s-1"
    await publish(event)
    assert await pool.fetchval("select state from subscription where subscription_id = $1", event.subscription_id) == "live"


@pytest.mark.parametrize("why", ["never paid", "says cancel", "has it", "closed", "older state"])
async def test_no_free_plan_follows(with_free: Version, pool: asyncpg.Pool, publish: Publish, why: str) -> None:
    await publish(state())
    event = ended(status="incomplete_expired") if why == "never paid" else ended()
    if why == "says cancel":
        event = event.model_copy(update={"catalogue_version": 1})
    if why == "has it":
        await publish(state("free", subscription_id="s-2", stripe_subscription_id=None, current_period_end=None))
    if why == "closed":
        await pool.execute("update account set closed_at = now()")
    if why == "older state":
        await publish(state("standard", 3, SubscriptionUpdated))
    await publish(event)
    assert await free_ones(pool) == []
