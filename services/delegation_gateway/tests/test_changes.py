"""The pages that change a plan: what is offered, what it costs, one wish per form, what is told while it goes on."""

import re
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.catalogue import Catalogue
from billing_common.clock import BusinessClock
from billing_common.events import (
    CatalogueApplied,
    SubscriptionChangeProgressed,
    SubscriptionChangeRequested,
    SubscriptionChangeWithdrawn,
    SubscriptionDeleted,
)
from billing_common.plan_changes import Sold, lines_of_change
from billing_common.testing import events_in_outbox
from delegation_gateway import changes
from delegation_gateway.parts import Parts
from turnpike_ui.formats import money

from .conftest import RecordedCheckout, Story


@pytest.fixture
async def running(story: Story, parts: Parts) -> Story:
    """A paid subscription in the middle of its month."""
    clock: BusinessClock = parts.clock
    middle = story.start + timedelta(days=45)
    clock.set_offset(clock.offset + (middle - clock.now()))
    story.start, story.end = story.end, (story.end + timedelta(days=32)).replace(day=1)
    await story.state()
    await story.access()
    return story


async def requests(connection: asyncpg.Connection) -> list[SubscriptionChangeRequested]:
    return await events_in_outbox(connection, SubscriptionChangeRequested)


async def confirm(story: Story, product: str, when: str, **fields: str) -> Any:
    page = await story.page(f"/change/{product}")
    action = f"/subscriptions/{story.subscription_id}/change/{product}"
    return await story.member.browser.submit(page, action, **({"when": when} | fields))


async def progress(story: Story, change_id: str, state: str, revision: int = 1, **facts: Any) -> None:
    given: dict[str, Any] = {"product_id": "pro", "catalogue_version": 1, "effective_at": story.parts.clock.now(), **facts}
    await story.publish(
        SubscriptionChangeProgressed(**story._common(), change_id=change_id, revision=revision, state=state, **given)  # type: ignore[arg-type]
    )


async def test_the_page_offers_what_is_possible_and_says_why_the_rest_is_not(running: Story) -> None:
    assert f'href="/subscriptions/{running.subscription_id}/change"' in (await running.page()).text
    page = (await running.page("/change")).text
    assert "You are on Standard" in page
    for product in ("developer", "payg", "basic", "pro", "enterprise"):
        assert f"/change/{product}" in page
    assert "/change/standard" not in page
    assert "A free plan has no card" in page


async def test_the_amount_that_is_shown_is_the_amount_that_is_asked_for(
    running: Story, connection: asyncpg.Connection, catalogue: Catalogue
) -> None:
    page = await running.page("/change/pro")
    shown_at = datetime.fromisoformat(page.text.split('name="shown_at" value="')[1].split('"')[0].replace("&#43;", "+"))
    old, new = (Sold(catalogue, catalogue.product(name)) for name in ("standard", "pro"))
    lines = lines_of_change(old, new, at=shown_at, started_at=running.start, plan_since=running.start, currency="usd")
    due = money(sum(line.amount_minor for line in lines), "usd")
    assert f"Change now and pay {due}" in page.text
    assert all(money(line.amount_minor, "usd") in page.text for line in lines)
    answer = await running.member.browser.submit(
        page, f"/subscriptions/{running.subscription_id}/change/pro", when="now", shown_at=shown_at.isoformat()
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"/subscriptions/{running.subscription_id}")
    [event] = await requests(connection)
    assert (event.product_id, event.when, event.prorate_at, event.user_id) == ("pro", "now", shown_at, running.member.user_id)


async def test_a_smaller_plan_is_suggested_for_the_end_of_the_period(running: Story, connection: asyncpg.Connection) -> None:
    page = (await running.page("/change/basic")).text
    assert page.index("Nothing is charged today") < page.index("apply within seconds")
    assert "Taken off your next invoices" in page
    await confirm(running, "basic", "period_end")
    [event] = await requests(connection)
    assert (event.when, event.prorate_at) == ("period_end", None)


async def test_a_plan_whose_limit_is_used_up_already_waits_for_the_next_month(running: Story, connection: asyncpg.Connection) -> None:
    await running.usage(50_000)
    page = (await running.page("/change/basic")).text
    assert "You have used 50,000 this month and Basic stops at 50,000" in page
    assert (await confirm(running, "basic", "now")).status_code == 409
    assert await requests(connection) == []


async def test_the_same_form_is_one_wish_and_another_one_waits(running: Story, connection: asyncpg.Connection) -> None:
    page, other = await running.page("/change/pro"), await running.page("/change/basic")
    action = f"/subscriptions/{running.subscription_id}/change/"
    shown = (running.parts.clock.now() - timedelta(seconds=2)).replace(microsecond=0).isoformat()
    for _ in range(2):
        assert (await running.member.browser.submit(page, f"{action}pro", when="now", shown_at=shown)).status_code == 303
    refused = await running.member.browser.submit(other, f"{action}basic", when="period_end")
    assert (refused.status_code, len(await requests(connection))) == (409, 1)
    assert "under way" in refused.text


@pytest.mark.parametrize("minutes", [-16, 2])
async def test_an_amount_shown_too_long_ago_is_shown_anew(running: Story, connection: asyncpg.Connection, minutes: int) -> None:
    shown = (running.parts.clock.now() + timedelta(minutes=minutes)).isoformat()
    answer = await confirm(running, "pro", "now", shown_at=shown)
    assert answer.status_code == 409
    assert "Look once more" in answer.text
    assert await requests(connection) == []


async def test_an_amount_of_a_catalogue_that_was_replaced_since_is_shown_anew(
    running: Story, connection: asyncpg.Connection, catalogue: Catalogue
) -> None:
    page = await running.page("/change/pro")
    document = catalogue.document()
    next(one for one in document["products"] if one["id"] == "pro")["price"]["base"] = "549.95"
    await running.publish(CatalogueApplied(cause_id="second", occurred_at=running.parts.clock.now(), version=2, document=document))
    answer = await running.member.browser.submit(page, f"/subscriptions/{running.subscription_id}/change/pro", when="period_end")
    assert (answer.status_code, "Look once more" in answer.text, "$549.95" in answer.text) == (409, True, True)
    assert await requests(connection) == []
    await running.member.browser.submit(answer, f"/subscriptions/{running.subscription_id}/change/pro", when="period_end")
    assert [event.catalogue_version for event in await requests(connection)] == [2]


REFUSED = [
    ({"status": "past_due"}, "pay it first"),
    ({"status": "trialing"}, "A trial runs to its end first"),
    ({"cancel_at_period_end": True}, "can only end"),
]


@pytest.mark.parametrize(("facts", "words"), REFUSED)
async def test_a_subscription_that_cannot_change_says_so_and_offers_nothing(running: Story, facts: dict[str, Any], words: str) -> None:
    await running.state(revision=2, **facts)
    assert "Change plan" not in (await running.page()).text
    for step in ("/change", "/change/pro"):
        page = await running.page(step)
        assert (page.status_code, words in page.text) == (409, True)


async def test_another_account_and_a_foreign_form_change_nothing(running: Story, stranger: Any, connection: asyncpg.Connection) -> None:
    own = f"/subscriptions/{running.subscription_id}/change"
    for address in (own, f"{own}/pro"):
        assert (await stranger.browser.get(address)).status_code == 404
    token = (await stranger.browser.get("/subscriptions")).text.split('name="form_token" value="')[1].split('"')[0]
    fields = {"form_token": token, "form_id": "f", "when": "now", "shown_at": running.parts.clock.now().isoformat()}
    assert (await stranger.browser.post(f"{own}/pro", **fields)).status_code == 404
    assert (await stranger.browser.post(f"{own}/withdraw", form_token=token, change_id="x")).status_code == 404
    assert (await running.member.browser.post(f"{own}/pro", **(fields | {"form_token": "made up"}))).status_code == 403
    assert await requests(connection) == []


async def test_unknown_plans_and_plans_of_other_subscriptions_are_refused(running: Story) -> None:
    assert (await running.page("/change/nothing")).status_code == 404
    assert (await running.page("/change/free")).status_code == 409
    assert (await running.page("/change/standard")).status_code == 404


async def test_the_page_tells_how_a_change_goes_on(running: Story, connection: asyncpg.Connection) -> None:
    await confirm(running, "pro", "now")
    [event] = await requests(connection)
    waiting = await running.page()
    assert "Changing to Pro" in waiting.text
    assert waiting.headers["refresh"] == "1"
    assert "Change plan" not in waiting.text
    await progress(running, str(event.event_id), "made")
    assert "Changing to Pro" in (await running.page()).text  # until the state says so too
    await running.state(revision=2, product_id="pro", plan_since=running.parts.clock.now())
    page = await running.page()
    assert "You are on Pro now" in page.text
    assert "refresh" not in page.headers


@pytest.mark.parametrize(("reason", "words", "card"), [
    ("card_declined", "Your card was declined.", True), ("authentication_required", "Your bank wants you to confirm", True),
    ("unpaid_invoice", "An invoice is open", False), ("strange", "refused it", False),
])  # fmt: skip
async def test_a_change_that_failed_says_why_and_leads_on(
    running: Story, connection: asyncpg.Connection, reason: str, words: str, *, card: bool
) -> None:
    await confirm(running, "pro", "now")
    [event] = await requests(connection)
    await progress(running, str(event.event_id), "failed", 2, reason=reason)
    await progress(running, str(event.event_id), "made", 1)  # older
    page = (await running.page()).text
    assert words in page
    assert ("Use another card" in page) is card
    assert "/change/pro" in page
    await confirm(running, "pro", "now")
    assert len(await requests(connection)) == 2


async def test_a_planned_change_can_be_taken_back_once(running: Story, connection: asyncpg.Connection) -> None:
    await confirm(running, "basic", "period_end")
    [event] = await requests(connection)
    await progress(running, str(event.event_id), "scheduled", product_id="basic", effective_at=running.end)
    page = await running.page()
    assert "Changes to Basic on" in page.text
    action = f"/subscriptions/{running.subscription_id}/change/withdraw"
    for _ in range(2):
        assert (await running.member.browser.submit(page, action)).status_code == 303
    [back] = await events_in_outbox(connection, SubscriptionChangeWithdrawn)
    assert (back.change_id, back.subscription_id) == (str(event.event_id), running.subscription_id)
    await progress(running, str(event.event_id), "withdrawn", 2, product_id="basic", effective_at=running.end)
    assert "Changes to Basic" not in (await running.page()).text


async def test_new_prices_of_the_provider_are_told_and_cannot_be_taken_back(
    running: Story, connection: asyncpg.Connection, catalogue: Catalogue
) -> None:
    document = catalogue.document()
    next(one for one in document["products"] if one["id"] == "standard")["price"]["base"] = "99.95"
    await running.publish(CatalogueApplied(cause_id="second", occurred_at=running.parts.clock.now(), version=2, document=document))
    await progress(running, "m-1", "scheduled", product_id="standard", catalogue_version=2, effective_at=running.end)
    page = await running.page()
    assert "New prices from" in page.text
    assert "$99.95 a month" in page.text
    assert "/change/withdraw" not in page.text
    token = page.text.split('name="form_token" value="')[1].split('"')[0]
    await running.member.browser.post(f"/subscriptions/{running.subscription_id}/change/withdraw", form_token=token, change_id="m-1")
    assert await events_in_outbox(connection, SubscriptionChangeWithdrawn) == []


async def test_the_customers_own_change_takes_the_place_of_new_prices_that_wait(running: Story, connection: asyncpg.Connection) -> None:
    planned: dict[str, Any] = {"product_id": "standard", "effective_at": running.end}
    await progress(running, "m-1", "scheduled", **planned)
    assert "Change plan" in (await running.page()).text
    assert "The new prices of Standard from" in (await running.page("/change/pro")).text
    await confirm(running, "pro", "now")
    [event] = await requests(connection)
    assert "Changing to Pro" in (await running.page()).text
    await progress(running, "m-1", "withdrawn", 2, reason="replaced", **planned)
    await progress(running, str(event.event_id), "failed", reason="card_declined")
    await progress(running, "m-2", "scheduled", **planned)  # planned again
    page = (await running.page()).text
    assert "New prices from" in page
    assert "The plan was not changed to Pro" in page
    assert "/change/withdraw" not in page
    await progress(running, "m-2", "closing", 2, **planned)
    assert "It takes a few seconds" in (await running.page("/change/pro")).text


async def test_the_bill_of_a_period_with_two_plans_has_both_each_with_its_own_usage(running: Story, catalogue: Catalogue) -> None:
    at = running.start + timedelta(days=10)
    await running.usage(100_150)
    await running.state(revision=2, product_id="pro", plan_since=at)
    started = running.start
    running.start, running.product_id = at + timedelta(seconds=1), "pro"
    await running.usage(500_009)
    running.start = started
    page = (await running.page()).text
    old, new = (Sold(catalogue, catalogue.product(name)) for name in ("standard", "pro"))
    change = lines_of_change(old, new, at=at, started_at=started, plan_since=started, currency="usd")
    total = 8995 + 15 + 1 + sum(line.amount_minor for line in change)
    assert money(total, "usd") in page
    assert "Standard, until" in page
    assert "Pro, since then" in page
    assert "500,009" in page
    assert all(money(line.amount_minor, "usd") in page for line in change)


def charge(story: Story, amount_minor: int, **fields: Any) -> dict[str, Any]:
    """A correction of a closed period as checkout lists it."""
    known = {"subscription_id": story.subscription_id, "description": "Late usage: +500 API calls", "currency": "usd", "placed": None}
    return known | {"amount_minor": amount_minor, "made_at": (story.start + timedelta(days=2)).isoformat()} | fields


async def test_usage_of_earlier_periods_that_is_billed_with_this_one_is_in_the_bill_so_far(
    running: Story, checkout: RecordedCheckout
) -> None:
    checkout.told_charges = [
        charge(running, 60),
        charge(running, 35, placed="own_invoice", description="Correction of usage"),
        charge(running, 7_777, placed="draft"),
        charge(running, 8_888, made_at=(running.start - timedelta(days=1)).isoformat()),
        charge(running, 9_999, subscription_id="another"),
    ]
    text = " ".join(re.sub(r"<[^>]+>", " ", (await running.page()).text).split())
    assert "Usage of earlier periods Late usage: +500 API calls $0.60 Correction of usage on an invoice of its own $0.35" in text
    assert f"Total {money(8995 + 95, 'usd')}" in text
    assert not {"$77.77", "$88.88", "$99.99"} & set(text.split())
    checkout.fails = True
    text = " ".join(re.sub(r"<[^>]+>", " ", (await running.page()).text).split())
    assert "cannot be looked up just now" in text
    assert f"Total {money(8995, 'usd')}" in text


async def test_a_request_that_was_not_paid_makes_room_when_another_subscription_comes_to_its_plan(
    running: Story, connection: asyncpg.Connection
) -> None:
    second = await running.member.subscribe("pro", "Second")
    await running.state(revision=2, product_id="pro", plan_since=running.parts.clock.now())
    rows = await connection.fetch("select subscription_id, product_id, state from requests order by requested_at")
    assert [tuple(row) for row in rows] == [(running.subscription_id, "pro", "live"), (second, "pro", "expired")]


async def test_the_cancel_page_says_that_the_free_plan_follows(running: Story, catalogue: Catalogue) -> None:
    assert "free plan" not in (await running.page("/cancel")).text
    document = catalogue.document()
    next(one for one in document["products"] if one["id"] == "standard")["on_end"] = "free"
    await running.publish(CatalogueApplied(cause_id="second", occurred_at=running.parts.clock.now(), version=2, document=document))
    await running.state(revision=2, catalogue_version=2)
    assert "you go on with the free plan" in (await running.page("/cancel")).text
    await running.state(SubscriptionDeleted, revision=3, status="canceled", ended_at=running.parts.clock.now())
    assert (await running.page("/change")).status_code == 409


def test_every_reason_has_words() -> None:
    assert changes.words_of(None).endswith(".")
    declined = changes.CARD_REASONS - changes.CONFIRMATION_REASONS
    assert {changes.words_of(reason) for reason in declined} == {"Your card was declined."}
    assert all("change with the next period" in changes.words_of(reason) for reason in changes.CONFIRMATION_REASONS)
