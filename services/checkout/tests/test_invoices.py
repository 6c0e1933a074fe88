"""Stripe's own arithmetic, as the sandbox has it, against the rating function: the same lines, to the cent."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import stripe

from billing_common.catalogue import Catalogue
from billing_common.rating import Facts, period_at, rate
from checkout.intents import Worker, intend
from checkout.store_catalogue import Version

CATALOGUE = Catalogue.parse((Path(__file__).parents[3] / "monetizationModels.json").read_text())
CASES = [
    ("developer", 1, 101),
    ("payg", 9, 12_345),
    ("basic", 16, 49_999),
    ("standard", 21, 100_005),
    ("standard", 1, 250_000),
    ("pro", 30, 500_009),
    ("enterprise", 16, 2_000_000),
    ("enterprise", 3, 1_500_000),
]


async def subscribe(api: stripe.StripeClient, version: Version, product: str, started: datetime) -> tuple[str, str, str]:
    """Subscribe as Checkout would, on a clock of its own; returns clock, customer and subscription."""
    clock = await api.v1.test_helpers.test_clocks.create_async({"frozen_time": int(started.timestamp())})
    customer = await api.v1.customers.create_async({"test_clock": clock.id})
    method = await api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    metered = {"usage:calls", "unit"}
    prices = version.price_ids(product, "usd")
    params: Any = {
        "customer": customer.id,
        "default_payment_method": method.id,
        "items": [{"price": price, **({} if component in metered else {"quantity": 1})} for component, price in prices.items()],
        "billing_mode": {"type": "flexible"},
        "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
        "proration_behavior": "create_prorations",
    }
    return clock.id, customer.id, (await api.v1.subscriptions.create_async(params)).id


async def lines_of_service(api: stripe.StripeClient, subscription: str, start: datetime, end: datetime) -> list[int]:
    """Return the amounts of all lines whose service period lies in the period, in the order of the invoices."""
    first, last = int(start.timestamp()), int(end.timestamp())
    invoices = (await api.v1.invoices.list_async({"subscription": subscription, "limit": 20})).data
    lines = [line for invoice in reversed(invoices) for line in invoice.lines.data]
    return [line.amount for line in lines if first <= line.period.start and line.period.end <= last]


@pytest.mark.parametrize(("product_id", "day", "calls"), CASES)
async def test_the_first_month_is_invoiced_as_it_was_quoted(
    applied: Version, stripe_api: stripe.StripeClient, product_id: str, day: int, calls: int
) -> None:
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    started = month.replace(day=min(day, 28)) + timedelta(hours=9, minutes=31, seconds=7)
    product = CATALOGUE.product(product_id)
    period = period_at(product, started_at=started, at=started)
    clock, customer, subscription = await subscribe(stripe_api, applied, product_id, started)
    if product.priced_meters():
        sent: Any = {
            "event_name": f"turnpike_{product_id}_calls",
            "payload": {"stripe_customer_id": customer, "value": str(calls)},
            "timestamp": int((started + timedelta(seconds=60)).timestamp()),
        }
        await stripe_api.v1.billing.meter_events.create_async(sent)
    await stripe_api.v1.test_helpers.test_clocks.advance_async(clock, {"frozen_time": int((period.end + timedelta(hours=2)).timestamp())})
    for _ in range(50):
        if (await stripe_api.v1.test_helpers.test_clocks.retrieve_async(clock)).status == "ready":
            break
        await asyncio.sleep(0.1)
    rated = rate(CATALOGUE, product, period=period, usage={"calls": calls}, facts=Facts(started_at=started))
    assert await lines_of_service(stripe_api, subscription, period.start, period.end) == [line.amount_minor for line in rated.lines]


async def test_a_month_without_usage_of_packages_is_invoiced_with_the_least(
    applied: Version, stripe_api: stripe.StripeClient, pool: asyncpg.Pool, worker: Worker
) -> None:
    started = datetime.now(UTC).replace(day=3, hour=9, minute=0, second=0, microsecond=0)
    period = period_at(CATALOGUE.product("enterprise"), started_at=started, at=started)
    clock, customer, subscription = await subscribe(stripe_api, applied, "enterprise", started)
    for minutes in (10, 120):
        moment = int((period.end + timedelta(minutes=minutes)).timestamp())
        await stripe_api.v1.test_helpers.test_clocks.advance_async(clock, {"frozen_time": moment})
        async with pool.acquire() as connection:
            item = {"customer": customer, "subscription": subscription, "currency": "usd", "amount": 74_995, "description": "at least 1"}
            parameters = {"item": item, "draft_of_period_end": period.end.isoformat()}
            await intend(connection, "invoice_item", key="a", cause="least", parameters=parameters)
        while await worker.drain():
            pass
    totals = [invoice.total for invoice in (await stripe_api.v1.invoices.list_async({"subscription": subscription})).data]
    assert totals.count(74_995) == 1
    assert sum(totals) == 74_995
