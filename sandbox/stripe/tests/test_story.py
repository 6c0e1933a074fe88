"""The money path with the real SDK: catalogue, Checkout page, usage, invoice, dunning, a new card, cancellation."""

from typing import Any


async def test_a_month_of_business_from_checkout_to_cancellation(up: Any) -> None:
    client = up.client
    made = await up.make_catalogue()
    session = await up.check_out(
        [{"price": made["base"].id, "quantity": 1}, {"price": made["usage"].id}], subscription_data={"metadata": {"tenant": "7"}}
    )
    assert (session.status, session.payment_status, session.amount_total) == ("complete", "paid", 8995)
    subscription = session.subscription
    assert subscription.status == "active"
    assert subscription.metadata.to_dict() == {"tenant": "7"}
    assert subscription.latest_invoice.status == "paid"
    item = subscription["items"].data[0]
    await client.v1.billing.meter_events.create_async({
        "event_name": "calls", "identifier": "w1", "payload": {"stripe_customer_id": session.customer, "value": "250000"},
        "timestamp": item.current_period_start,
    })  # fmt: skip
    await up.move_to(item.current_period_end + 7200)
    invoices = await client.v1.invoices.list_async({"subscription": subscription.id})
    assert [(one.billing_reason, one.status, one.total) for one in invoices.data] == [
        ("subscription_cycle", "paid", 8995 + 15000), ("subscription_create", "paid", 8995)
    ]  # fmt: skip
    lines = invoices.data[0].lines.data
    assert [(line.quantity, line.amount) for line in lines] == [(1, 8995), (100000, 0), (150000, 15000)]
    assert {line.parent.subscription_item_details.subscription for line in lines} == {subscription.id}


async def test_a_card_that_stops_paying_leads_to_unpaid_and_a_new_card_brings_it_back(up: Any, card: dict[str, str]) -> None:
    client = up.client
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}])
    portal = await client.v1.billing_portal.sessions.create_async({"customer": session.customer, "return_url": "http://127.0.0.1:9/back"})
    assert "4242" in (await up.http.get(portal.url)).text
    bad = {**card, "number": "4000000000000341"}
    assert (await up.http.post(f"{portal.url}/card", data=bad)).status_code == 303
    end = session.subscription["items"].data[0].current_period_end
    await up.move_to(end + 3600 + 60)
    subscription = await client.v1.subscriptions.retrieve_async(session.subscription.id, {"expand": ["latest_invoice"]})
    assert subscription.status == "past_due"
    assert subscription.latest_invoice.next_payment_attempt == end + 3600 + 3 * 86400
    await up.move_to(end + 3600 + 15 * 86400 + 60)
    subscription = await client.v1.subscriptions.retrieve_async(session.subscription.id)
    assert subscription.status == "unpaid"
    declined = await up.http.post(f"{portal.url}/card", data={**card, "number": "4000000000000002"})
    assert declined.status_code == 422
    assert (await up.http.post(f"{portal.url}/card", data=card)).status_code == 303
    paid = await client.v1.invoices.pay_async(subscription.latest_invoice)
    assert (paid.status, paid.attempt_count) == ("paid", 5)
    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).status == "active"


async def test_cancelling_now_with_invoice_now_bills_the_usage_so_far(up: Any) -> None:
    client = up.client
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["usage"].id}])
    assert session.invoice is None
    await client.v1.billing.meter_events.create_async(
        {"event_name": "calls", "payload": {"stripe_customer_id": session.customer, "value": "200000"}}
    )
    await up.http.put("/_sandbox/clock", json={"offset_seconds": 60})
    gone = await client.v1.subscriptions.cancel_async(session.subscription.id, {"invoice_now": True, "prorate": False})
    assert gone.status == "canceled"
    invoice = await client.v1.invoices.retrieve_async(gone.latest_invoice)
    assert (invoice.status, invoice.total) == ("paid", 10000)
