"""What Stripe charges for a quantity, as tables."""

from decimal import Decimal
from typing import Any

import pytest

from sandbox_stripe.rating import RatedLine, prorate, rate, total


def plain(unit: str, **more: Any) -> dict[str, Any]:
    return {"billing_scheme": "per_unit", "unit_amount_decimal": unit, "transform_quantity": None, **more}


def tiered(mode: str, *tiers: tuple[int | None, str | None, int | None]) -> dict[str, Any]:
    rows = [{"up_to": up_to, "unit_amount_decimal": unit, "flat_amount": flat} for up_to, unit, flat in tiers]
    return {"billing_scheme": "tiered", "tiers_mode": mode, "_tiers": rows}


STARTED = plain("15", transform_quantity={"divide_by": 100, "round": "up"})
COMPLETED = plain("15", transform_quantity={"divide_by": 100, "round": "down"})
FREEMIUM = tiered("graduated", (10_000, "0", None), (None, "0.2", None))
UNIT = plain("74995", transform_quantity={"divide_by": 1_500_000, "round": "up"})
GRADUATED = tiered("graduated", (10_000, "1", None), (100_000, "0.5", None), (None, "0.25", None))
VOLUME = tiered("volume", (10_000, "1", None), (100_000, "0.8", None), (None, "0.5", None))
FLAT = tiered("graduated", (100, "0", 500), (None, "3", 700))


@pytest.mark.parametrize(
    ("price", "quantity", "minor"),
    [
        (STARTED, 0, 0), (STARTED, 1, 15), (STARTED, 100, 15), (STARTED, 101, 30), (STARTED, 12_345, 1860),
        (COMPLETED, 99, 0), (COMPLETED, 100, 15), (COMPLETED, 250, 30),
        (plain("0.15"), 1, 0), (plain("0.15"), 4, 1), (plain("0.15"), 101, 15), (plain("0.15"), 250, 38), (plain("0.15"), 12_345, 1852),
        (plain("0.05"), 30, 2),
        (FREEMIUM, 10_000, 0), (FREEMIUM, 10_001, 0), (FREEMIUM, 10_003, 1), (FREEMIUM, 10_150, 30), (FREEMIUM, 25_000, 3000),
        (UNIT, 0, 0), (UNIT, 1, 74995), (UNIT, 1_500_000, 74995), (UNIT, 1_500_001, 149_990), (UNIT, 4_500_001, 299_980),
        (GRADUATED, 5_000, 5_000), (GRADUATED, 10_001, 10_001), (GRADUATED, 150_000, 67_500),
        (VOLUME, 10_000, 10_000), (VOLUME, 10_001, 8_001), (VOLUME, 150_000, 75_000),
        (FLAT, 0, 500), (FLAT, 100, 500), (FLAT, 101, 1_203),
        (plain("0.000000000001"), 10**15, 1_000), (plain("0.15"), 100_000_000_000, 15_000_000_000),
    ],
)  # fmt: skip
def test_a_quantity_costs_what_the_table_says(price: dict[str, Any], quantity: int, minor: int) -> None:
    assert total(price, quantity) == minor


def test_graduated_prices_give_one_line_for_each_tier_that_is_entered() -> None:
    assert rate(GRADUATED, 150_000) == [
        RatedLine(10_000, Decimal(1), 10_000, "Tier 1"),
        RatedLine(90_000, Decimal("0.5"), 45_000, "Tier 2"),
        RatedLine(50_000, Decimal("0.25"), 12_500, "Tier 3"),
    ]


@pytest.mark.parametrize(
    ("price", "quantity", "lines"),
    [
        # two invoices that Stripe made and people published: a flat amount has a line of its own without a quantity, even where it is 0
        (tiered("graduated", (1000, "0", 900), (None, "3.6", 0)), 1031, [(1000, 0), (0, 900), (31, 112), (0, 0)]),
        (tiered("graduated", (100_000, None, 999), (None, "0.02", None)), 0, [(0, 0), (0, 999)]),
    ],
)
def test_lines_are_those_of_an_invoice_that_stripe_made(price: dict[str, Any], quantity: int, lines: list[tuple[int, int]]) -> None:
    assert [(line.quantity, line.amount_minor) for line in rate(price, quantity)] == lines


@pytest.mark.parametrize(
    ("amount", "part", "whole", "minor"),
    [("8995", 10, 30, 2998), ("8995", 15, 30, 4498), ("-8995", 15, 30, -4498), ("14.5", 1, 1, 15), ("8995", 0, 30, 0)],
)
def test_a_part_of_a_period_is_rounded_once_halves_away_from_zero(amount: str, part: int, whole: int, minor: int) -> None:
    assert prorate(Decimal(amount), part, whole) == minor
