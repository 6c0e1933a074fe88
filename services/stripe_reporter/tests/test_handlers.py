"""Events go in through the broker; rows are read back from Postgres."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.events import InvalidEventError, InvoiceCreated
from stripe_reporter import store


async def test_a_window_is_due_a_delay_after_its_hour(publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any) -> None:
    await publish(facts.usage(7))
    usage = facts.usage(7)
    async with pool.acquire() as connection:
        assert await store.next_due(connection, clock.now()) == usage.hour + timedelta(hours=1, seconds=60)


async def test_an_event_delivered_twice_is_kept_once(publish: Any, facts: Any, pool: asyncpg.Pool) -> None:
    for _ in range(2):
        await publish(facts.usage(7))
        await publish(facts.subscription())
        await publish(facts.catalogue())
        await publish(facts.closed({"calls": 7}))
    for table in ("usage_window", "subscription", "catalogue", "segment"):
        assert await pool.fetchval(f"select count(*) from {table}") == 1


async def test_an_older_revision_changes_nothing(publish: Any, facts: Any, pool: asyncpg.Pool) -> None:
    await publish(facts.usage(9, 2))
    await publish(facts.usage(7, 1))
    await publish(facts.subscription(customer="cus_new", revision=2))
    await publish(facts.subscription(customer="cus_old", revision=1))
    assert await pool.fetchval("select total from usage_window") == 9
    assert await pool.fetchval("select stripe_customer_id from subscription") == "cus_new"


async def test_more_usage_does_not_push_a_due_window_back(publish: Any, facts: Any, pool: asyncpg.Pool, clock: Any) -> None:
    await publish(facts.usage(1, 1))
    due = await pool.fetchval("select due_at from usage_window")
    clock.instant += timedelta(hours=3)
    await publish(facts.usage(2, 2))
    assert await pool.fetchval("select due_at from usage_window") == due


async def test_an_unreadable_catalogue_is_poison_and_leaves_no_trace(publish: Any, facts: Any, pool: asyncpg.Pool) -> None:
    broken = facts.catalogue().model_copy(update={"stripe_ids": {"payg": {"meters": {"calls": {"id": "mtr"}}}}})
    with pytest.raises(InvalidEventError):
        await publish(broken)
    assert await pool.fetchval("select count(*) from inbox") == 0
    await publish(facts.catalogue())
    assert await pool.fetchval("select count(*) from stripe_meter") == 2


async def test_only_a_draft_at_a_periods_end_has_a_deadline(publish: Any, pool: asyncpg.Pool, clock: Any) -> None:
    def invoice(number: int, **changes: Any) -> InvoiceCreated:
        given: dict[str, Any] = {
            "cause_id": f"invoice-{number}",
            "occurred_at": clock.now(),
            "subscription_id": "s-1",
            "account_id": "a-1",
            "revision": 1,
            "invoice_id": f"in_{number}",
            "stripe_subscription_id": "sub_1",
            "stripe_customer_id": "cus_1",
            "status": "draft",
            "billing_reason": "subscription_cycle",
            "currency": "usd",
            "period_start": clock.now(),
            "period_end": clock.now(),
            "created_at": clock.now(),
            "finalizes_at": clock.now(),
            **dict.fromkeys(("total_minor", "amount_due_minor", "amount_paid_minor", "amount_remaining_minor"), 0),
        }
        return InvoiceCreated(**{**given, **changes})

    await publish(invoice(1))
    await publish(invoice(2, status="open", finalizes_at=None))
    await publish(invoice(3, billing_reason="subscription_create"))
    assert await pool.fetch("select invoice_id from period_close") == [("in_1",)]
