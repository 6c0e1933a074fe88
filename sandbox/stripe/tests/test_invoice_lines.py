"""Which lines an invoice has and in which order, and what of it is charged."""

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

START = int(datetime(2028, 1, 31, 12, tzinfo=UTC).timestamp())
DAY = 86_400


async def subscribed(up: Any, currency: str = "usd", amount: int = 3100) -> tuple[Any, Any]:
    """A subscription with a base fee and a meter, on a test clock of its own; returns it and its clock."""
    v1 = up.client.v1
    meter = await v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    )
    product = await v1.products.create_async({"name": "Standard"})
    base = await v1.prices.create_async(
        {"currency": currency, "product": product.id, "unit_amount": amount, "recurring": {"interval": "month"}}
    )
    metered: Any = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    usage = await v1.prices.create_async({"currency": currency, "product": product.id, "unit_amount_decimal": "0.5", "recurring": metered})
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": START})
    customer = await v1.customers.create_async({"test_clock": clock.id, "payment_method": "pm_card_visa"})
    method = (await v1.payment_methods.list_async({"customer": customer.id})).data[0].id
    order: Any = {"customer": customer.id, "default_payment_method": method, "items": [{"price": base.id}, {"price": usage.id}]}
    return await v1.subscriptions.create_async(order), clock


async def move(up: Any, clock: Any, to: int) -> None:
    await up.client.v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": to})


async def last_invoice(up: Any, subscription: Any) -> Any:
    return (await up.client.v1.invoices.list_async({"subscription": subscription.id, "limit": 1})).data[0]


async def set_quantity(up: Any, subscription: Any, quantity: int) -> None:
    item = subscription["items"].data[0].id
    await up.client.v1.subscriptions.update_async(subscription.id, {"items": [{"id": item, "quantity": quantity}]})


async def test_what_waited_comes_first_the_newest_before_the_older_then_items_then_what_was_added_to_the_draft(up: Any) -> None:
    subscription, clock = await subscribed(up)
    end = subscription["items"].data[0].current_period_end
    for day, quantity in ((10, 2), (20, 3)):
        await move(up, clock, START + day * DAY)
        await set_quantity(up, subscription, quantity)
    await move(up, clock, end)
    draft = await last_invoice(up, subscription)
    for text in ("first", "second"):
        await up.client.v1.invoice_items.create_async(
            {"customer": subscription.customer, "invoice": draft.id, "amount": 1, "currency": "usd", "description": text}
        )
    found = (await up.client.v1.invoices.retrieve_async(draft.id)).lines.data
    starts = [(line.period.start - START) // DAY for line in found[:4]]
    assert (starts, [line.quantity for line in found[:4]]) == ([20, 20, 10, 10], [2, 3, 1, 2])
    assert [line.amount > 0 for line in found[:4]] == [False, True, False, True]
    assert [(line.amount, line.period.start) for line in found[4:6]] == [(9300, end), (0, START)]
    assert [line.description for line in found[6:]] == ["first", "second"]


@pytest.mark.parametrize(("how", "invoiced"), [({"invoice_now": True}, 2), ({}, 1), ({"prorate": True}, 1)])
async def test_an_end_at_once_invoices_what_waits_only_when_asked_to(up: Any, how: Any, invoiced: int) -> None:
    subscription, clock = await subscribed(up)
    usage = subscription["items"].data[1].id
    await move(up, clock, START + DAY)
    await up.client.v1.subscription_items.delete_async(usage, {"proration_behavior": "none"})
    await set_quantity(up, subscription, 2)
    await up.client.v1.subscriptions.cancel_async(subscription.id, how)
    assert len((await up.client.v1.invoices.list_async({"subscription": subscription.id})).data) == invoiced
    waiting = (await up.client.v1.invoice_items.list_async({"customer": subscription.customer, "pending": True})).data
    assert len(waiting) == (2 if "prorate" in how else 0)


async def test_fractions_that_cannot_be_charged_wait_on_the_customers_balance(up: Any) -> None:
    subscription, clock = await subscribed(up, "isk", 310_000)
    payload = {"stripe_customer_id": subscription.customer, "value": "301"}
    await up.client.v1.billing.meter_events.create_async({"event_name": "calls", "payload": payload, "timestamp": START})
    await move(up, clock, subscription["items"].data[0].current_period_end + 3700)
    invoice = await last_invoice(up, subscription)
    assert (invoice.total, invoice.amount_due, invoice.ending_balance) == (310_151, 310_200, -49)


async def test_a_thirteenth_decimal_is_refused(up: Any) -> None:
    product = await up.client.v1.products.create_async({"name": "Fine"})
    price = {"currency": "usd", "product": product.id, "unit_amount_decimal": "0.000000000001"}
    assert str((await up.client.v1.prices.create_async(price)).unit_amount_decimal) == "1E-12"
    with pytest.raises(stripe.InvalidRequestError):
        await up.client.v1.prices.create_async(price | {"unit_amount_decimal": "0.0000000000001"})
