"""Events go in through the broker; rows, outgoing events and intended calls are read back from Postgres."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.events import (
    AccountClosed,
    AccountRegistered,
    CheckoutCompleted,
    Event,
    InvalidEventError,
    InvoicePaid,
    InvoicePaymentFailed,
    PaymentMethodChanged,
    SubscriptionCancellationRequested,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionRequested,
    SubscriptionRequestFailed,
    UsageSettled,
)
from billing_common.testing import events_in_outbox
from checkout.handlers import SECOND_PAYMENTS, NotKnownYetError

Publish = Callable[[Event], Awaitable[None]]
START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
NAMES = {"subscription_id": "s-1", "account_id": "a-1"}


def requested(product: str, subscription: str = "s-1", user: str = "u-1") -> SubscriptionRequested:
    return SubscriptionRequested(
        cause_id=f"request-{subscription}-{product}",
        occurred_at=START,
        subscription_id=subscription,
        account_id="a-1",
        user_id=user,
        product_id=product,
        catalogue_version=1,
        display_name="Weather",
    )


def created(product: str = "standard", revision: int = 1, status: str = "active") -> SubscriptionCreated:
    facts: dict[str, Any] = {"status": status}
    return SubscriptionCreated(
        cause_id=f"created-{revision}",
        occurred_at=START,
        revision=revision,
        user_id="u-1",
        product_id=product,
        catalogue_version=1,
        display_name="Weather",
        currency="usd",
        started_at=START,
        current_period_start=START,
        current_period_end=END,
        stripe_subscription_id="sub_1",
        stripe_customer_id="cus_1",
        **NAMES,
        **facts,
    )


def cancelled(when: str, at: datetime = START) -> SubscriptionCancellationRequested:
    facts: dict[str, Any] = {"when": when}
    return SubscriptionCancellationRequested(cause_id=f"cancel-{when}", occurred_at=at, user_id="u-1", **NAMES, **facts)


def settled(reason: str, calls: int) -> UsageSettled:
    facts: dict[str, Any] = {"reason": reason}
    return UsageSettled(
        cause_id=f"settled-{reason}", occurred_at=END, segment_start=START, segment_end=END, totals={"calls": calls}, **NAMES, **facts
    )


def invoice(kind: type[Any], status: str, revision: int = 1, remaining: int = 8995, at: datetime = END) -> Any:
    return kind(
        cause_id=f"invoice-{status}-{revision}",
        occurred_at=at,
        revision=revision,
        invoice_id="in_1",
        stripe_subscription_id="sub_1",
        stripe_customer_id="cus_1",
        status=status,
        billing_reason="subscription_cycle",
        currency="usd",
        total_minor=8995,
        amount_due_minor=8995,
        amount_paid_minor=8995 - remaining,
        amount_remaining_minor=remaining,
        period_start=START,
        period_end=END,
        created_at=END,
        **NAMES,
    )


def new_card(revision: int = 1, method: str = "pm_new", at: datetime = END) -> PaymentMethodChanged:
    return PaymentMethodChanged(
        cause_id=f"card-{revision}",
        occurred_at=at,
        account_id="a-1",
        revision=revision,
        stripe_customer_id="cus_1",
        default_payment_method_id=method,
    )


async def intents(pool: asyncpg.Pool) -> list[tuple[str, dict[str, Any]]]:
    return [(row["kind"], json.loads(row["parameters"])) for row in await pool.fetch("select kind, parameters from intent order by id")]


async def outgoing(pool: asyncpg.Pool, kind: type[Event]) -> list[Any]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, kind)


async def with_live(pool: asyncpg.Pool, publish: Publish, product: str) -> None:
    await publish(created(product))
    await pool.execute("update account set stripe_customer_id = 'cus_1'")


async def test_a_free_product_is_subscribed_to_at_once_and_once(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(requested("free"))
    await publish(requested("free"))
    [event] = await outgoing(pool, SubscriptionCreated)
    assert (event.status, event.revision, event.started_at, event.current_period_end) == ("active", 1, START, None)
    assert event.stripe_subscription_id is None
    await publish(event)
    assert await pool.fetchval("select state from subscription") == "live"


@pytest.mark.parametrize(("product", "reason"), [("standart", "unknown_product"), ("free", "already_subscribed")])
async def test_a_request_that_cannot_be_served_says_why(
    known: None, pool: asyncpg.Pool, publish: Publish, product: str, reason: str
) -> None:
    await publish(requested("free"))
    await publish(requested(product, subscription="s-2"))
    assert [event.reason for event in await outgoing(pool, SubscriptionRequestFailed)] == [reason]


async def test_a_user_of_another_account_is_refused(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(AccountRegistered(cause_id="r", occurred_at=START, account_id="a-1", user_id="u-1"))
    await publish(requested("free", user="u-2"))
    assert [event.reason for event in await outgoing(pool, SubscriptionRequestFailed)] == ["wrong_user"]


async def test_a_closed_account_buys_nothing(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(AccountClosed(cause_id="c", occurred_at=START, account_id="a-1"))
    await publish(requested("free"))
    assert [event.reason for event in await outgoing(pool, SubscriptionRequestFailed)] == ["account_closed"]


async def test_a_request_before_any_catalogue_fails_with_its_reason(pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(requested("standard"))
    assert [event.reason for event in await outgoing(pool, SubscriptionRequestFailed)] == ["no_catalogue"]


async def test_a_free_subscription_ends_when_it_is_cancelled(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(requested("free"))
    await publish(cancelled("now"))
    await publish(cancelled("now"))
    [event] = await outgoing(pool, SubscriptionDeleted)
    assert (event.status, event.revision, event.ended_at) == ("canceled", 2, START)
    await publish(requested("free", subscription="s-2"))
    assert len(await outgoing(pool, SubscriptionCreated)) == 2


async def test_cancelling_at_the_end_of_the_period_is_intended_once(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "standard")
    await publish(cancelled("period_end"))
    await publish(cancelled("period_end"))
    assert await intents(pool) == [("cancel_at_period_end", {"subscription": "sub_1"})]


async def test_cancelling_now_waits_until_the_usage_is_settled(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "payg")
    await publish(cancelled("now"))
    assert await intents(pool) == []
    await publish(settled("cancellation", 5))
    await publish(settled("cancellation", 5))
    assert await intents(pool) == [("cancel_now", {"subscription": "sub_1"})]


async def test_a_period_without_usage_of_packages_is_charged_the_least(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "enterprise")
    await publish(settled("period_end", 0))
    [(kind, parameters)] = await intents(pool)
    assert kind == "invoice_item"
    assert (parameters["item"]["amount"], parameters["item"]["currency"]) == (74_995, "usd")
    assert parameters["draft_of_period_end"] == END.isoformat()


async def test_a_period_with_usage_of_packages_needs_nothing_added(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "enterprise")
    await publish(settled("period_end", 1))
    assert await intents(pool) == []


async def test_the_last_line_is_added_before_the_cancellation(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "enterprise")
    await publish(settled("cancellation", 0))
    assert [kind for kind, _ in await intents(pool)] == ["invoice_item", "cancel_now"]


async def test_an_unknown_subscription_is_waited_for_and_then_given_up(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    with pytest.raises(NotKnownYetError):
        await publish(cancelled("now", at=datetime.now(UTC)))
    with pytest.raises(InvalidEventError):
        await publish(cancelled("now", at=datetime.now(UTC) - timedelta(hours=1)))
    assert await pool.fetchval("select count(*) from inbox") == 0


async def test_a_new_card_pays_what_is_open(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(invoice(InvoicePaymentFailed, "open"))
    await publish(new_card())
    await publish(new_card())
    assert await intents(pool) == [
        ("set_default_payment_method", {"customer": "cus_1", "payment_method": "pm_new"}),
        ("pay_invoice", {"invoice": "in_1", "payment_method": "pm_new"}),
    ]


async def test_a_failure_that_is_told_after_the_new_card_is_paid_with_it(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(new_card(at=END + timedelta(seconds=1)))
    await publish(invoice(InvoicePaymentFailed, "open"))
    assert [kind for kind, _ in await intents(pool)] == ["set_default_payment_method", "pay_invoice"]


async def test_a_paid_invoice_is_not_paid_again_whatever_comes_late(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(invoice(InvoicePaid, "paid", revision=2, remaining=0))
    await publish(invoice(InvoicePaymentFailed, "open", revision=1))
    await publish(new_card())
    assert [kind for kind, _ in await intents(pool)] == ["set_default_payment_method"]


async def test_an_older_card_does_not_come_back(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(new_card(revision=2, method="pm_second"))
    await publish(new_card(revision=1, method="pm_first"))
    assert [parameters["payment_method"] for _, parameters in await intents(pool)] == ["pm_second"]


async def test_older_states_of_a_subscription_change_nothing(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(created(revision=3, status="canceled"))
    await publish(created(revision=2))
    assert tuple(await pool.fetchrow("select state, revision from subscription")) == ("ended", 3)


async def test_a_paid_session_takes_the_product(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await publish(requested("standard"))
    paid = CheckoutCompleted(
        cause_id="paid", occurred_at=START, session_id="cs_1", stripe_subscription_id="sub_1", payment_status="paid", **NAMES
    )
    await publish(paid)
    await publish(requested("standard", subscription="s-2"))
    assert [event.reason for event in await outgoing(pool, SubscriptionRequestFailed)] == ["already_subscribed"]


async def test_a_product_that_is_paid_for_twice_at_once_is_noticed(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await with_live(pool, publish, "standard")
    await pool.execute(
        "insert into subscription select 's-2', account_id, user_id, product_id, catalogue_version, display_name, currency, free, 'ended',"
        " 0, null, null, null, null, requested_at from subscription"
    )
    before = SECOND_PAYMENTS._value.get()
    await publish(
        CheckoutCompleted(
            cause_id="second", occurred_at=START, session_id="cs_2", stripe_subscription_id="sub_2", payment_status="paid",
            subscription_id="s-2", account_id="a-1",
        )
    )  # fmt: skip
    assert SECOND_PAYMENTS._value.get() == before + 1


async def test_a_subscription_whose_first_invoice_is_unpaid_does_not_take_the_product(
    known: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    await publish(created(status="incomplete"))
    assert await pool.fetchval("select state from subscription") == "requested"
