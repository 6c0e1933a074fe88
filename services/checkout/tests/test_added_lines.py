"""Lines that no price at Stripe can say, and where they go: the draft that becomes final, the end without a last invoice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import stripe

from checkout.intents import Worker, intend
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeGateway

Begin = Callable[[str], Awaitable["Subscribed"]]


@dataclass
class Subscribed:
    """A subscription at Stripe on a clock of its own, and a line that waits for the draft of its first period."""

    api: stripe.StripeClient
    pool: asyncpg.Pool
    worker: Worker
    clock: str
    customer: str
    stripe_id: str
    end: datetime

    async def to(self, moment: datetime) -> None:
        await self.api.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": int(moment.timestamp())})
        for _ in range(100):
            if (await self.api.v1.test_helpers.test_clocks.retrieve_async(self.clock)).status == "ready":
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("the clock is not ready")

    async def add(self, amount: int, *, on_draft: bool = True) -> None:
        item = {
            "customer": self.customer,
            "subscription": self.stripe_id,
            "currency": "usd",
            "amount": amount,
            "description": "Minimum spend",
        }
        parameters: dict[str, Any] = {"item": item}
        if on_draft:
            parameters["draft_of_period_end"] = self.end.isoformat()
        async with self.pool.acquire() as connection:
            await intend(connection, "invoice_item", key="a", cause=uuid4().hex, parameters=parameters)
        await self.work()

    async def work(self) -> None:
        await self.pool.execute("update intent set due_at = now() where state = 'pending'")
        while await self.worker.drain():
            pass

    async def state(self) -> Any:
        return await self.pool.fetchval("select state from intent")

    async def totals(self) -> list[int]:
        """Return the totals of the customer's invoices, the oldest first."""
        invoices = (await self.api.v1.invoices.list_async({"customer": self.customer, "limit": 50})).data
        return [invoice.total for invoice in reversed(invoices)]


@pytest.fixture
async def subscribed(applied: Version, stripe_api: stripe.StripeClient, pool: asyncpg.Pool, worker: Worker) -> Subscribed:
    started = datetime.now(UTC).replace(day=3, hour=9, minute=0, second=0, microsecond=0)
    clock = await stripe_api.v1.test_helpers.test_clocks.create_async({"frozen_time": int(started.timestamp())})
    customer = await stripe_api.v1.customers.create_async({"test_clock": clock.id})
    method = await stripe_api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    params: Any = {
        "customer": customer.id,
        "default_payment_method": method.id,
        "items": [{"price": price} for price in applied.price_ids("enterprise", "usd").values()],
        "billing_mode": {"type": "flexible"},
        "metadata": {"turnpike_subscription_id": "s-1", "turnpike_account_id": "a-1", "turnpike_display_name": "W"},
        "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
    }
    made = await stripe_api.v1.subscriptions.create_async(params)
    end = (started + timedelta(days=32)).replace(day=1, hour=0)
    return Subscribed(stripe_api, pool, worker, clock.id, customer.id, made.id, end)


async def test_a_draft_that_becomes_final_in_that_moment_leaves_its_line_to_the_next_invoice(
    subscribed: Subscribed, gateway: StripeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subscribed.to(subscribed.end + timedelta(hours=2))
    real = gateway.invoice_of_period

    async def a_moment_ago(subscription_id: str, period_end: datetime) -> tuple[str, bool] | None:
        found = await real(subscription_id, period_end)
        return None if found is None else (found[0], True)

    monkeypatch.setattr(subscribed.worker._gateway, "invoice_of_period", a_moment_ago)
    await subscribed.add(74_995)
    assert await subscribed.state() == "pending"
    monkeypatch.setattr(subscribed.worker._gateway, "invoice_of_period", real)
    await subscribed.work()
    assert (await subscribed.state(), await subscribed.totals()) == ("done", [0])
    await subscribed.to(subscribed.end + timedelta(days=33))
    assert await subscribed.totals() == [0, 74_995]


async def test_a_line_waits_for_the_invoice_of_a_period_that_has_not_ended_at_stripe(subscribed: Subscribed) -> None:
    await subscribed.add(74_995)
    assert await subscribed.state() == "pending"
    await subscribed.to(subscribed.end + timedelta(minutes=10))
    await subscribed.work()
    await subscribed.to(subscribed.end + timedelta(hours=2))
    assert (await subscribed.state(), await subscribed.totals()) == ("done", [74_995])


@pytest.mark.parametrize("on_draft", [True, False])
async def test_a_subscription_that_ended_without_a_last_invoice_gets_one_for_its_line(subscribed: Subscribed, *, on_draft: bool) -> None:
    metered = (await subscribed.api.v1.subscriptions.retrieve_async(subscribed.stripe_id))["items"].data
    assert len(metered) == 1
    await subscribed.api.v1.subscriptions.cancel_async(subscribed.stripe_id, {"invoice_now": False, "prorate": False})
    await subscribed.add(74_995, on_draft=on_draft)
    assert (await subscribed.state(), await subscribed.totals()) == ("done", [74_995])
    [invoice] = (await subscribed.api.v1.invoices.list_async({"customer": subscribed.customer})).data
    assert invoice.metadata is not None
    said = {name: value for name, value in invoice.metadata.to_dict().items() if "stripe" not in name and "intent" not in name}
    assert (invoice.status, said) == ("paid", {"turnpike_subscription_id": "s-1", "turnpike_account_id": "a-1"})
    await subscribed.pool.execute("update intent set state = 'pending', generation = generation + 1")
    await subscribed.work()
    assert await subscribed.totals() == [74_995]
