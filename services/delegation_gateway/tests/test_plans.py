"""Prices in words."""

from pathlib import Path

import pytest

from billing_common.catalogue import Catalogue
from delegation_gateway.plans import example_costs, plan_of

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.mark.parametrize(
    ("product_id", "headline", "unit", "line"),
    [
        ("free", "$0.00", "a month", "100 calls a month, then calls stop"),
        ("developer", "$0.20", "per 100 calls", "100 calls included"),
        ("payg", "$0.15", "per 100 calls", "No monthly fee"),
        ("basic", "$14.95", "a month", "50,000 calls a month, then calls stop"),
        ("standard", "$89.95", "a month", "then $0.10 for every 100 calls"),
        ("pro", "$449.95", "a month", "1,200 calls a minute"),
        ("enterprise", "$749.95", "for each started 1,500,000 calls", "At least 1 package a month"),
    ],
)
def test_each_plan_says_its_price_and_what_it_holds(catalogue: Catalogue, product_id: str, headline: str, unit: str, line: str) -> None:
    plan = plan_of(catalogue, catalogue.product(product_id))
    assert (plan.headline, plan.headline_unit) == (headline, unit)
    assert line in plan.lines


def test_examples_show_usage_within_and_above_what_is_included(catalogue: Catalogue) -> None:
    examples = example_costs(catalogue, catalogue.product("standard"), "usd")
    assert [(one.usage, one.total_minor) for one in examples] == [
        ("50,000 calls a month", 8_995),
        ("100,000 calls a month", 8_995),
        ("200,000 calls a month", 18_995),
    ]
    assert example_costs(catalogue, catalogue.product("free"), "usd") == []


def test_examples_are_in_the_currency_that_is_shown_and_for_the_whole_interval() -> None:
    world = Catalogue.parse((EXAMPLES / "currencies.json").read_text())
    assert [one.total_minor for one in example_costs(world, world.product("world"), "jpy")] == [7_000, 7_000, 14_000]
    yearly = Catalogue.parse((EXAMPLES / "yearly.json").read_text())
    assert [(one.usage, one.total_minor) for one in example_costs(yearly, yearly.product("yearly"), "usd")] == [
        ("5,000 calls a month", 49_000),
        ("10,000 calls a month", 49_000),
        ("20,000 calls a month", 109_000),
    ]


def test_a_feature_that_repeats_the_limits_is_not_said_twice(catalogue: Catalogue) -> None:
    lines = plan_of(catalogue, catalogue.product("free")).lines
    assert list(lines) == ["100 calls a month, then calls stop", "100 calls a minute", "No card"]


def test_a_plan_in_one_line(catalogue: Catalogue) -> None:
    summaries = {product.id: plan_of(catalogue, product).summary for product in catalogue.products}
    assert summaries["basic"] == "$14.95 a month, 50,000 calls a month, then calls stop"
    assert summaries["standard"] == "$89.95 a month, 100,000 calls included, then $0.10 for every 100 calls"
    assert summaries["enterprise"] == "$749.95 for each started 1,500,000 calls"
