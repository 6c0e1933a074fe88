"""Why an invoice says what it says, as its owner sees it: the tree adds up, opens branch by branch, and is nobody else's."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from billing_common.events import InvoiceFinalized
from delegation_gateway.parts import Parts
from delegation_gateway.reporter_gateway import Bill, Day, Events

MARCH, APRIL = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC)
KEY = "standard:calls:1"
HOUR = MARCH + timedelta(days=3, hours=22)
FAILED = {"outcome": "filtered", "reason": "failed", "words": "answered with an error", "events": 3}


def bill(story: Any, **fields: Any) -> Bill:
    line: dict[str, Any] = {"period_start": MARCH, "period_end": APRIL, "quantity": None}
    days = [
        {"start": MARCH + timedelta(days=2), "quantity": 60_000, "amount_minor": 0, "not_counted": 0},
        {"start": MARCH + timedelta(days=3), "quantity": 50_500, "amount_minor": 1_050, "not_counted": 3},
    ]
    values: dict[str, Any] = {
        "invoice_id": "in_1", "subscription_id": story.subscription_id, "account_id": story.member.account_id, "number": "TP-0001",
        "currency": "usd", "total_minor": 12_545,
        "lines": [
            {**line, "line_id": "il_0", "description": "Standard, base fee", "amount_minor": 9_995, "kind": "base"},
            {**line, "line_id": "il_1", "description": "API calls", "amount_minor": 1_050, "quantity": 110_500, "kind": "usage"},
            {**line, "line_id": "il_2", "description": "Lunch", "amount_minor": 1_000, "kind": "unknown"},
        ],
        "usage": [{
            "key": KEY, "meter_id": "calls", "meter_name": "API calls", "product_id": "standard", "period_start": MARCH,
            "period_end": APRIL, "line_ids": ["il_1"], "quantity": 110_500, "amount_minor": 1_050, "counted": 110_500,
            "rated_minor": 1_050, "days": days, "not_counted": [FAILED],
        }],
    }  # fmt: skip
    return Bill.model_validate(values | fields)


def endpoint(template: str, quantity: int, **fields: Any) -> dict[str, Any]:
    return {
        "origin": "stream", "method": "GET", "template": template, "status": 200, "events": quantity, "quantity": quantity, **fields
    }  # fmt: skip


def opened(*endpoints: dict[str, Any]) -> Day:
    quantity = sum(one["quantity"] for one in endpoints)
    hour = {
        "start": HOUR, "quantity": quantity, "amount_minor": 1_000, "endpoints": endpoints, "not_counted": [FAILED], "difference": None
    }  # fmt: skip
    return Day.model_validate({"hours": [hour], "complete_until": None})


@pytest.fixture
async def billed(story: Any, reporter: Any) -> Any:
    """A paid invoice that the reporter can explain, with one day to open."""
    await story.state()
    await story.invoice(InvoiceFinalized)
    reporter.bills["in_1"] = bill(story)
    reporter.days[date(2027, 3, 4)] = opened(endpoint("/orders", 49_990), endpoint("", 10, origin="correction", method="", status=0))
    return story


def words(page: Any) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


def links(page: Any) -> list[str]:
    return [address.replace("&amp;", "&") for address in re.findall(r'href="(\?[^"#]*)', page.text)]


async def test_the_subscription_leads_to_the_invoice_and_its_lines_add_up_to_the_total(billed: Any) -> None:
    listed = await billed.page()
    assert f'href="/subscriptions/{billed.subscription_id}/invoices/in_1"' in listed.text
    page = await billed.page("/invoices/in_1")
    assert page.status_code == 200
    text = words(page)
    assert "API calls Calls that were counted" in text
    assert "Lunch Added by your provider" in text
    assert "Tax and discounts $5.00 Total $125.45" in text  # 99.95 + 10.50 + 10.00 + 5.00
    assert "Sum 3 110,500 $10.50" in text
    assert "answered with an error 3" in text
    assert page.headers["cache-control"] == "no-store"


async def test_a_day_opens_into_hours_and_endpoints_with_their_sum(billed: Any) -> None:
    page = await billed.page("/invoices/in_1")
    day = next(link for link in links(page) if "day=2027-03-04" in link)
    text = words(await billed.page(f"/invoices/in_1{day}"))
    assert "22:00 \N{EN DASH} 23:00 3 50,000 $10.00" in text
    assert "GET /orders 200 49,990 49,990 Correction by your provider none 10 10 Sum of the hour 50,000 50,000" in text


async def test_an_endpoint_opens_into_single_events_page_by_page(billed: Any, reporter: Any) -> None:
    one = {"source": "apim", "method": "GET", "template": "/orders", "status": 200, "counted": 2}
    reporter.pages = {
        None: Events.model_validate({"events": [{**one, "id": "call-1", "at": HOUR}], "next": "p2"}),
        "p2": Events.model_validate(
            {"events": [{**one, "id": "call-2", "at": HOUR}, {**one, "id": "later-plan", "at": APRIL}], "next": None}
        ),
    }
    day = await billed.page(f"/invoices/in_1?usage={KEY}&day=2027-03-04")
    address = next(link for link in links(day) if "outcome=counted" in link and "orders" in link)
    first = await billed.page(f"/invoices/in_1{address}")
    assert "call-1 apim , status 200 200 2" in words(first)
    assert reporter.asked[-1] == {
        "invoice": "in_1", "usage": KEY, "hour": HOUR.isoformat(), "meter_id": "calls", "outcome": "counted", "reason": "",
        "origin": "stream", "method": "GET", "template": "/orders", "status": 200, "after": None, "limit": 25,
    }  # fmt: skip
    second = await billed.page("/invoices/in_1" + next(link for link in links(first) if "after=p2" in link))
    assert "call-2" in second.text
    assert "later-plan" not in second.text  # the same hour, after the change of plan: it stands on another line
    assert "First page" in second.text


async def test_what_did_not_count_opens_into_its_events_too(billed: Any, reporter: Any) -> None:
    reporter.pages = {None: Events.model_validate({"events": [], "next": None})}
    day = await billed.page(f"/invoices/in_1?usage={KEY}&day=2027-03-04")
    page = await billed.page("/invoices/in_1" + next(link for link in links(day) if "reason=failed" in link))
    assert (reporter.asked[-1]["outcome"], reporter.asked[-1]["reason"], "meter_id" in reporter.asked[-1]) == ("filtered", "failed", False)
    assert "No events of this kind are kept for this hour any more" in page.text


async def test_many_endpoints_end_in_one_row_and_the_hour_still_adds_up(billed: Any, reporter: Any) -> None:
    reporter.days[date(2027, 3, 4)] = opened(*(endpoint(f"/orders/{n}", n) for n in range(1, 61)))
    text = words(await billed.page(f"/invoices/in_1?usage={KEY}&day=2027-03-04"))
    assert "10 further endpoints The CSV names them 55 55" in text
    assert "Sum of the hour 1,830 1,830" in text


async def test_a_year_of_days_is_shown_page_by_page(billed: Any, reporter: Any) -> None:
    usage = reporter.bills["in_1"].usage[0]
    days = [usage.days[0].model_copy(update={"start": MARCH + timedelta(days=n), "quantity": 1}) for n in range(70)]
    reporter.bills["in_1"] = bill(billed).model_copy(update={"usage": (usage.model_copy(update={"days": tuple(days)}),)})
    page = await billed.page(f"/invoices/in_1?usage={KEY}&page=3")
    assert len(re.findall(r'id="day-', page.text)) == 8
    assert "Page 3 of 3" in page.text
    assert "Sum of all pages 0 110,500 $10.50" in words(page)


async def test_a_line_that_bills_more_than_was_counted_says_so_and_still_adds_up(billed: Any, reporter: Any) -> None:
    usage = bill(billed).usage[0].model_copy(update={"counted": 110_000, "rated_minor": 1_000})
    reporter.bills["in_1"] = bill(billed).model_copy(update={"usage": (usage,)})
    text = words(await billed.page("/invoices/in_1"))
    assert "This line does not bill exactly what was counted" in text
    assert "Billed beyond what was counted 500 $0.50 Sum 3 110,500 $10.50" in text


async def test_the_whole_explanation_is_downloaded_as_csv(billed: Any) -> None:
    answer = await billed.page("/invoices/in_1/usage.csv?level=events")
    assert answer.text == "invoice,level\r\nin_1,events\r\n"
    assert answer.headers["content-disposition"] == 'attachment; filename="invoice-TP-0001-events.csv"'
    assert answer.headers["content-type"].startswith("text/csv")
    assert (await billed.page("/invoices/in_1/usage.csv?level=all")).status_code == 422


@pytest.mark.parametrize("step", ["", "/usage.csv"])
async def test_another_account_s_invoice_is_not_found_in_any_way(billed: Any, stranger: Any, publish: Any, parts: Parts, step: str) -> None:
    theirs = type(billed)(stranger, parts, publish, await stranger.subscribe("standard"), "standard")
    await theirs.state()
    assert (await stranger.browser.get(f"/subscriptions/{billed.subscription_id}/invoices/in_1{step}")).status_code == 404
    assert (await theirs.page(f"/invoices/in_1{step}")).status_code == 404  # through a subscription of their own
    assert (await billed.page(f"/invoices/in_9{step}")).status_code == 404


async def test_an_explanation_of_somebody_else_s_is_not_shown_even_if_the_reporter_gives_it(billed: Any, reporter: Any) -> None:
    reporter.bills["in_1"] = bill(billed, account_id="a-2")
    assert (await billed.page("/invoices/in_1")).status_code == 404


async def test_what_is_not_on_the_invoice_is_not_found_and_an_outage_is_said(billed: Any, reporter: Any) -> None:
    assert (await billed.page("/invoices/in_1?usage=other&day=2027-03-04")).status_code == 404
    assert (await billed.page("/invoices/in_1?day=yesterday")).status_code == 422
    reporter.fails = True
    page = await billed.page("/invoices/in_1")
    assert page.status_code == 503
    assert "Nothing is lost" in page.text
    assert (await billed.page("/invoices/in_1/usage.csv")).status_code == 503


async def test_without_a_session_it_asks_to_sign_in(billed: Any, apps: Any) -> None:
    billed.member.browser.client.cookies.clear()
    for step in ("", "/usage.csv"):
        answer = await billed.page(f"/invoices/in_1{step}")
        assert (answer.status_code, answer.headers["location"].startswith("/sign-in")) == (303, True)
