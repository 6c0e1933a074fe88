"""Stripe's own arithmetic, as the sandbox has it, against the rating function: the same lines, to the cent."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, cast

import asyncpg
import pytest
import stripe

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_stripe import desired_products, meter_event_name
from billing_common.rating import ADDED_TO_DRAFT, Facts, Period, QuantityChange, period_at, rate
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


# --- random plans: prices made from the catalogue by the very parameters an apply uses ---------------------------------------------

CURRENCIES = {"usd": 2, "eur": 2, "jpy": 0}
SEEDS = 24
Json = dict[str, Any]


def random_plan(random: Random, number: int) -> Catalogue:
    currency = random.choice(sorted(CURRENCIES))

    def amount(top: int) -> str:
        return str(Decimal(random.randint(1, top)).scaleb(-CURRENCIES[currency]))

    def usage(meter: str) -> Json:
        kind, rounding = random.choice(["plain", "included", "graduated", "volume", "discounts"]), random.choice(["exact", "started"])
        entry: Json = {"meter": meter, "per": random.choice([1, 10, 100])}
        ends = sorted(random.sample(range(1, 5000), 2))
        if kind in {"graduated", "volume"}:
            flat = random.choice(["0", amount(900)])
            return entry | {"mode": kind, "tiers": [{"up_to": end, "amount": amount(300), "flat": flat} for end in [*ends, None]]}
        if kind == "discounts":
            return entry | {"amount": amount(300), "discounts": f"0-{ends[0]} standard, to {ends[1]} 20 % off, above 40 % off"}
        return entry | {"amount": amount(300), "rounding": rounding, "included": ends[0] if kind == "included" else 0}

    meters = ["calls", "bytes"][: random.randint(1, 2)]
    price: Json = {"usage": [usage(meter) for meter in meters]}
    price |= {"base": amount(90_000)} if random.random() < 0.7 else {}
    anchor = random.choice(["calendar", "anniversary"])
    product = {"id": f"random{number}", "name": "R", "model": "Hybrid", "price": price, "billing_anchor": anchor, "currency": currency}
    document = {"version": 1, "meters": {meter: {"name": meter} for meter in meters}, "products": [product]}
    return Catalogue.parse(json.dumps(document))


async def make_prices(api: stripe.StripeClient, catalogue: Catalogue, currency: str) -> dict[str, str]:
    """Create what the catalogue desires at Stripe; returns component -> price."""
    [desired] = desired_products(catalogue)
    await api.v1.products.create_async(cast("Any", {"id": desired.stripe_id, **desired.parameters()}))
    meters = {meter.meter_id: (await api.v1.billing.meters.create_async(cast("Any", meter.parameters()))).id for meter in desired.meters}
    found = {}
    for price in desired.prices:
        made = await api.v1.prices.create_async(cast("Any", price.parameters(meters.get(price.meter_id or ""))))
        found[price.component] = made.id
    assert {price.currency for price in desired.prices} == {currency}
    return found


async def run_a_month(
    api: stripe.StripeClient, prices: dict[str, str], product: Product, usage: dict[str, int], facts: Facts, period: Period
) -> list[int]:
    """Live through one period at Stripe, changes of the quantity included; returns the amounts of its lines."""
    clock = await api.v1.test_helpers.test_clocks.create_async({"frozen_time": int(facts.started_at.timestamp())})
    customer = await api.v1.customers.create_async({"test_clock": clock.id})
    method = await api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    calendar = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
    params: Any = {
        "customer": customer.id,
        "default_payment_method": method.id,
        "items": [{"price": price, **({"quantity": facts.quantity} if component == "base" else {})} for component, price in prices.items()],
        "billing_mode": {"type": "flexible"},
        **({"billing_cycle_anchor_config": calendar} if product.billing_anchor == "calendar" else {}),
        "proration_behavior": "create_prorations",
    }
    subscription = await api.v1.subscriptions.create_async(params)
    for meter, quantity in usage.items():
        payload = {"stripe_customer_id": customer.id, "value": str(quantity)}
        at = int((facts.started_at + timedelta(seconds=60)).timestamp())
        sent: Any = {"event_name": meter_event_name(product.id, meter), "payload": payload, "timestamp": at}
        await api.v1.billing.meter_events.create_async(sent)
    for change in facts.quantity_changes:
        await advance(api, clock.id, change.at)
        item = next(item for item in subscription["items"]["data"] if item.price.id == prices["base"])
        wish: Any = {"items": [{"id": item.id, "quantity": change.quantity}], "proration_behavior": "create_prorations"}
        await api.v1.subscriptions.update_async(subscription.id, wish)
    await advance(api, clock.id, period.end + timedelta(hours=2))
    return await lines_of_service(api, subscription.id, period.start, period.end)


async def advance(api: stripe.StripeClient, clock: str, to: datetime) -> None:
    await api.v1.test_helpers.test_clocks.advance_async(clock, {"frozen_time": int(to.timestamp())})
    for _ in range(200):
        if (await api.v1.test_helpers.test_clocks.retrieve_async(clock)).status == "ready":
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(clock)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_random_plans_are_invoiced_as_they_are_rated(stripe_api: stripe.StripeClient, seed: int) -> None:
    """Any tiers, allowances, discounts and blocks; calendar and anniversary; three currencies; a start and a change in mid-period."""
    random = Random(seed)
    catalogue = random_plan(random, seed)
    [product] = catalogue.products
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    started = month + timedelta(seconds=random.randint(0, 20 * 86_400))
    period = period_at(product, started_at=started, at=started)
    has_base = product.price is not None and product.price.base is not None
    moment = started + (period.end - started) * random.uniform(0.1, 0.9)
    changed = has_base and random.random() < 0.5
    changes = (QuantityChange(moment.replace(microsecond=0), random.randint(1, 5)),) if changed else ()
    facts = Facts(started_at=started, quantity=random.randint(1, 3) if has_base else 1, quantity_changes=changes)
    usage = {meter: random.choice([0, random.randint(1, 10_000), 10**12]) for meter in product.priced_meters()}
    prices = await make_prices(stripe_api, catalogue, catalogue.currency_of(product))
    rated = rate(catalogue, product, period=period, usage=usage, facts=facts)
    expected = [line.amount_minor for line in rated.lines if line.component not in ADDED_TO_DRAFT]
    assert sorted(await run_a_month(stripe_api, prices, product, usage, facts, period)) == sorted(expected)
