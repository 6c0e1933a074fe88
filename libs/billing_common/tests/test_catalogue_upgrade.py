"""The older form and what `upgrade` makes of it cost the same, call by call, as an independent reading of the older form says."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import desired_products
from billing_common.rating import Facts, Period, rate

SAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "older-form.json"
MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def half_up(cents: Fraction) -> int:
    return int((2 * cents + 1) // 2)


def expected(model: dict[str, Any], calls: int) -> int:
    """Read the older form by its own words: cents, and units of 100 calls. Shares nothing with the product."""
    unit, metered = model["prices"].get("unit", {}), model["prices"].get("metered", {})
    fee, quota = unit.get("unitAmount", 0), unit.get("quota", 0) * 100
    beyond = Fraction(max(0, calls - quota)) * Fraction(str(metered.get("unitAmount", 0))) / 100
    match model["pricingModelType"]:
        case "Free":
            return 0
        case "Freemium" | "Metered":
            return half_up(beyond)
        case "Tier":
            return int(fee)
        case "TierWithOverage":
            return int(fee) + half_up(beyond)
        case "Unit":
            packages = 1
            while packages * quota < calls:  # maxUnits was a cap on what could be bought, never on what is owed
                packages += 1
            return int(fee) * packages
    raise AssertionError(model)


def counts(model: dict[str, Any]) -> Iterator[int]:
    quota = model["prices"].get("unit", {}).get("quota", 0) * 100
    most = model["prices"].get("unit", {}).get("maxUnits", 1) * quota
    yield from range(350)
    yield from (max(0, edge + step) for edge in (quota, 2 * quota, most, most + quota) for step in range(-3, 204))


def random_model(dice: random.Random, name: str) -> dict[str, Any]:
    kind = dice.choice(["Free", "Freemium", "Metered", "Tier", "TierWithOverage", "Unit"])
    unit = {"currency": "usd", "unitAmount": dice.randrange(1, 100_000), "quota": dice.randrange(1, 300), "maxUnits": dice.randrange(1, 12)}
    metered = {"currency": "usd", "unitAmount": dice.choice([1, 7, 15, 20, 333, 0.5, 0.095])}
    prices: dict[str, Any] = {}
    if kind != "Metered":
        prices["unit"] = unit if kind in ("Tier", "TierWithOverage", "Unit") else unit | {"unitAmount": 0}
    if kind in ("Freemium", "Metered", "TierWithOverage"):
        prices["metered"] = metered
    return {"id": name, "pricingModelType": kind, "recurring": {"interval": "month", "intervalCount": 1}, "prices": prices}


def cost(catalogue: Catalogue, product_id: str, calls: int) -> int:
    product = catalogue.product(product_id)
    usage = {"calls": calls} if "calls" in product.meter_ids() else {}
    return rate(catalogue, product, period=MONTH, usage=usage, facts=Facts(started_at=MONTH.start)).total_minor


@pytest.mark.parametrize(
    "models",
    [json.loads(SAMPLE.read_text()), [random_model(random.Random(seed), f"p{seed}") for seed in range(12)]],
    ids=["the sample", "random ones"],
)
def test_the_older_form_and_its_upgrade_cost_what_the_older_form_says_call_by_call(models: list[dict[str, Any]]) -> None:
    read = Catalogue.parse(json.dumps(models))
    written = Catalogue.parse(read.text())
    assert written.products == read.products
    assert desired_products(written) == desired_products(read)
    for model in models:
        tried = sorted(set(counts(model)))
        wanted = {calls: expected(model, calls) for calls in tried}
        assert {calls: cost(written, model["id"], calls) for calls in tried} == wanted, model
        quota = written.product(model["id"]).quota
        stops = model["pricingModelType"] in ("Free", "Tier")
        assert (quota.calls if quota else None) == (model["prices"]["unit"]["quota"] * 100 if stops else None)
