"""What a full period costs, which plan costs least and which cannot serve: every figure is what `turnpike quote` says."""

from decimal import Decimal
from pathlib import Path

import pytest

from billing_common.catalogue import Catalogue
from delegation_gateway.pricing import Question, cheapest, cost_of, costs_of, currencies_of, intervals_of, meters_for

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def asked(calls: int, currency: str = "usd", **more: int) -> Question:
    return Question((("calls", calls), *more.items()), currency)


@pytest.mark.parametrize(
    ("product_id", "calls", "total_minor"),
    [
        ("free", 100, 0),
        ("free", 101, None),
        ("developer", 100, 0),
        ("developer", 103, 1),
        ("payg", 120_000, 18_000),
        ("basic", 50_000, 1_495),
        ("basic", 50_001, None),
        ("standard", 100_000, 8_995),
        ("standard", 100_004, 8_995),
        ("standard", 100_005, 8_996),
        ("standard", 120_000, 10_995),
        ("enterprise", 0, 74_995),
        ("enterprise", 1_500_000, 74_995),
        ("enterprise", 1_500_001, 149_990),
        ("pro", 10_000_000, 614_995),
        ("payg", 100_000_000_000, 15_000_000_000),
        ("pro", 100_000_000_001, 44_995 + 5_999_970_000),
        ("enterprise", 100_000_000_000, 66_667 * 74_995),
    ],
)
def test_a_cost_is_what_the_invoice_would_be(catalogue: Catalogue, product_id: str, calls: int, total_minor: int | None) -> None:
    assert cost_of(catalogue, catalogue.product(product_id), asked(calls)).total_minor == total_minor


def test_what_was_rounded_is_known_exactly(catalogue: Catalogue) -> None:
    cost = cost_of(catalogue, catalogue.product("standard"), asked(120_001))
    assert (cost.total_minor, cost.exact_minor) == (10_995, Decimal("10995.1"))


@pytest.mark.parametrize(
    ("calls", "product_id"),
    [(0, "free"), (100, "free"), (101, "developer"), (401, "payg"), (120_000, "standard"), (1_000_000, "pro"), (1_000_001, "enterprise")],
)
def test_the_cheapest_plan_is_the_first_of_those_that_serve_and_cost_least(catalogue: Catalogue, calls: int, product_id: str) -> None:
    best = cheapest(costs_of(catalogue, asked(calls)))
    assert best is not None
    assert best.product.id == product_id


def test_a_plan_that_cannot_serve_says_why(catalogue: Catalogue) -> None:
    refused = cost_of(catalogue, catalogue.product("basic"), asked(50_001)).refusal
    assert refused is not None
    assert (refused.code, refused.text, refused.limit) == ("quota", "Stops at 50,000 calls a month", 50_000)
    foreign = cost_of(catalogue, catalogue.product("pro"), asked(1, "eur")).refusal
    assert foreign is not None
    assert (foreign.code, foreign.text) == ("currency", "Not sold in EUR, only in USD")
    assert cost_of(catalogue, catalogue.product("free"), asked(1, "eur")).total_minor == 0


def test_a_rate_limit_that_is_too_slow_is_a_warning_and_never_the_first_choice(catalogue: Catalogue) -> None:
    possible, too_much = (cost_of(catalogue, catalogue.product("payg"), asked(calls)) for calls in (8_928_000, 8_928_001))
    assert possible.warning == ""
    assert too_much.warning == "Its rate limit lets through at most 8,928,000 calls a month"
    assert too_much.total_minor == 1_339_200
    slow_first = cheapest([too_much, cost_of(catalogue, catalogue.product("enterprise"), asked(100_000_000))])
    assert slow_first is not None
    assert slow_first.product.id == "enterprise"
    assert cheapest([too_much]) == too_much


def test_a_setup_fee_is_not_part_of_a_period() -> None:
    catalogue = Catalogue.parse((EXAMPLES / "setup-and-limits.json").read_text())
    costs = [cost_of(catalogue, catalogue.product("partner"), asked(calls)) for calls in (0, 50_000, 1_000_000)]
    assert [(cost.total_minor, cost.setup_minor) for cost in costs] == [(10_000, 25_000), (50_000, 25_000), (200_000, 25_000)]


def test_a_year_bills_twelve_months_of_usage_but_not_twelve_times_the_distinct_users() -> None:
    document = Catalogue.parse((EXAMPLES / "yearly.json").read_text()).document()
    document["meters"]["users"] = {"name": "Users", "unit": "user", "aggregation": "unique", "property": "user"}
    document["products"][1] |= {"model": "Hybrid", "source": "ingest"}
    document["products"][1]["price"]["usage"].append({"meter": "users", "amount": "1"})
    catalogue = Catalogue.from_document(document)
    cost = cost_of(catalogue, catalogue.product("yearly"), Question((("calls", 10_001), ("users", 30)), "usd", "year"))
    assert [(line.quantity, line.amount_minor) for line in cost.lines] == [(1, 49_000), (120_000, 0), (12, 6), (30, 3_000)]


def test_a_trial_costs_nothing_and_is_not_what_is_priced() -> None:
    catalogue = Catalogue.parse((EXAMPLES / "trial.json").read_text())
    product = next(product for product in catalogue.products if product.trial_days)
    cost = cost_of(catalogue, product, Question(tuple((meter, 0) for meter in product.meter_ids()), "usd"))
    assert cost.total_minor is not None
    assert cost.total_minor > 0


def test_what_can_be_chosen_comes_from_the_catalogue(catalogue: Catalogue) -> None:
    assert (intervals_of(catalogue), currencies_of(catalogue), meters_for(catalogue, "month")) == (["month"], ["usd"], ["calls"])
    yearly = Catalogue.parse((EXAMPLES / "yearly.json").read_text())
    assert intervals_of(yearly) == ["month", "year"]
    assert [cost.product.id for cost in costs_of(yearly, Question((("calls", 1),), "usd", "year"))] == ["yearly", "calendar-year"]
    world = Catalogue.parse((EXAMPLES / "currencies.json").read_text())
    assert currencies_of(world) == ["usd", "eur", "jpy", "kwd"]
    hybrid = Catalogue.parse((EXAMPLES / "hybrid.json").read_text())
    assert meters_for(hybrid, "month") == ["calls", "bytes", "tokens"]
