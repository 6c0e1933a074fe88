"""Each example of the documentation can be sold, and costs what its text says."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from billing_common.catalogue import Catalogue
from billing_common.catalogue_model import PricingModel
from billing_common.catalogue_stripe import desired_products
from billing_common.rating import ADDED_TO_DRAFT, Facts, Period, period_at, rate

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "examples"
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))

# file, product -> usage of its first meter -> what a full period costs, in minor units
TOTALS: dict[tuple[str, str], dict[int, int]] = {
    ("free", "free"): {0: 0, 100: 0},
    ("freemium", "developer"): {100: 0, 102: 0, 103: 1, 250: 30, 15_100: 30_00},
    ("metered", "payg"): {0: 0, 1: 0, 4: 1, 100: 15, 250: 38, 12_345: 18_52},
    ("metered", "fine"): {5: 0, 6: 1, 1_000: 95, 100_000_000_000: 95_000_000_00},
    ("tier", "basic"): {0: 14_95, 50_000: 14_95},
    ("tier-with-overage", "build"): {10_000: 49_00, 10_001: 49_01, 20_000: 99_00},
    ("tier-with-overage", "scale"): {50_000: 49_00, 128_000: 127_00},
    ("unit", "enterprise"): {0: 749_95, 1: 749_95, 1_500_000: 749_95, 1_500_001: 1_499_90, 150_000_000: 74_995_00},
    ("volume", "volume"): {10_000: 100_00, 10_001: 80_01, 100_000: 800_00, 150_000: 750_00},
    ("graduated", "queries"): {1: 5_00, 100: 500_00, 101: 503_00, 1_000: 3_200_00, 1_001: 3_202_00},
    ("graduated", "data"): {10: 0, 11: 1_60, 20: 2_50},
    ("hybrid", "team"): {0: 99_00, 20_000: 99_00, 30_000: 139_00},
    ("hybrid", "tokens"): {1_000_000: 0, 2_500_000: 4_50},
    ("volume-discount", "units"): {100_000: 100_00, 1_000_000: 820_00, 2_000_000: 1_420_00},
    ("volume-discount", "whole"): {100_000: 100_00, 1_000_000: 800_00, 2_000_000: 1_200_00},
    ("yearly", "monthly"): {10_000: 49_00, 11_000: 54_00},
    ("yearly", "yearly"): {120_000: 490_00, 121_000: 495_00},
    ("yearly", "calendar-year"): {120_000: 490_00},
    ("trial", "free"): {1_000: 0},
    ("trial", "pro"): {10_000: 29_00, 11_000: 31_00},
    ("currencies", "world"): {10_000: 49_00, 11_000: 54_00},
    ("setup-and-limits", "partner"): {0: 350_00, 10_000: 350_00, 10_100: 351_00, 200_000: 2_250_00, 300_000: 2_250_00},
    ("blocks", "started"): {0: 0, 1: 15, 100: 15, 101: 30, 250: 45, 12_345: 18_60},
    ("blocks", "completed"): {0: 0, 99: 0, 100: 15, 199: 15, 12_345: 18_45},
    ("blocks", "allowance"): {1_000: 0, 1_001: 20, 1_100: 20, 1_101: 40, 1_250: 60},
    ("blocks", "full"): {1_000: 0, 1_099: 0, 1_100: 20, 1_199: 20, 1_250: 40},
    ("three-plan-freemium", "free"): {1_000: 0},
    ("three-plan-freemium", "growth"): {50_000: 49_00},
    ("three-plan-freemium", "business"): {1_000_000: 499_00},
    ("starter-and-growth", "starter"): {10_000: 29_00},
    ("starter-and-growth", "growth"): {100_000: 99_00},
    ("rupees", "india"): {10_000: 999_00, 10_001: 999_01, 110_000: 1_999_00},
    ("limits-and-policies", "team"): {20_000: 59_00, 21_000: 62_00},
    ("operations", "reader"): {5_000: 9_00},
    ("operations", "writer"): {10_000: 49_00, 11_000: 54_00},
    ("unique-and-max", "by-user"): {5: 0, 6: 4_00, 130: 500_00},
    ("unique-and-max", "by-seat"): {0: 20_00, 10: 20_00, 14: 32_00},
    ("unique-and-max", "both"): {1: 1, 250: 2_50},
    ("older-form", "free"): {100: 0},
    ("older-form", "developer"): {100: 0, 250: 30},
    ("older-form", "payg"): {250: 38},
    ("older-form", "basic"): {50_000: 14_95},
    ("older-form", "standard"): {250_000: 239_95},
    ("older-form", "pro"): {1_000_000: 749_95},
    ("older-form", "enterprise"): {0: 749_95, 2_000_000: 1_499_90},
}


def example(name: str) -> Catalogue:
    return Catalogue.parse((FOLDER / f"{name}.json").read_text())


def full_period(catalogue: Catalogue, product_id: str, calls: int, currency: str | None = None) -> int:
    product = catalogue.product(product_id)
    started = NOVEMBER.start - timedelta(days=product.trial_days)
    trial_end = NOVEMBER.start if product.trial_days else None
    period = period_at(product, started_at=NOVEMBER.start.replace(month=1) if product.interval == "year" else started, at=NOVEMBER.start)
    facts = Facts(started_at=period.start, trial_end=trial_end, currency=currency)
    usage = dict.fromkeys(product.priced_meters()[:1], calls)
    return rate(catalogue, product, period=period, usage=usage, facts=facts).total_minor


@pytest.mark.parametrize(("name", "product_id"), TOTALS)
def test_an_example_costs_what_it_says(name: str, product_id: str) -> None:
    catalogue = example(name)
    expected = TOTALS[name, product_id]
    assert {calls: full_period(catalogue, product_id, calls) for calls in expected} == expected


def test_every_example_and_every_model_is_tested() -> None:
    tested = {name for name, _ in TOTALS}
    assert {file.stem for file in FOLDER.glob("*.json")} == tested
    products = {(name, product.id) for name in tested for product in example(name).products}
    assert products == set(TOTALS)
    models = {product.model for name in tested for product in example(name).products}
    assert models == set(PricingModel.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted({name for name, _ in TOTALS}))
def test_an_example_is_published_and_read_back_the_same(name: str) -> None:
    catalogue = example(name)
    assert Catalogue.from_document(json.loads(json.dumps(catalogue.document()))) == catalogue
    assert Catalogue.parse(catalogue.text()).products == catalogue.products


@pytest.mark.parametrize("name", sorted({name for name, _ in TOTALS} - {"older-form"}))
def test_an_editor_accepts_an_example_by_the_published_schema(name: str) -> None:
    schema = json.loads((ROOT / "contracts" / "monetizationModels.schema.json").read_text())
    assert not list(Draft202012Validator(schema).iter_errors(json.loads((FOLDER / f"{name}.json").read_text())))


@pytest.mark.parametrize(
    ("currency", "totals"),
    [("usd", {10_000: 49_00, 10_001: 49_01}), ("eur", {10_002: 45_01}), ("jpy", {10_001: 7001, 10_003: 7002}), ("kwd", {10_001: 15_127})],
)
def test_currencies_with_two_no_and_three_decimals(currency: str, totals: dict[int, int]) -> None:
    catalogue = example("currencies")
    assert {calls: full_period(catalogue, "world", calls, currency) for calls in totals} == totals


def test_the_older_form_costs_to_the_cent_what_the_seven_products_cost() -> None:
    older, present = example("older-form"), Catalogue.parse((ROOT / "monetizationModels.json").read_text())
    keys = [[price.lookup_key for product in desired_products(catalogue) for price in product.prices] for catalogue in (older, present)]
    assert keys[0] == keys[1]


def test_several_meters_on_one_subscription_add_up() -> None:
    catalogue = example("hybrid")
    usage = {"calls": 30_000, "bytes": 7_500_000_000}
    rated = rate(catalogue, catalogue.product("team"), period=NOVEMBER, usage=usage, facts=Facts(started_at=NOVEMBER.start))
    assert [line.amount_minor for line in rated.lines] == [99_00, 0, 40_00, 0, 30]


def test_a_calendar_year_begun_in_july_pays_its_share() -> None:
    catalogue, july = example("yearly"), datetime(2026, 7, 2, 12, tzinfo=UTC)
    product = catalogue.product("calendar-year")
    period = period_at(product, started_at=july, at=july)
    assert (period.start, period.end) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert rate(catalogue, product, period=period, usage={}, facts=Facts(started_at=july)).total_minor == 490_00 // 2


def test_what_no_price_at_stripe_says_stands_last_and_is_marked() -> None:
    catalogue = example("blocks")
    rated = rate(catalogue, catalogue.product("allowance"), period=NOVEMBER, usage={"calls": 1_001}, facts=Facts(started_at=NOVEMBER.start))
    assert [(line.component, line.quantity, line.amount_minor) for line in rated.lines] == [
        ("usage:calls", 1000, 0),
        ("usage:calls", 1, 0),
        ("rounding", 1, 20),
    ]
    assert rated.lines[-1].component in ADDED_TO_DRAFT


def test_the_reference_explains_every_field_and_names_every_example() -> None:
    page = (ROOT / "docs" / "reference" / "catalogue.md").read_text()
    schema = Catalogue.json_schema()
    parts = {"The file": schema, **schema["$defs"]}
    for name, part in parts.items():
        section = page[page.index(f"### {name}") :].split("\n### ")[0]
        for field, entry in part["properties"].items():
            assert f"| `{field}` |" in section, f"{name}.{field}"
            assert entry["description"] in section, f"{name}.{field}"
    assert all(f"../examples/{file.name}" in page for file in FOLDER.glob("*.json"))
