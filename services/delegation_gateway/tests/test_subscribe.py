"""From the portal's Subscribe link to payment and key: once, by the right person, for the right product."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.catalogue import Catalogue
from billing_common.events import (
    AccessGranted,
    CatalogueApplied,
    CheckoutExpired,
    SubscriptionCreated,
    SubscriptionRequested,
    SubscriptionRequestFailed,
)
from billing_common.testing import events_in_outbox, topics_in_outbox
from delegation_gateway.parts import Parts

Publish = Callable[..., Any]


def created(subscription_id: str, member: Any, parts: Parts, **changes: Any) -> SubscriptionCreated:
    now = parts.clock.now()
    values = {
        "cause_id": f"created-{subscription_id}",
        "occurred_at": now,
        "subscription_id": subscription_id,
        "account_id": member.account_id,
        "user_id": member.user_id,
        "product_id": "standard",
        "catalogue_version": 1,
        "display_name": "Orders API",
        "revision": 1,
        "status": "active",
        "currency": "usd",
        "started_at": now,
        "current_period_start": now,
        "current_period_end": now + timedelta(days=20),
        "stripe_subscription_id": "sub_1",
    }
    return SubscriptionCreated(**(values | changes))


def granted(subscription_id: str, member: Any, parts: Parts, **changes: Any) -> AccessGranted:
    values = {
        "cause_id": f"granted-{subscription_id}",
        "occurred_at": parts.clock.now(),
        "subscription_id": subscription_id,
        "account_id": member.account_id,
        "user_id": member.user_id,
        "product_id": "standard",
        "sid": subscription_id,
        "revision": 1,
        "reason": "subscribed",
        "effective_at": parts.clock.now(),
    }
    return AccessGranted(**(values | changes))


async def test_the_page_shows_price_terms_and_examples_before_anything_is_asked(
    member: Any, applied: int, connection: asyncpg.Connection
) -> None:
    page = await member.browser.get(member.subscribe_link("standard"))
    for words in ("$89.95", "100,000 calls included", "then $0.10 for every 100 calls", "200,000 calls", "$189.95", "charged in advance"):
        assert words in page.text
    assert await connection.fetchval("select count(*) from requests") == 0


async def test_a_paid_product_leads_to_checkout_with_all_that_stripe_must_carry(
    member: Any, applied: int, connection: asyncpg.Connection, checkout: Any
) -> None:
    page = await member.browser.get(member.subscribe_link("standard"))
    answer = await member.browser.submit(page, "/apim-delegation", display_name=" Orders API ", consent="yes")
    [sent] = checkout.requests
    assert answer.status_code == 303
    assert answer.headers["location"] == f"https://checkout.stripe.com/c/{sent.subscription_id}"
    own = f"http://billing.test/subscriptions/{sent.subscription_id}"
    assert (sent.account_id, sent.user_id, sent.product_id) == (member.account_id, member.user_id, "standard")
    assert (sent.display_name, sent.currency, sent.catalogue_version) == ("Orders API", "usd", 1)
    assert (sent.success_url, sent.cancel_url) == (f"{own}/ready", f"{own}/not-paid")
    [event] = await events_in_outbox(connection, SubscriptionRequested)
    assert (event.subscription_id, event.user_id, event.product_id) == (sent.subscription_id, member.user_id, "standard")


async def test_a_double_click_leads_to_the_same_page_and_asks_once(
    member: Any, applied: int, connection: asyncpg.Connection, checkout: Any
) -> None:
    page = await member.browser.get(member.subscribe_link())
    answers = [await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes") for _ in range(2)]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    assert len(set(checkout.requests)) == 1
    assert len(await events_in_outbox(connection, SubscriptionRequested)) == 1


async def test_nobody_buys_at_a_price_that_was_not_shown(
    member: Any, applied: int, connection: asyncpg.Connection, checkout: Any, catalogue: Catalogue, publish: Publish, parts: Parts
) -> None:
    async def apply(version: int, text: str) -> None:
        document = json.loads(text)
        await publish(CatalogueApplied(cause_id=f"apply-{version}", occurred_at=parts.clock.now(), version=version, document=document))

    page = await member.browser.get(member.subscribe_link("standard"))
    text = json.dumps(catalogue.document())
    await apply(2, text.replace('"449.95"', '"459.95"'))  # another product's price
    dearer = text.replace('"89.95"', '"99.95"')
    await apply(3, dearer)
    again = await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes")
    assert again.status_code == 422
    assert "have changed since this page was opened" in again.text
    assert "$99.95" in again.text
    assert checkout.requests == []
    await apply(4, dearer.replace('"449.95"', '"459.95"'))
    bought = await member.browser.submit(again, "/apim-delegation", display_name="Orders", consent="yes")
    assert bought.status_code == 303  # its own price is still the one that was shown
    assert checkout.requests[0].catalogue_version == 4


async def test_a_free_product_goes_straight_to_its_key_without_checkout(member: Any, applied: int, checkout: Any) -> None:
    page = await member.browser.get(member.subscribe_link("free"))
    answer = await member.browser.submit(page, "/apim-delegation", display_name="Trial", consent="yes")
    assert answer.headers["location"].endswith("/ready")
    assert checkout.requests == []
    waiting = await member.browser.get(answer.headers["location"])
    assert waiting.headers["refresh"] == "1"


async def test_a_used_link_is_refused_when_opened_again_and_when_sent_from_another_tab(
    member: Any, applied: int, connection: asyncpg.Connection
) -> None:
    tabs = [await member.browser.get(member.subscribe_link()) for _ in range(2)]
    await member.browser.submit(tabs[0], "/apim-delegation", display_name="Orders", consent="yes")
    for answer in (
        await member.browser.get(member.subscribe_link()),
        await member.browser.submit(tabs[1], "/apim-delegation", display_name="Orders", consent="yes"),
    ):
        assert answer.status_code == 410
        assert "This link has been used" in answer.text
    assert await connection.fetchval("select count(*) from requests") == 1


async def test_a_link_of_somebody_else_is_refused_by_get_and_post(
    member: Any, stranger: Any, applied: int, connection: asyncpg.Connection
) -> None:
    assert (await stranger.browser.get(member.subscribe_link())).status_code == 403
    page = await stranger.browser.get(stranger.subscribe_link())
    forged = page.text.replace(stranger.user_id, member.user_id)
    assert forged != page.text
    answer = await stranger.browser.post(
        "/apim-delegation",
        **dict(
            pair.split("=", 1)
            for pair in member.subscribe_link().split("?")[1].replace("%3D", "=").replace("%2B", "+").replace("%2F", "/").split("&")
        ),
        form_token=page.text.split('name="form_token" value="')[1].split('"')[0],
        display_name="x",
        consent="yes",
    )
    assert answer.status_code == 403
    assert await connection.fetchval("select count(*) from requests") == 0


async def test_without_a_session_the_link_leads_through_signing_in_and_back(member: Any, applied: int) -> None:
    member.browser.client.cookies.clear()
    asked = await member.browser.get(member.subscribe_link())
    assert asked.status_code == 303
    page = await member.browser.get(asked.headers["location"])
    answer = await member.browser.submit(
        page, "/sign-in", email="ada@example.com", password="four words make one", next=member.subscribe_link()
    )
    assert (await member.browser.get(answer.headers["location"])).status_code == 200


async def test_a_post_without_the_form_token_of_the_session_does_nothing(member: Any, applied: int, connection: asyncpg.Connection) -> None:
    page = await member.browser.get(member.subscribe_link())
    answer = await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes", form_token="0" * 64)
    assert answer.status_code == 403
    assert await topics_in_outbox(connection) == ["account.registered"]


async def test_a_cross_site_post_does_nothing(member: Any, applied: int, connection: asyncpg.Connection) -> None:
    member.browser.client.headers["Sec-Fetch-Site"] = "cross-site"
    page = await member.browser.get(member.subscribe_link())
    answer = await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes")
    assert answer.status_code == 403
    assert await connection.fetchval("select count(*) from requests") == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"display_name": "", "consent": "yes"}, "Enter a name for this subscription"),
        ({"display_name": "x" * 101, "consent": "yes"}, "at most 100 characters"),
        ({"display_name": "a\nb", "consent": "yes"}, "on one line"),
        ({"display_name": "Orders"}, "Confirm that you agree"),
        ({"display_name": "Orders", "consent": "yes", "currency": "eur"}, "not sold in this currency"),
    ],
)
async def test_a_wrong_form_comes_back_with_the_reason(
    member: Any, applied: int, fields: dict[str, str], words: str, connection: Any
) -> None:
    page = await member.browser.get(member.subscribe_link())
    answer = await member.browser.submit(page, "/apim-delegation", **fields)
    assert answer.status_code == 422
    assert words in answer.text
    assert await connection.fetchval("select count(*) from requests") == 0


async def test_an_unknown_product_is_not_found_and_without_a_catalogue_nothing_is_sold(
    member: Any, publish: Publish, catalogue: Any, parts: Parts
) -> None:
    from billing_common.events import CatalogueApplied

    assert (await member.browser.get(member.subscribe_link())).status_code == 503
    await publish(CatalogueApplied(cause_id="x", occurred_at=parts.clock.now(), version=1, document=catalogue.document()))
    assert (await member.browser.get(member.subscribe_link("gold"))).status_code == 404


async def test_a_second_subscription_of_the_same_product_is_refused_with_the_way_to_the_first(
    member: Any, applied: int, publish: Publish, parts: Parts
) -> None:
    first = await member.subscribe()
    begun = await member.browser.get(member.subscribe_link(salt="b3RoZXI="))
    assert (begun.status_code, f"/subscriptions/{first}" in begun.text) == (409, True)
    assert "not been paid yet" in begun.text
    await publish(created(first, member, parts))
    live = await member.browser.get(member.subscribe_link(salt="b3RoZXI="))
    assert (live.status_code, "it can have several keys" in live.text) == (409, True)
    assert (await member.browser.get(member.subscribe_link("payg", salt="b3RoZXI="))).status_code == 200


async def test_two_links_sent_at_once_leave_one_subscription(member: Any, applied: int, connection: asyncpg.Connection) -> None:
    tabs = [await member.browser.get(member.subscribe_link(salt=salt)) for salt in ("b25l", "dHdv")]
    answers = [await member.browser.submit(tab, "/apim-delegation", display_name="Orders", consent="yes") for tab in tabs]
    assert [answer.status_code for answer in answers] == [303, 409]
    assert await connection.fetchval("select count(*) from requests") == 1


async def test_when_checkout_does_not_answer_the_request_is_kept_and_can_be_gone_on_with(
    member: Any, applied: int, checkout: Any, connection: asyncpg.Connection
) -> None:
    checkout.fails = True
    page = await member.browser.get(member.subscribe_link())
    answer = await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes")
    assert answer.status_code == 503
    assert "Nothing was charged" in answer.text
    checkout.fails = False
    subscription_id = await connection.fetchval("select subscription_id from requests")
    page = await member.browser.get(f"/subscriptions/{subscription_id}")
    again = await member.browser.submit(page, f"/subscriptions/{subscription_id}/pay")
    assert again.headers["location"] == f"https://checkout.stripe.com/c/{subscription_id}"


async def test_what_checkout_refuses_is_a_page_without_a_charge(member: Any, applied: int, checkout: Any) -> None:
    checkout.refuses = True
    page = await member.browser.get(member.subscribe_link())
    answer = await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes")
    assert (answer.status_code, "Nothing was charged" in answer.text) == (409, True)


async def test_an_expired_payment_page_frees_the_product_and_can_be_opened_again(
    member: Any, applied: int, publish: Publish, parts: Parts
) -> None:
    first = await member.subscribe()
    expired = CheckoutExpired(
        cause_id="e",
        occurred_at=parts.clock.now(),
        subscription_id=first,
        account_id=member.account_id,
        session_id="cs",
        payment_status="unpaid",
    )
    await publish(expired)
    assert (await member.browser.get(member.subscribe_link(salt="bmV3"))).status_code == 200
    page = await member.browser.get(f"/subscriptions/{first}/not-paid")
    assert (await member.browser.submit(page, f"/subscriptions/{first}/pay")).status_code == 303
    assert (await member.browser.get(member.subscribe_link(salt="bmV3"))).status_code == 409


async def test_an_expired_request_does_not_come_back_beside_a_newer_one(member: Any, applied: int, publish: Publish, parts: Parts) -> None:
    first = await member.subscribe()
    expired = CheckoutExpired(
        cause_id="e",
        occurred_at=parts.clock.now(),
        subscription_id=first,
        account_id=member.account_id,
        session_id="cs",
        payment_status="unpaid",
    )
    await publish(expired)
    page = await member.browser.get(member.subscribe_link(salt="bmV3"))
    await member.browser.submit(page, "/apim-delegation", display_name="Orders", consent="yes")
    old = await member.browser.get(f"/subscriptions/{first}/not-paid")
    answer = await member.browser.submit(old, f"/subscriptions/{first}/pay")
    assert (answer.status_code, "newer request" in answer.text) == (409, True)


async def test_the_ready_page_waits_until_the_key_is_there_and_shows_it_by_post_only(
    member: Any, applied: int, publish: Publish, parts: Parts, apim: Any
) -> None:
    subscription_id = await member.subscribe()
    address = f"/subscriptions/{subscription_id}/ready"
    waiting = await member.browser.get(address)
    assert ("refresh" in waiting.headers, "setting up" in waiting.text) == (True, True)
    await publish(created(subscription_id, member, parts))
    assert "Your key is being made" in (await member.browser.get(address)).text
    await publish(granted(subscription_id, member, parts))
    ready = await member.browser.get(address)
    assert ("refresh" in ready.headers, "Your key is ready" in ready.text) == (False, True)
    assert f"primary-of-{subscription_id}" not in ready.text
    shown = await member.browser.submit(ready, f"/subscriptions/{subscription_id}/key")
    assert f"primary-of-{subscription_id}" in shown.text
    assert f"secondary-of-{subscription_id}" in shown.text
    assert shown.headers["cache-control"] == "no-store"
    assert apim.keys_shown == [subscription_id]


async def test_a_key_is_never_shown_to_another_account_or_without_the_form(
    member: Any, stranger: Any, applied: int, publish: Publish, parts: Parts, apim: Any
) -> None:
    subscription_id = await member.subscribe()
    await publish(created(subscription_id, member, parts))
    await publish(granted(subscription_id, member, parts))
    foreign = (await stranger.browser.get("/subscriptions")).text.split('name="form_token" value="')[1].split('"')[0]
    assert (await stranger.browser.post(f"/subscriptions/{subscription_id}/key", form_token=foreign)).status_code == 404
    assert (await member.browser.post(f"/subscriptions/{subscription_id}/key")).status_code == 403
    assert (await member.browser.get(f"/subscriptions/{subscription_id}/key")).status_code == 405
    assert apim.keys_shown == []


async def test_a_refused_request_says_why_and_stops_waiting(member: Any, applied: int, publish: Publish, parts: Parts) -> None:
    subscription_id = await member.subscribe()
    failed = SubscriptionRequestFailed(
        cause_id="f",
        occurred_at=parts.clock.now(),
        subscription_id=subscription_id,
        account_id=member.account_id,
        reason="already_subscribed",
    )
    await publish(failed)
    page = await member.browser.get(f"/subscriptions/{subscription_id}/ready")
    assert "refresh" not in page.headers
    assert "has a subscription to this product already" in page.text


async def test_a_plan_of_our_own_page_takes_the_same_road(member: Any, applied: int) -> None:
    answer = await member.browser.get("/subscribe/payg")
    assert answer.headers["location"].startswith("/apim-delegation?operation=Subscribe&productId=payg")
    assert (await member.browser.get(answer.headers["location"])).status_code == 200
    assert (await member.browser.get("/subscribe/gold")).status_code == 404
