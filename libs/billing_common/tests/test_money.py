"""What can be charged in a currency, and catalogues that ask for something else."""

import json
from typing import Any

import pytest

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.money import amount_max, amount_step

METERED = {"usage": [{"meter": "calls", "amount": "0.5"}]}


def problems(currency: str, price: dict[str, Any], model: str = "Hybrid") -> list[str]:
    product = {"id": "it", "name": "It", "model": model, "price": price, "quota": {"calls": 10**9, "beyond": "overage"}}
    document = {"version": 1, "currency": currency, "meters": {"calls": {"name": "Calls"}}, "products": [product]}
    try:
        Catalogue.parse(json.dumps(document))
    except CatalogueError as error:
        return [problem.path.removeprefix("$.products[0].price.") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("currency", "step", "most"),
    [("usd", 1, 99_999_999), ("jpy", 1, 9_999_999_999), ("inr", 1, 999_999_999), ("isk", 100, 99_999_999), ("ugx", 100, 99_999_999)],
)
def test_steps_and_limits_are_those_of_stripes_table(currency: str, step: int, most: int) -> None:
    assert (amount_step(currency), amount_max(currency)) == (step, most)


@pytest.mark.parametrize("currency", ["isk", "ugx"])
def test_fees_in_a_currency_without_fractions_are_whole_and_usage_may_be_finer(currency: str) -> None:
    tier = {"up_to": None, "amount": "0.25", "flat": "10.50"}
    unit = {"meter": "calls", "size": 10, "amount": "1.10"}
    assert problems(currency, {"base": "900", **METERED}) == []
    assert sorted(problems(currency, {"base": "900.50", "setup": "0.01", "minimum": "1.5", **METERED})) == ["base", "minimum", "setup"]
    assert problems(currency, {"unit": unit}) == ["unit.amount"]
    assert problems(currency, {"usage": [{"meter": "calls", "tiers": [tier]}]}) == ["usage[0].tiers[0].flat"]


def test_no_fee_is_larger_than_what_can_be_charged_at_once() -> None:
    assert problems("usd", {"base": "999999.99"}) == []
    assert problems("usd", {"base": "1000000.00"}) == ["base"]
    assert problems("jpy", {"base": "1000000000"}) == []
