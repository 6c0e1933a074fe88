"""Which tiers of a price are announced, and from which unit on."""

from decimal import Decimal
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from usage_collector.limits import Reached, tiers_of

TIERS = [{"up_to": 100, "amount": "0.10"}, {"up_to": 500, "amount": "0.05"}, {"up_to": None, "amount": "0.01"}]
DISCOUNTS = [{"up_to": 100, "percent": "0"}, {"up_to": 500, "percent": "10"}, {"up_to": None, "percent": "20"}]


def entries(model: str, **usage: Any) -> list[tuple[tuple[int, int], ...]]:
    product = {"id": "plan", "name": "Plan", "model": model, "price": {"usage": [{"meter": "calls", **usage}]}}
    document = {"version": 1, "meters": {"calls": {"name": "API calls"}}, "products": [product]}
    return [tiers.entries for tiers in tiers_of(Catalogue.from_document(document).product("plan"))]


@pytest.mark.parametrize(
    ("model", "usage", "expected"),
    [
        ("Metered", {"amount": "1"}, []),
        ("Freemium", {"amount": "1", "included": 10}, []),
        ("Graduated", {"tiers": TIERS[2:]}, []),
        ("Graduated", {"tiers": TIERS}, [((2, 100), (3, 500))]),
        ("Volume", {"tiers": TIERS, "mode": "volume"}, [((2, 100), (3, 500))]),
        ("VolumeDiscount", {"amount": "1", "discounts": DISCOUNTS}, [((2, 100), (3, 500))]),
        ("VolumeDiscount", {"amount": "1", "discounts": DISCOUNTS, "included": 99}, [((2, 100), (3, 500))]),
        ("VolumeDiscount", {"amount": "1", "discounts": DISCOUNTS, "included": 100}, [((3, 500),)]),
        ("VolumeDiscount", {"amount": "1", "discounts": DISCOUNTS, "included": 500}, []),
    ],
)
def test_the_tiers_behind_the_first_that_is_charged_are_announced(model: str, usage: dict[str, Any], expected: Any) -> None:
    assert entries(model, **usage) == expected


@pytest.mark.parametrize(("quantity", "numbers"), [(0, []), (100, []), (101, [2]), (500, [2]), (501, [2, 3]), (10**9, [2, 3])])
def test_a_tier_is_entered_with_its_first_unit(quantity: int, numbers: list[int]) -> None:
    product = {"id": "plan", "name": "Plan", "model": "Graduated", "price": {"usage": [{"meter": "calls", "tiers": TIERS}]}}
    document = {"version": 1, "meters": {"calls": {"name": "API calls"}}, "products": [product]}
    (tiers,) = tiers_of(Catalogue.from_document(document).product("plan"))
    assert tiers.reached(quantity) == [Reached("tier", Decimal(number), {2: 100, 3: 500}[number]) for number in numbers]
