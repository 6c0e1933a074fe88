"""Pages as a browser sees them: forms with errors, declines, links that ended, requests from elsewhere."""

from typing import Any

import pytest


async def open_session(up: Any, **more: Any) -> Any:
    made = await up.make_catalogue()
    return await up.client.v1.checkout.sessions.create_async({
        "mode": "subscription", "line_items": [{"price": made["base"].id, "quantity": 1}], "cancel_url": "http://shop.example/no",
        "success_url": "http://shop.example/ok?s={CHECKOUT_SESSION_ID}", **more,
    })  # fmt: skip


async def test_the_checkout_page_says_what_is_due_and_may_lead_back_to_the_shop(up: Any) -> None:
    session = await open_session(up)
    page = await up.http.get(session.url)
    assert "Pay $89.95" in page.text
    assert "form-action 'self' http://shop.example;" in page.headers["content-security-policy"]
    assert "<style" not in page.text
    assert " style=" not in page.text


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("email", "nobody", "Enter an e-mail address in the form name@example.com"),
        ("number", "4242 4242 4242 4243", "Check the card number"),
        ("expiry", "01 / 20", "This card expired in 01/2020"),
        ("cvc", "x", "Enter the 3 or 4 digits"),
        ("name", "", "Enter the name on the card"),
    ],
)
async def test_a_field_that_does_not_fit_is_explained(up: Any, card: dict[str, str], field: str, value: str, words: str) -> None:
    session = await open_session(up)
    answer = await up.http.post(session.url, data={"email": "a@example.com", **card, field: value})
    assert answer.status_code == 422
    assert words in answer.text
    assert "<title>Error:" in answer.text
    assert card["number"] not in answer.text.replace("Use a test card: 4242 4242 4242 4242", "").replace('"nowrap">4242 4242 4242 4242', "")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("4000000000000002", "Your card was declined."),
        ("4000000000009995", "Your card has insufficient funds."),
        ("4000000000000341", "Your card was declined."),
        ("4111111111111111", "used a non test card"),
    ],
)
async def test_a_declined_card_buys_nothing(up: Any, card: dict[str, str], number: str, words: str) -> None:
    session = await open_session(up)
    answer = await up.http.post(session.url, data={"email": "a@example.com", **card, "number": number})
    assert answer.status_code == 422
    assert words in answer.text
    assert (await up.client.v1.subscriptions.list_async({"status": "all"})).data == []
    assert (await up.client.v1.customers.list_async()).data == []
    assert (await up.client.v1.checkout.sessions.retrieve_async(session.id)).status == "open"


async def test_paying_twice_buys_once(up: Any, card: dict[str, str]) -> None:
    session = await open_session(up)
    form = {"email": "a@example.com", **card}
    answers = [await up.http.post(session.url, data=form) for _ in range(2)]
    assert {answer.headers["location"] for answer in answers} == {f"http://shop.example/ok?s={session.id}"}
    assert len((await up.client.v1.subscriptions.list_async()).data) == 1


async def test_a_form_from_another_site_is_refused(up: Any, card: dict[str, str]) -> None:
    session = await open_session(up)
    answer = await up.http.post(session.url, data=card, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


async def test_links_that_ended_say_so(up: Any) -> None:
    session = await open_session(up)
    await up.client.v1.checkout.sessions.expire_async(session.id)
    assert (await up.http.get(session.url)).status_code == 410
    assert (await up.http.get("/p/session/nonsense")).status_code == 410
    assert (await up.http.get("/invoices/in_none")).status_code == 404


async def test_the_portal_cancels_at_the_periods_end_and_takes_it_back(up: Any) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}])
    portal = await up.client.v1.billing_portal.sessions.create_async({"customer": session.customer})
    act = f"{portal.url}/subscriptions/{session.subscription.id}"
    for verb, expected in (("cancel", True), ("keep", False)):
        assert (await up.http.post(f"{act}/{verb}")).status_code == 303
        found = await up.client.v1.subscriptions.retrieve_async(session.subscription.id)
        assert found.cancel_at_period_end is expected
        assert (await up.http.get(portal.url)).status_code == 200
    assert (await up.http.get(f"/invoices/{session.invoice}")).status_code == 200
    for page in ("/", "/webhooks"):
        assert (await up.http.get(page)).status_code == 200


async def test_an_open_checkout_ends_after_a_day_of_business_time(up: Any) -> None:
    session = await open_session(up)
    await up.move_to(session.expires_at)
    assert (await up.client.v1.checkout.sessions.retrieve_async(session.id)).status == "expired"
    assert [event.type for event in (await up.client.v1.events.list_async({"type": "checkout.session.expired"})).data]
