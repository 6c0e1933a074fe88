"""A subscription's life as its consumer sees it: free plans, links, double clicks, a card that fails and comes back, leaving."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from dateutil.relativedelta import relativedelta
from whole_system import AFTER_MIDNIGHT, World, eventually

from turnpike_cli.story.browser import StoryError
from turnpike_cli.story.people import CARD_THAT_FAILS_LATER, GOOD_CARD

pytestmark = pytest.mark.timeout(420)


async def test_a_free_plan_needs_no_card_and_knows_nothing_of_stripe(world: World) -> None:
    customer = await world.join("free")
    await customer.person.call_many(world.http, 9, failing=3)
    await world.clock.settle()
    assert customer.person.calls == {200: 7, 404: 2, 500: 1}
    assert await world.check_period(customer, customer.start, customer.start + timedelta(days=1)) == {"calls": 7}
    with pytest.raises(LookupError):
        await world.stripe.subscription(customer.subscription_id)
    await customer.person.unsubscribe("now")
    await world.answers(customer, 401)
    await world.clock.settle()
    assert [access for _, access, _ in await world.access(customer)] == ["granted", "suspended", "revoked"]


async def test_a_subscribe_link_is_refused_when_used_again_and_when_another_opens_it(world: World) -> None:
    person, offer = await world.offer("free")
    thief = world.stranger("free")
    await thief.sign_up()
    stolen = await thief.browser.open(offer.url)
    assert 400 <= stolen.status < 500, stolen
    with pytest.raises(StoryError):
        stolen.form("", action="/apim-delegation")
    nobody = await world.stranger("free").browser.open(offer.url)
    assert nobody.status >= 400 or "/sign-in" in nobody.url, nobody
    await person.order(offer)
    await world.welcome(person)
    again = await person.browser.open(offer.url)
    assert again.status in {403, 409, 410}, again
    tampered = await person.browser.open(offer.url.replace("productId=free", "productId=payg"))
    assert tampered.status == 403, tampered


async def test_a_double_click_on_order_makes_one_checkout_session_and_one_subscription(world: World) -> None:
    person, offer = await world.offer("payg")
    first, second = await asyncio.gather(person.order(offer), person.order(offer))
    assert first.url == second.url
    assert "/c/pay/" in first.url
    await person.pay(first)
    customer = await world.welcome(person)
    customers = {(await world.stripe.client.v1.subscriptions.retrieve_async(customer.stripe_id)).customer}
    page = await world.stripe.client.v1.checkout.sessions.list_async({"customer": str(*customers), "limit": 100})
    assert len(page.data) == 1
    theirs = await world.stripe.client.v1.subscriptions.list_async({"customer": str(*customers), "status": "all", "limit": 100})
    assert [found.id for found in theirs.data] == [customer.stripe_id]


async def test_leaving_now_bills_the_last_usage_on_a_last_invoice(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 180, failing=7)
    await customer.person.unsubscribe("now")
    await world.answers(customer, 401)
    await world.status_at_stripe(customer, "canceled")
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=2))
    ended = datetime.fromtimestamp((await world.stripe.subscription(customer.subscription_id)).ended_at, UTC)
    sent = sum(customer.person.calls.values())
    counted = await world.check_period(customer, customer.start, ended, sent=sent)
    assert counted["calls"] == customer.person.calls[200] >= 174
    assert [access for _, access, _ in await world.access(customer)] == ["granted", "suspended", "revoked"]
    invoices = await world.stripe.invoices(customer.stripe_id)
    assert sum(invoice.total for invoice in invoices) == round(counted["calls"] * 0.15)


async def test_webhooks_twice_and_backwards_do_not_change_a_life_from_payment_to_unpaid_and_back(world: World) -> None:
    """The whole life of a subscription under the worst that Stripe allows itself: every delivery doubled, and in reverse order."""
    earlier = await received(world)
    await world.webhooks(duplicate=True, reverse=True)
    customer = await world.join("standard")
    key = customer.person.key
    await customer.person.call_many(world.http, 20)
    end = await world.end_the_month()
    await world.check_period(customer, customer.start, end)
    await customer.person.change_card(CARD_THAT_FAILS_LATER)
    await world.clock.settle()
    await world.clock.advance_to(end + relativedelta(months=1) + AFTER_MIDNIGHT)
    assert await world.stripe.status(customer.stripe_id) == "past_due"
    await world.answers(customer, 200)
    await world.clock.advance_by(timedelta(days=30))
    await world.status_at_stripe(customer, "unpaid")
    await world.answers(customer, 401)
    assert (await customer.person.browser.open(customer.person.page)).has("suspended")
    await customer.person.change_card(GOOD_CARD)
    await world.answers(customer, 200)
    assert customer.person.key == key
    await world.clock.settle()
    await _check_one_life(world, customer.subscription_id, await world.access(customer), ["granted", "suspended", "restored"])
    stored, again = [count - before for count, before in zip(await received(world), earlier, strict=True)]
    assert again >= stored / 2 > 10, "the doubles never came, so nothing was proven"
    page = await customer.person.browser.open(customer.person.page)
    assert page.has("Active"), page
    paid = [invoice for invoice in await world.stripe.invoices(customer.stripe_id) if invoice.status == "paid"]
    assert page.text.lower().count("paid") >= len(paid) >= 3


async def received(world: World) -> list[float]:
    """Return how many webhooks were stored, and how many were known already, since the stack began."""
    name = "turnpike_webhooks_received_total"
    return [await world.sum_of_metric("webhook_ingress", name, outcome=one) for one in ("stored", "duplicate")]


async def _check_one_life(world: World, subscription_id: str, changes: list[tuple[int, str, str]], told: list[str]) -> None:
    """Check that access changed exactly so, and that each change was told exactly once."""
    assert [revision for revision, _, _ in changes] == list(range(1, len(told) + 1)), changes
    for name in ("granted", "suspended", "restored", "revoked"):
        records = {record.value for record in await world.records(f"access.{name}", subscription_id)}
        assert len(records) == told.count(name), f"access.{name}"


async def test_webhooks_held_back_and_released_at_once_end_in_the_same_state(world: World) -> None:
    person, offer = await world.offer("standard")
    await world.webhooks(hold=True)
    await person.pay(await person.order(offer))
    await asyncio.sleep(0.3)
    waiting = await person.browser.open(f"{person.page}/ready")
    assert not waiting.tree.xpath("//form[contains(@action, '/key')]"), "a key before Stripe has said anything"
    await world.webhooks(reverse=True, duplicate=True)
    customer = await world.welcome(person)
    await world.clock.settle()
    await _check_one_life(world, customer.subscription_id, await world.access(customer), ["granted"])
    page = await eventually(
        "the page of an active subscription", lambda: person.browser.open(person.page), lambda page: page.has("Active") and page.has("Paid")
    )
    assert page.status == 200
