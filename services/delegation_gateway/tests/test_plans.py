"""Prices in words, and the public pages made of them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from delegation_gateway.plans import example_quotes, plan_of, quote
from delegation_gateway.routes.public import read_number

NOON = datetime(2026, 5, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("product_id", "headline", "unit", "line"),
    [
        ("free", "$0.00", "a month", "100 calls a month, then calls stop"),
        ("developer", "$0.20", "per 100 calls", "100 calls included"),
        ("payg", "$0.15", "per 100 calls", "No monthly fee"),
        ("basic", "$14.95", "a month", "50,000 calls a month, then calls stop"),
        ("standard", "$89.95", "a month", "then $0.10 for every 100 calls"),
        ("pro", "$449.95", "a month", "1,200 calls a minute"),
        ("enterprise", "$749.95", "for each started 1,500,000 calls", "At least 1 package a period"),
    ],
)
def test_each_plan_says_its_price_and_what_it_holds(catalogue: Catalogue, product_id: str, headline: str, unit: str, line: str) -> None:
    plan = plan_of(catalogue, catalogue.product(product_id))
    assert (plan.headline, plan.headline_unit) == (headline, unit)
    assert line in plan.lines


@pytest.mark.parametrize(
    ("product_id", "calls", "total_minor"),
    [
        ("free", 100, 0),
        ("free", 101, None),
        ("payg", 120_000, 18_000),
        ("basic", 50_001, None),
        ("standard", 120_000, 10_995),
        ("enterprise", 1_500_001, 149_990),
    ],
)
def test_a_quote_is_what_the_invoice_would_be(catalogue: Catalogue, product_id: str, calls: int, total_minor: int | None) -> None:
    assert quote(catalogue, catalogue.product(product_id), calls, at=NOON).total_minor == total_minor


def test_examples_show_usage_within_and_above_what_is_included(catalogue: Catalogue) -> None:
    quotes = example_quotes(catalogue, catalogue.product("standard"), at=NOON)
    assert [(one.calls, one.total_minor) for one in quotes] == [(50_000, 8_995), (100_000, 8_995), (200_000, 18_995)]
    assert example_quotes(catalogue, catalogue.product("free"), at=NOON) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("120,000", 120_000), ("120 000", 120_000), ("0", 0), ("1" * 15, None), ("-1", None), ("1e9", None), ("", None), ("١٢", None)],
)
def test_numbers_are_read_as_people_write_them(text: str, number: int | None) -> None:
    assert read_number(text) == number


async def test_the_pricing_page_marks_the_cheapest_plan_for_the_number(browser: Any, applied: int) -> None:
    page = await browser.get("/pricing", params={"calls": "120,000"})
    assert "<strong>Standard</strong> costs least" in page.text
    assert page.text.count("Choose ") == 7
    wrong = await browser.get("/pricing", params={"calls": "many"})
    assert (wrong.status_code, "Enter a number of calls" in wrong.text) == (422, True)


async def test_before_a_catalogue_the_pages_say_so(browser: Any) -> None:
    assert "No plans yet" in (await browser.get("/pricing")).text
    assert (await browser.get("/")).status_code == 200
