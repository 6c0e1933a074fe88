"""What a plan's fields promise, on the running stack: gates, limits, further keys, grace, late usage, overage, each to the cent."""

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from whole_system import Customer, World, eventually

from turnpike_cli.__main__ import app
from turnpike_cli.story.people import CARD_THAT_FAILS_LATER, GOOD_CARD, KEY_HEADER, secret_of

pytestmark = pytest.mark.timeout(420)
PRODUCTS = Path(__file__).with_name("plan_fields.json")
CALL = 7  # cents, of all plans here that charge single calls


@pytest.fixture(scope="module")
async def shop(world: World) -> World:
    """The stack, with the plans of this file on sale."""
    document = await world.catalogue()
    document["products"] += json.loads(PRODUCTS.read_text())["products"]
    await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
    await world.clock.settle()
    return world


async def call(world: World, key: str, path: str = "/orders", *, method: str = "GET") -> httpx.Response:
    return await world.http.request(method, f"{world.places.gateway}{path}", headers={KEY_HEADER: key})


async def answers(world: World, key: str, count: int) -> list[int]:
    return [(await call(world, key)).status_code for _ in range(count)]


async def becomes(world: World, key: str, status: int) -> None:
    await eventually(f"the gateway to answer {status}", lambda: call(world, key), lambda answer: answer.status_code == status)


async def standing(world: World, customer: Customer) -> Any:
    return await world.doors.ask("usage_collector", "GET", f"/v1/usage/{customer.subscription_id}/standing")


async def announced(world: World, customer: Customer) -> list[float]:
    """Return the thresholds that were told, as often as they were, after checking that each was reached."""
    records = [json.loads(record.value) for record in await world.records("usage.threshold_reached", customer.subscription_id)]
    (limit,) = {quota["limit"] for quota in (await standing(world, customer))["quotas"]}
    assert all(record["quantity"] >= float(record["threshold"]) * limit for record in records)
    return sorted(float(record["threshold"]) for record in records)


async def owed(world: World, customer: Customer, start: datetime, end: datetime) -> dict[str, int]:
    """Return what Stripe charges for a stretch of service: description -> cents."""
    return {line.description: line.amount_minor for line in await world.stripe.lines(customer.stripe_id, start, end) if line.amount_minor}


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    assert found["message"].endswith(f"see {found['upgrade']}.")
    return {name: value for name, value in found.items() if name not in {"message", "upgrade"}}


async def test_an_operation_outside_the_plan_is_refused_with_a_way_out_and_never_billed(shop: World) -> None:
    customer = await shop.join("reader")
    key = customer.person.key
    assert await answers(shop, key, 2) == [200, 200]
    assert (await call(shop, key, "/orders/7")).status_code == 200
    for method, path, operation in (
        ("POST", "/orders", "create-order"),
        ("DELETE", "/orders/7", "delete-order"),
        ("GET", "/status/200", "get-status"),
    ):
        refused = await call(shop, key, path, method=method)
        assert (refused.status_code, refusal(refused)) == (
            403,
            {"statusCode": 403, "code": "operation_not_in_plan", "plan": "reader", "api": "orders", "operation": operation},
        )
    assert (await shop.http.get(refused.json()["upgrade"])).status_code == 200
    assert (await call(shop, key, "/orders/7")).status_code == 200, "a refused call deleted the order"
    await customer.person.unsubscribe("now")
    await shop.status_at_stripe(customer, "canceled")
    await shop.clock.settle()
    events = (await standing(shop, customer))["totals"]
    assert events == {"calls": 5}  # the first is made while the key is waited for
    assert sum(invoice.total for invoice in await shop.stripe.invoices(customer.stripe_id)) == 5 * CALL


async def test_limits_are_answered_with_their_number_window_and_way_out_and_end_with_their_window(shop: World) -> None:
    customer = await shop.join("capped")
    key = customer.person.key
    assert await answers(shop, key, 11) == [200] * 11
    limited = await call(shop, key)
    assert limited.status_code == 429
    assert refusal(limited) == {"statusCode": 429, "code": "rate_limit_exceeded", "plan": "capped", "limit": 12, "window": "60 seconds"}
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    await shop.clock.advance_by(timedelta(seconds=int(limited.headers["retry-after"])))
    assert await answers(shop, key, 8) == [200] * 8
    stopped = await call(shop, key)
    assert stopped.status_code == 403
    assert refusal(stopped) == {"statusCode": 403, "code": "quota_exceeded", "plan": "capped", "limit": 20, "window": "calendar month"}
    until = await shop.clock.now() + timedelta(seconds=int(stopped.headers["retry-after"]))
    assert abs(until - await shop.next_month()) < timedelta(seconds=5)
    await shop.clock.settle()
    (quota,) = (await standing(shop, customer))["quotas"]
    assert (quota["used"], quota["remaining"], quota["stops"]) == (20, 0, True)
    assert await announced(shop, customer) == [0.5, 0.8, 1.0]
    assert (await customer.person.browser.open(customer.person.page)).has("calls are refused until")
    await shop.end_the_month()
    assert (await call(shop, key)).status_code == 200


async def add_key(world: World, customer: Customer, name: str) -> tuple[int, str]:
    """Add a key on the subscription's page; returns its number and its value."""
    browser = customer.person.browser
    page = await browser.submit(await browser.open(customer.person.page), "Add a key", {"name": name}, action="/keys")

    async def look() -> tuple[int, str]:
        page = await browser.open(customer.person.page)
        box = page.tree.xpath(f"//div[starts-with(@id, 'key-')][h3[text()='{name}']]")[0]
        number = int(box.get("id").removeprefix("key-"))
        return number, secret_of(await browser.submit(page, "Show", action=f"/keys/{number}/show"))

    assert page.has(name)
    number, key = await eventually(f"the key {name}", look, bool)
    await becomes(world, key, 200)
    return number, key


async def test_further_keys_draw_on_one_allowance_and_a_revoked_one_stops_alone(shop: World) -> None:
    customer = await shop.join("team")  # one call
    first = customer.person.key
    number, second = await add_key(shop, customer, "Importer")
    _, third = await add_key(shop, customer, "Exporter")  # each was called once to see it work
    assert not (await customer.person.browser.open(customer.person.page)).has("Add a key"), "the plan has three keys"
    for key in (first, second, third):
        assert await answers(shop, key, 5) == [200] * 5
    browser = customer.person.browser
    await browser.submit(await browser.open(customer.person.page), "Revoke key", action=f"/keys/{number}/revoke")
    await becomes(shop, second, 401)
    await shop.clock.settle()
    (quota,) = (await standing(shop, customer))["quotas"]
    left = quota["remaining"]
    assert 0 < left <= 12  # what the revoked key used is not given back
    assert await answers(shop, first, left) == [200] * left
    for key in (first, third):
        refused = await call(shop, key)
        assert (refused.status_code, refused.json().get("code"), refused.json().get("limit")) == (403, "quota_exceeded", 30)
    await shop.clock.settle()
    (quota,) = (await standing(shop, customer))["quotas"]
    assert (quota["used"], quota["remaining"]) == (30, 0)
    assert await announced(shop, customer) == [0.5, 0.8, 1.0]
    end = await shop.end_the_month()
    assert min((await owed(shop, customer, customer.start, end)).values()) == 30 * CALL


async def test_access_outlives_the_last_failed_try_by_the_grace_and_all_keys_come_back_on_payment(shop: World) -> None:
    customer = await shop.join("team")
    first = customer.person.key
    _, second = await add_key(shop, customer, "Importer")
    await customer.person.change_card(CARD_THAT_FAILS_LATER)
    await shop.end_the_month()
    while await shop.stripe.status(customer.stripe_id) == "past_due":
        await shop.clock.advance_by(timedelta(days=1))
    assert await shop.stripe.status(customer.stripe_id) == "unpaid"
    await shop.clock.advance_by(timedelta(days=3, hours=23))  # of five days, at most one is over
    assert await answers(shop, first, 1) + await answers(shop, second, 1) == [200, 200]
    await shop.clock.advance_by(timedelta(days=1, hours=1))
    for key in (first, second):
        await becomes(shop, key, 401)
    assert (await customer.person.browser.open(customer.person.page)).has("Your key is refused until it is paid")
    await customer.person.change_card(GOOD_CARD)
    for key in (first, second):
        await becomes(shop, key, 200)
    await shop.clock.settle()
    changes = [(access, reason) for _, access, reason in await shop.access(customer)]
    assert [one for one in changes if one[1] == "payment_failed"] == [("suspended", "payment_failed")]
    assert changes[-1] == ("granted", "subscribed")


async def test_a_soft_limit_is_announced_once_at_each_threshold_and_what_is_beyond_is_billed(shop: World) -> None:
    customer = await shop.join("soft")
    for _ in range(3):
        assert await answers(shop, customer.person.key, 11) == [200] * 11
        await shop.clock.settle()
    assert await announced(shop, customer) == [0.5, 1.0, 1.5]
    (quota,) = (await standing(shop, customer))["quotas"]
    assert (quota["used"], quota["remaining"], quota["stops"]) == (34, 0, False)
    assert (await customer.person.browser.open(customer.person.page)).has("14 calls above what is included")
    end = await shop.end_the_month()
    assert await announced(shop, customer) == [0.5, 1.0, 1.5]
    lines = await owed(shop, customer, customer.start, end)
    assert min(lines.values()) == 14 * CALL, lines
    assert len(lines) == 2, lines  # the fee and what is beyond


async def late(world: World, customer: Customer) -> Any:
    """Return what became of a customer's late usage, once it has been looked at."""

    async def ask() -> Any:
        return await world.doors.ask("usage_collector", "GET", "/v1/late", params={"subscription_id": customer.subscription_id})

    (found,) = await eventually("late usage to be looked at", ask, lambda found: len(found) == 1 and not found[0]["pending"])
    return found


async def test_late_usage_is_billed_waived_or_kept_for_a_person_as_the_plan_says(shop: World) -> None:
    billed, waived, kept = [await shop.join(product) for product in ("late-next", "late-waive", "late-hold")]
    for customer in (billed, waived, kept):
        await shop.send_usage(customer, 900)
    end = await shop.end_the_month()
    for customer in (billed, waived, kept):
        await shop.send_usage(customer, 500, at=end - timedelta(hours=1))
    assert (await late(shop, billed))["billed"] == {"calls": {"quantity": 500, "events": 1}}
    assert (await late(shop, waived))["waived"] == {"calls": {"quantity": 500, "events": 1}}
    found = await late(shop, kept)
    assert (found["disposition"], found["billed"], found["held_events"]) == ("keep", {}, 1)
    decision = {"subscription_id": kept.subscription_id, "segment_start": found["segment_start"], "disposition": "bill", "by": "finance"}
    await shop.clock.settle()
    assert await upcoming(shop, billed) == {
        f"Late usage: +500 API calls, {end - timedelta(hours=1):%-d %B %Y}": 60
    }  # 400 of 500 are beyond 1,000
    assert await upcoming(shop, waived) == await upcoming(shop, kept) == {}
    await shop.doors.ask("usage_collector", "POST", "/v1/late/decisions", body=decision)
    assert (await late(shop, kept))["billed"] == {"calls": {"quantity": 500, "events": 1}}
    await shop.clock.settle()
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["usage", "show", billed.subscription_id, "--data", str(shop.stack.folder)])
    assert "Bill so far: USD 0.60, without tax; USD 0.60 of it for usage of earlier periods" in shown.stdout, shown.output
    await shop.end_the_month()
    totals = [[invoice.total for invoice in await shop.stripe.invoices(one.stripe_id) if invoice.total] for one in (billed, waived, kept)]
    assert totals == [[60], [135], [75, 135]]


async def upcoming(world: World, customer: Customer) -> dict[str, int]:
    """Return what waits at Stripe for the customer's next invoice."""
    found = await world.stripe.client.v1.subscriptions.retrieve_async(customer.stripe_id)
    page = await world.stripe.client.v1.invoice_items.list_async({"customer": str(found.customer), "pending": True, "limit": 100})
    return {item.description or "": item.amount for item in page.data}
