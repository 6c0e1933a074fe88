"""Stripe and API Management fail in the ways they do; what was meant to happen happens once."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from whole_system import Customer, World, eventually

pytestmark = pytest.mark.timeout(420)
METER_EVENTS = "/v1/billing/meter_events"


async def test_stripe_failing_during_checkout_costs_no_second_customer_session_or_subscription(world: World) -> None:
    person, offer = await world.offer("standard")
    for path in ("/v1/customers", "/v1/checkout/sessions"):
        await world.fault("sandbox_stripe", method="post", path=path, times=1, kind="status", status=429)
        await world.fault("sandbox_stripe", method="post", path=path, times=1, kind="drop_after_commit")
        await world.fault("sandbox_stripe", method="post", path=path, times=1, kind="status", status=500)
    for path in ("/v1/subscriptions", "/v1/invoices"):  # what the ingress fetches after the webhooks
        await world.fault("sandbox_stripe", method="get", path=path, times=2, kind="status", status=500)
        await world.fault("sandbox_stripe", method="get", path=path, times=1, kind="drop")
        await world.fault("sandbox_stripe", method="get", path=path, times=1, kind="status", status=429)
    page = await eventually("the Checkout page", lambda: person.order(offer), lambda page: "/c/pay/" in page.url)
    await person.pay(page)
    customer = await world.welcome(person)
    await world.clock.settle()
    assert await world.stripe_faults_left() == []
    theirs = await at_stripe(world, customer)
    assert {kind: len(found) for kind, found in theirs.items()} == {"customers": 1, "sessions": 1, "subscriptions": 1}
    assert [access for _, access, _ in await world.access(customer)] == ["granted"]


async def at_stripe(world: World, customer: Customer) -> dict[str, list[Any]]:
    """Return all that Stripe holds of this customer's account."""
    v1 = world.stripe.client.v1
    account = (await v1.subscriptions.retrieve_async(customer.stripe_id)).metadata["turnpike_account_id"]
    pages: dict[str, Any] = {
        "customers": await v1.customers.list_async({"limit": 100}),
        "sessions": await v1.checkout.sessions.list_async({"limit": 100}),
        "subscriptions": await v1.subscriptions.list_async({"limit": 100, "status": "all"}),
    }
    found = {kind: [one async for one in page.auto_paging_iter()] for kind, page in pages.items()}
    mine = {one.id for one in found["customers"] if one.metadata and one.metadata.to_dict().get("turnpike_account_id") == account}
    return {kind: [one for one in ones if one.id in mine or getattr(one, "customer", None) in mine] for kind, ones in found.items()}


async def test_stripe_failing_while_usage_is_reported_loses_nothing_and_bills_nothing_twice(world: World) -> None:
    payg, enterprise = await world.join("payg"), await world.join("enterprise")
    for what in (
        {"kind": "drop_after_commit"},
        {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
        {"kind": "drop"},
        {"kind": "status", "status": 500},
        {"kind": "drop_after_commit"},
        {"kind": "delay", "seconds": 1.5},
    ):
        await world.fault("sandbox_stripe", method="post", path=METER_EVENTS, times=2, **what)
    for hour in range(4):  # one window an hour: each of them is a meter event of its own
        await payg.person.call_many(world.http, 12, failing=2)
        await world.send_usage(enterprise, 400_000 + hour)
        await world.clock.settle()
        await world.clock.advance_by(timedelta(hours=1))
    end = await world.end_the_month()
    assert await world.stripe_faults_left() == []
    assert (await world.check_period(payg, payg.start, end))["calls"] == payg.person.calls[200]
    assert (await world.check_period(enterprise, enterprise.start, end))["calls"] == enterprise.quantities_sent


async def test_api_management_refusing_writes_delays_access_and_never_changes_how_it_ends(world: World) -> None:
    for status in (412, 429, 500):
        await world.fault("sandbox_apim", method="PUT", path="/subscriptions", times=1, status=status, **retry_after(status))
    customer = await world.join("payg")
    await world.answers(customer, 200)
    for status in (500, 412, 429):
        await world.fault("sandbox_apim", method="PATCH", path="/subscriptions", times=2, status=status, **retry_after(status))
    await customer.person.unsubscribe("now")
    await world.answers(customer, 401)
    await world.status_at_stripe(customer, "canceled")
    await world.clock.settle()
    left = (await world.doors.ask("sandbox_apim", "GET", "/_sandbox/faults"))["faults"]
    assert left == [], "the enforcer never met these"
    assert [access for _, access, _ in await world.access(customer)] == ["granted", "suspended", "revoked"]
    told = Counter(
        {name: len(await world.records(f"access.{name}", customer.subscription_id)) for name in ("granted", "suspended", "revoked")}
    )
    assert told == {"granted": 1, "suspended": 1, "revoked": 1}


def retry_after(status: int) -> dict[str, int]:
    return {"retry_after": 1} if status == 429 else {}
