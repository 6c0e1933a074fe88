"""The pricing page, its live part, its form for frames of others, and the prices as JSON."""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from billing_common.catalogue import Catalogue
from billing_common.events import CatalogueApplied
from delegation_gateway.app import install_routes
from delegation_gateway.parts import Parts
from delegation_gateway.price_book import PriceBook, across_for
from delegation_gateway.pricing_desk import AT_ONCE, WAITING_MAX, BusyError
from delegation_gateway.pricing_page import prices_of
from delegation_gateway.pricing_questions import read
from delegation_gateway.settings import Settings

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
SHOP = "https://www.shop.example"


def text_of(page: httpx.Response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


async def test_the_page_marks_the_cheapest_plan_and_breaks_every_bill_into_lines(browser: Any, applied: int) -> None:
    page = await browser.get("/pricing", params={"calls": "120,001"})
    text = text_of(page)
    assert page.status_code == 200
    assert "At 120,001 calls a month, Standard costs least" in text
    assert "It costs least from 59,967 to 460,000." in text
    assert "API calls, from 100,001 20,001 \N{MULTIPLICATION SIGN} $0.001 per call 20,001 $0.001 per call $20.00 exactly $20.001" in text
    assert "Stops at 50,000 calls a month" in text
    assert page.text.count("Choose ") == 7
    assert page.headers["cache-control"] == "no-store"


async def test_a_mistake_is_named_and_nothing_is_called_the_cheapest(browser: Any, applied: int) -> None:
    wrong = await browser.get("/pricing", params={"calls": "<script>alert(1)</script>"})
    assert wrong.status_code == 422
    assert "<title>Error: Pricing" in wrong.text
    assert wrong.text.count("Enter API calls a month as a whole number") == 2
    assert "<script>alert" not in wrong.text
    assert "costs least" not in text_of(wrong)
    assert "Lowest cost" not in wrong.text
    assert (await browser.get(f"/pricing?calls={'9' * 5000}")).status_code == 414


async def test_the_plan_one_came_from_is_shown_beside_the_cheapest(browser: Any, applied: int) -> None:
    page = await browser.get("/pricing?product=pro")
    assert "Pro, the plan you are looking at $449.95 a month" in text_of(page)
    assert re.search(r'<details id="lines-pro" open>', page.text)
    assert '<input type="hidden" name="product" value="pro">' in page.text


async def test_the_live_part_holds_the_same_figures_and_is_asked_for_again_only_when_changed(browser: Any, applied: int) -> None:
    page, part = await browser.get("/pricing?calls=7"), await browser.get("/pricing/figures?calls=7")
    for name in ("plans", "calls-error", "result", "drawing", "figures"):
        assert f'id="{name}"' in page.text
        assert f'id="{name}"' in part.text
    assert "<html" not in part.text
    again = await browser.get("/pricing/figures?calls=7", headers={"If-None-Match": part.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    wrong = await browser.get("/pricing/figures?calls=-1")
    assert (wrong.status_code, 'id="plans"' in wrong.text) == (200, False)
    assert "Enter API calls a month" in wrong.text


async def test_before_a_catalogue_the_pages_say_so(browser: Any) -> None:
    assert "No plans yet" in (await browser.get("/pricing")).text
    assert "No plans yet" in (await browser.get("/pricing/embed")).text
    assert (await browser.get("/pricing/figures")).status_code == 404
    assert (await browser.get("/v1/pricing")).status_code == 404
    assert (await browser.get("/")).status_code == 200


async def test_currencies_intervals_and_meters_can_be_chosen_where_there_are_several(
    browser: Any, publish: Callable[..., Any], parts: Parts
) -> None:
    document = Catalogue.parse((EXAMPLES / "currencies.json").read_text()).document()
    yearly = Catalogue.parse((EXAMPLES / "yearly.json").read_text()).document()["products"]
    document["products"] += yearly
    await publish(CatalogueApplied(cause_id="apply", occurred_at=parts.clock.now(), version=1, document=document))
    page = await browser.get("/pricing?currency=JPY&calls=20000")
    assert re.search(r'name="currency" value="jpy" checked', page.text)
    assert "¥14,000" in page.text
    assert "Not sold in JPY, only in USD" in page.text
    year = text_of(await browser.get("/pricing?interval=year&calls=10000"))
    assert "Pro, yearly costs least $490.00 a year" in year
    assert "Billed by the month it would be World , $49.00 a month: $98.00 more in a year." in year


async def test_a_new_catalogue_is_priced_at_once(browser: Any, publish: Callable[..., Any], parts: Parts, catalogue: Catalogue) -> None:
    document = catalogue.document()
    await publish(CatalogueApplied(cause_id="apply", occurred_at=parts.clock.now(), version=1, document=document))
    first = await browser.get("/v1/pricing")
    document["products"][4]["price"]["base"] = "99.95"
    await publish(CatalogueApplied(cause_id="apply-2", occurred_at=parts.clock.now(), version=2, document=document))
    second = await browser.get("/v1/pricing", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.json()["catalogue_version"]) == (200, 2)
    assert second.json()["plans"][4]["quote"]["total_minor"] == 11_995


async def test_the_prices_as_json_are_those_of_the_page(browser: Any, applied: int) -> None:
    answer = await browser.get("/v1/pricing?calls=120001")
    prices = answer.json()
    assert (prices["cheapest"], prices["usage"], prices["along"]) == ("standard", {"calls": 120_001}, "calls")
    standard = prices["plans"][4]
    assert standard["quote"]["total_minor"] == 10_995
    assert standard["quote"]["exact_minor"] == "10995.1"
    assert standard["quote"]["lines"][2] == {
        "description": "API calls, from 100,001",
        "quantity": 20_001,
        "unit_amount_decimal": "0.1",
        "amount_minor": 2_000,
        "component": "usage:calls",
    }
    assert prices["plans"][3]["quote"]["refusal"] == {"code": "quota", "message": "Stops at 50,000 calls a month"}
    assert prices["ranges"][5] == {
        "first": 59_967,
        "last": 460_000,
        "product": "standard",
        "total_minor_at_first": 8_995,
        "total_minor_at_last": 44_995,
    }
    assert prices["curves"][4]["points"] == [[0, 8_995], [100_000, 8_995], [100_001, 8_995], [250_000, 23_995]]
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert (await browser.get("/v1/pricing?calls=120001", headers={"If-None-Match": answer.headers["etag"]})).status_code == 304
    one = await browser.get("/v1/pricing?product=pro")
    assert [plan["product"] for plan in one.json()["plans"]] == ["pro"]
    assert one.json()["cheapest"] == "standard"


async def test_prices_are_compressed_but_never_a_page_that_holds_a_session_s_token(browser: Any, member: Any, applied: int) -> None:
    packed = {"Accept-Encoding": "gzip"}
    for address in ("/v1/pricing", "/pricing/figures", "/pricing/embed"):
        assert (await browser.get(address, headers=packed)).headers["content-encoding"] == "gzip"
    own = await browser.get("/pricing", headers=packed)
    assert "Sign out" in own.text
    assert "content-encoding" not in own.headers
    browser.client.cookies.clear()
    assert (await browser.get("/pricing", headers=packed)).headers["content-encoding"] == "gzip"


async def test_json_names_every_mistake(browser: Any, applied: int) -> None:
    wrong = await browser.get("/v1/pricing?calls=many&currency=xxx")
    assert wrong.status_code == 422
    assert [problem["loc"] for problem in wrong.json()["detail"]] == [["query", "currency"], ["query", "calls"]]


async def test_no_site_may_frame_or_read_the_prices_unless_it_is_named(browser: Any, applied: int) -> None:
    framed = await browser.get("/pricing/embed?theme=dark")
    assert "frame-ancestors 'none'" in framed.headers["content-security-policy"]
    assert 'data-theme="dark"' in framed.text
    assert "site-header" not in framed.text
    read_by_others = await browser.get("/v1/pricing", headers={"Origin": SHOP})
    assert "access-control-allow-origin" not in read_by_others.headers


@pytest.fixture
async def open_browser(parts: Parts, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    opened = settings.model_copy(update={"pricing_frame_origins": f"{SHOP}, https://docs.shop.example", "pricing_cors_origins": SHOP})
    public = FastAPI()
    install_routes(public, FastAPI(), parts.pages, cors_origins=opened.cors_origins)
    public.state.parts = Parts(**(vars(parts) | {"settings": opened}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(public), base_url="http://billing.test") as client:
        yield client


async def test_named_sites_may_frame_and_read_the_prices_and_nothing_else(open_browser: httpx.AsyncClient, applied: int) -> None:
    framed = await open_browser.get("/pricing/embed")
    assert f"frame-ancestors {SHOP} https://docs.shop.example" in framed.headers["content-security-policy"]
    assert 'href="http://billing.test/subscribe/pro" target="_blank" rel="noopener"' in framed.text
    assert "frame-ancestors 'none'" in (await open_browser.get("/pricing")).headers["content-security-policy"]
    asked = await open_browser.options(
        "/v1/pricing", headers={"Origin": SHOP, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "If-None-Match"}
    )
    assert asked.status_code == 200
    read_by_shop = await open_browser.get("/v1/pricing", headers={"Origin": SHOP})
    assert read_by_shop.headers["access-control-allow-origin"] == SHOP
    assert "access-control-allow-credentials" not in read_by_shop.headers
    for address, origin in (("/v1/pricing", "https://evil.example"), ("/pricing", SHOP)):
        assert "access-control-allow-origin" not in (await open_browser.get(address, headers={"Origin": origin})).headers


@pytest.mark.parametrize("origins", ["shop.example", "https://shop.example/path", "*", "'self'", "https://a.example;script-src *"])
def test_a_setting_that_is_no_origin_stops_the_start(settings: Settings, origins: str) -> None:
    with pytest.raises(ValidationError, match="give origins without a path"):
        Settings.model_validate(settings.model_dump() | {"pricing_frame_origins": origins})


async def test_more_askers_than_can_be_answered_are_asked_to_come_again(browser: Any, parts: Parts, applied: int) -> None:
    parts.desk._inside = AT_ONCE + WAITING_MAX
    busy = await browser.get("/pricing")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "2")
    with pytest.raises(BusyError):
        await parts.desk.prices(None, None)
    parts.desk._inside = 0
    assert (await browser.get("/pricing")).status_code == 200


def test_what_was_worked_out_for_one_visitor_serves_the_next(catalogue: Catalogue) -> None:
    book = PriceBook(1, catalogue)
    first, second = (read([("calls", calls)], catalogue).question for calls in ("120000", "119999"))
    assert book.chart_sheet(first, "calls") is book.chart_sheet(second, "calls")
    assert book.range_sheet(first, "calls") is book.range_sheet(second, "calls")


@pytest.mark.parametrize(
    ("calls", "across"), [(0, 1_000), (500, 1_000), (501, 2_000), (120_000, 250_000), (10_000_000, 20_000_000), (10**12, 2 * 10**12)]
)
def test_the_chart_ends_at_a_round_number_beyond_twice_the_usage(calls: int, across: int) -> None:
    assert across_for(calls) == across


def test_all_plans_are_on_the_chart_with_marks_where_the_usage_is(catalogue: Catalogue) -> None:
    prices = prices_of(PriceBook(1, catalogue), read([("calls", "120000")], catalogue))
    assert prices.drawing is not None
    chart = prices.drawing.chart
    assert [line.name for line in chart.lines][-1] == "Standard"
    assert len({(line.style, line.mark) for line in chart.lines}) == 7
    assert {line.name for line in chart.lines if line.here is None} == {"Free", "Basic"}
    assert {line.name for line in chart.lines if line.stop is not None} == {"Free", "Basic"}
    assert "A line that ends in a ring stops there: the plan serves no more." in prices.drawing.notes
    assert ["100,001", "", "$199.80", "$150.00", "", "$89.95", "$449.95", "$749.95"] in chart.table


def test_a_plan_far_above_the_others_is_named_below_the_chart(catalogue: Catalogue) -> None:
    prices = prices_of(PriceBook(1, catalogue), read([("calls", "300")], catalogue))
    assert prices.drawing is not None
    assert "Not drawn, because it costs more than the scale shows: Standard, Pro, Enterprise." in prices.drawing.notes


def test_of_many_plans_the_cheapest_are_drawn_and_long_bills_are_cut(catalogue: Catalogue) -> None:
    document = catalogue.document()
    tiers = [{"up_to": 10 * (index + 1), "amount": "0.01"} for index in range(99)] + [{"up_to": None, "amount": "0.001"}]
    document["products"] += [
        document["products"][2]
        | {"id": f"more-{index}", "name": f"More {index}", "model": "Graduated", "features": []}
        | {"price": {"usage": [{"meter": "calls", "tiers": tiers}]}}
        for index in range(5)
    ]
    many = Catalogue.from_document(document)
    prices = prices_of(PriceBook(1, many), read([("calls", "100000")], many))
    assert prices.drawing is not None
    assert len(prices.drawing.chart.lines) == 8
    assert any(note.startswith("Not drawn, to keep the lines apart:") for note in prices.drawing.notes)
    long = prices.plans[-1]
    assert (len(long.lines), long.lines_left_out) == (30, 70)
