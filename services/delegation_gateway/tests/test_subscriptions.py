"""The page of a running subscription: state, usage, bill, invoices, cancelling; and who may see it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.events import (
    AccessGranted,
    AccessSuspended,
    CatalogueApplied,
    InvoicePaid,
    InvoicePaymentFailed,
    SubscriptionCancellationRequested,
    SubscriptionDeleted,
    SubscriptionUpdated,
    UsageCollected,
)
from billing_common.testing import events_in_outbox
from delegation_gateway.parts import Parts

from .conftest import Story

Publish = Callable[..., Any]


async def test_usage_and_bill_come_from_the_newest_revisions_and_agree_with_the_price(story: Story) -> None:
    await story.state()
    await story.access()
    await story.usage(120_000, revision=2)
    await story.usage(90_000, revision=1)
    page = await story.page()
    for words in ("120,000", "of 100,000 included", "20,000 calls above", "$109.95", "$89.95", "$20.00", "Active"):
        assert words in page.text


async def test_windows_of_other_periods_do_not_count_into_this_one(story: Story) -> None:
    await story.state()
    await story.usage(500, hour=story.start)
    await story.usage(7_000, hour=story.start - timedelta(hours=1))
    await story.usage(9_000, hour=story.end)
    assert ">500<" in (await story.page()).text


async def test_an_older_state_that_comes_late_changes_nothing(story: Story, connection: asyncpg.Connection) -> None:
    await story.state(SubscriptionDeleted, revision=3, status="canceled", ended_at=story.start)
    await story.state(SubscriptionUpdated, revision=2, status="active")
    assert await connection.fetchval("select status from subscriptions") == "canceled"
    assert await connection.fetchval("select state from requests") == "ended"


async def test_access_and_invoices_keep_the_newest_revision_whatever_comes_last(story: Story, connection: asyncpg.Connection) -> None:
    await story.state()
    await story.access(AccessGranted, revision=3)
    await story.access(AccessSuspended, revision=2)
    await story.invoice(InvoicePaid, revision=2)
    await story.invoice(InvoicePaymentFailed, revision=1, status="open", remaining=10995)
    assert await connection.fetchval("select state from access") == "active"
    assert await connection.fetchval("select status from invoices") == "paid"


async def test_an_event_delivered_twice_is_kept_once(story: Story, publish: Publish, connection: asyncpg.Connection) -> None:
    values = {"product_id": "standard", "catalogue_version": 1, "meter_id": "calls", "segment_start": story.start, "hour": story.start}
    event = UsageCollected(**story._common(), **values, timestamp=story.start, quantity=5, revision=1)
    await publish(event)
    await publish(event)
    assert await connection.fetchval("select count(*) from inbox where consumer = 'delegation_gateway.usage.collected'") == 1


async def test_a_failed_payment_says_how_much_when_again_and_leads_to_the_card(story: Story, checkout: Any) -> None:
    await story.state(status="past_due")
    await story.access()
    again = story.end + timedelta(days=3)
    await story.invoice(InvoicePaymentFailed, status="open", remaining=10995, next_payment_attempt=again)
    page = await story.page()
    assert "Your payment of $109.95 did not go through" in page.text
    assert f"{again:%B %Y}" in page.text
    answer = await story.member.browser.submit(page, f"/subscriptions/{story.subscription_id}/billing")
    assert answer.headers["location"] == f"https://billing.stripe.com/p/{story.member.account_id}"
    assert checkout.billing == [(story.member.account_id, f"http://billing.test/subscriptions/{story.subscription_id}")]


async def test_the_grace_of_the_plan_is_told_when_there_is_no_further_try(story: Story, publish: Publish, catalogue: Catalogue) -> None:
    document = catalogue.document()
    for product in document["products"]:
        product["policies"]["dunning_grace_days"] = 7
    await publish(CatalogueApplied(cause_id="again", occurred_at=story.start, version=2, document=document))
    await story.state(status="unpaid", catalogue_version=2)
    await story.access()
    await story.invoice(InvoicePaymentFailed, status="open", remaining=10995)
    page = await story.page()
    assert "Your key works until 7 days after the last one" in page.text
    assert "Past due" in page.text
    assert "Suspended" not in page.text


async def test_a_quota_of_30_days_is_shown_with_its_own_window_not_with_the_period(
    story: Story, publish: Publish, catalogue: Catalogue, parts: Parts
) -> None:
    document = catalogue.document()
    for product in document["products"]:
        if product["id"] == "standard":
            product |= {"keys": 1, "quota": {"calls": 100_000, "window": "30_days"}}
    await publish(CatalogueApplied(cause_id="again", occurred_at=story.start, version=2, document=document))
    now = parts.clock.now()
    began = now - timedelta(days=20)
    await story.state(catalogue_version=2, started_at=began)
    await story.access()
    await story.usage(60_000, hour=began + timedelta(hours=1))
    await story.usage(45_000, hour=now - timedelta(hours=1))
    text = " ".join((await story.page()).text.split())
    assert "105,000 of 100,000" in text
    ends = began + timedelta(days=30)
    assert f'calls are refused until <time datetime="{ends.date()}">' in text


async def test_a_suspended_key_is_announced_and_the_banner_goes_when_it_is_paid(story: Story) -> None:
    await story.state(revision=1, status="unpaid")
    await story.access(AccessSuspended, revision=2, reason="payment_failed")
    await story.invoice(InvoicePaymentFailed, revision=1, status="open", remaining=10995)
    page = await story.page()
    assert "Your key is refused until it is paid" in page.text
    assert "Suspended" in page.text
    await story.invoice(InvoicePaid, revision=2, status="paid")
    await story.state(revision=2, status="active")
    await story.access(AccessGranted, revision=3)
    page = await story.page()
    assert "did not go through" not in page.text
    assert "Paid" in page.text


async def test_the_list_names_each_subscription_with_its_plan_and_state(story: Story) -> None:
    await story.state()
    page = await story.member.browser.get("/subscriptions")
    for words in ("Orders API", "Standard", "Active", "Renews on"):
        assert words in page.text


async def test_another_account_finds_nothing(story: Story, stranger: Any, connection: asyncpg.Connection) -> None:
    await story.state()
    await story.access()
    address = f"/subscriptions/{story.subscription_id}"
    for step in ("", "/ready", "/cancel", "/not-paid"):
        assert (await stranger.browser.get(address + step)).status_code == 404
    foreign = (await stranger.browser.get("/subscriptions")).text.split('name="form_token" value="')[1].split('"')[0]
    for step in ("/cancel", "/billing", "/pay", "/key"):
        answer = await stranger.browser.post(address + step, form_token=foreign, when="now")
        assert answer.status_code == 404
    link = stranger.link("Unsubscribe", subscriptionId=story.subscription_id)
    assert (await stranger.browser.get(link)).status_code == 404
    assert await events_in_outbox(connection, SubscriptionCancellationRequested) == []


async def test_unsubscribing_in_the_portal_leads_to_a_page_that_asks_when(story: Story, connection: asyncpg.Connection) -> None:
    await story.state()
    await story.access(sid="key-2")
    for sid in (story.subscription_id, "key-2"):
        answer = await story.member.browser.get(story.member.link("Unsubscribe", subscriptionId=sid))
        assert answer.headers["location"] == f"/subscriptions/{story.subscription_id}/cancel"
    page = await story.page("/cancel")
    assert page.text.index('value="period_end"') < page.text.index('value="now"')
    assert 'value="period_end" checked' in page.text
    assert await events_in_outbox(connection, SubscriptionCancellationRequested) == []


async def cancel(story: Story, when: str) -> Any:
    page = await story.page("/cancel")
    token = page.text.split('name="form_token" value="')[1].split('"')[0]
    return await story.member.browser.post(f"/subscriptions/{story.subscription_id}/cancel", form_token=token, when=when)


async def test_cancelling_is_announced_once_and_the_end_of_the_period_may_still_become_now(
    story: Story, connection: asyncpg.Connection
) -> None:
    await story.state()
    for when in ("period_end", "period_end", "now"):
        assert (await cancel(story, when)).status_code == 303
    events = await events_in_outbox(connection, SubscriptionCancellationRequested)
    assert [(event.when, event.user_id) for event in events] == [("period_end", story.member.user_id), ("now", story.member.user_id)]
    assert (await story.page("/cancel")).status_code == 409
    assert "This subscription is ending" in (await story.page()).text


async def test_a_cancellation_without_a_choice_or_without_the_form_does_nothing(story: Story, connection: asyncpg.Connection) -> None:
    await story.state()
    assert (await cancel(story, "tomorrow")).status_code == 422
    answer = await story.member.browser.post(f"/subscriptions/{story.subscription_id}/cancel", when="now")
    assert answer.status_code == 403
    assert await events_in_outbox(connection, SubscriptionCancellationRequested) == []


async def test_what_has_no_base_fee_ends_now_by_default(member: Any, applied: int, parts: Parts, publish: Publish) -> None:
    story = Story(member, parts, publish, await member.subscribe("payg"), "payg")
    await story.state()
    page = await story.page("/cancel")
    assert 'value="now" checked' in page.text


async def test_a_free_subscription_has_no_end_of_period_no_bill_and_no_invoices(
    member: Any, applied: int, parts: Parts, publish: Publish
) -> None:
    story = Story(member, parts, publish, await member.subscribe("free"), "free")
    await story.state(current_period_end=None, stripe_subscription_id=None)
    await story.usage(100)
    page = await story.page()
    assert "The limit is reached" in page.text
    assert "A free plan has no invoices" in page.text
    assert 'value="period_end"' not in (await story.page("/cancel")).text


async def test_an_ended_subscription_can_be_looked_at_but_not_cancelled_and_frees_its_product(story: Story) -> None:
    await story.state(SubscriptionDeleted, revision=2, status="canceled", ended_at=story.start)
    assert "Ended" in (await story.page()).text
    assert (await story.page("/cancel")).status_code == 409
    assert (await story.member.browser.get(story.member.subscribe_link(salt="bmV3"))).status_code == 200


async def test_a_renew_link_leads_to_the_page_that_says_when_it_renews(story: Story) -> None:
    await story.state()
    answer = await story.member.browser.get(story.member.link("Renew", subscriptionId=story.subscription_id))
    assert answer.headers["location"] == f"/subscriptions/{story.subscription_id}"
    assert "Renews on" in (await story.page()).text


async def test_a_subscription_made_elsewhere_becomes_known_by_its_state(member: Any, applied: int, parts: Parts, publish: Publish) -> None:
    story = Story(member, parts, publish, "3f0f3c52-0000-4000-8000-000000000000", "pro")
    await story.state()
    assert (await story.page()).status_code == 200
    assert (await member.browser.get(member.subscribe_link("pro"))).status_code == 409
