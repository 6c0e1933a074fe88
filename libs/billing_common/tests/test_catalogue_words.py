"""Prices in words and differences in lines: what a person reads before deciding."""

import json
from pathlib import Path
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.catalogue_diff import differences, lines
from billing_common.catalogue_words import component_name, plural, price_words

METERS = {"calls": {"name": "API calls"}, "queries": {"name": "Queries", "unit": "query"}}
TIERS = [{"up_to": 100, "amount": "5", "flat": "2"}, {"up_to": 1000, "amount": "3"}, {"up_to": None, "amount": "0.0005"}]


def catalogue(price: dict[str, Any], **fields: Any) -> Catalogue:
    product = {"id": "it", "name": "It", "model": "Hybrid", "price": price} | fields
    used = {entry["meter"] for entry in price.get("usage", [])} | ({price["unit"]["meter"]} if "unit" in price else set())
    return Catalogue.from_document({"version": 1, "meters": {name: METERS[name] for name in used}, "products": [product]})


def usage(**fields: Any) -> dict[str, Any]:
    return {"usage": [{"meter": "calls", "amount": "0.15", "per": 100} | fields]}


WORDS: list[tuple[dict[str, Any], str, str]] = [
    ({"base": "1499.5"}, "base", "USD 1,499.50 a month"),
    ({"setup": "20", "base": "1"}, "setup", "USD 20.00 once"),
    (usage(), "usage:calls", "USD 0.15 per 100 calls"),
    (usage(amount="0.00095", per=1), "usage:calls", "USD 0.00095 a call"),
    (usage(included=100000), "usage:calls", "100,000 calls included, then USD 0.15 per 100 calls"),
    (usage(rounding="started"), "usage:calls", "USD 0.15 for each started 100 calls"),
    (usage(rounding="completed"), "usage:calls", "USD 0.15 for each full 100 calls"),
    (
        usage(discounts="0-100k standard, to 1M 20 % off, above 40 % off"),
        "usage:calls",
        "USD 0.15 per 100 calls, to 100,000 no discount, to 1,000,000 20 % off, above 40 % off",
    ),
    (
        {"usage": [{"meter": "queries", "tiers": TIERS}]},
        "usage:queries",
        "to 100 queries: USD 5.00 a query and USD 2.00 on entering; to 1,000 queries: USD 3.00 a query; above: USD 0.0005 a query",
    ),
    (
        {"usage": [{"meter": "calls", "mode": "volume", "tiers": [{"up_to": None, "amount": "1"}]}]},
        "usage:calls",
        "any number: USD 1.00 a call (the whole quantity at the rate of its tier)",
    ),
    (
        {"unit": {"meter": "calls", "size": 1500000, "amount": "749.95", "at_least": 2}},
        "unit",
        "USD 749.95 for each started 1,500,000 calls, at least 2 packages",
    ),
    ({"base": "1", "minimum": "5"}, "minimum", "at least USD 5.00 a month"),
    ({"base": "1", "maximum": "50"}, "maximum", "at most USD 50.00 a month"),
    ({"base": "1", "spend_cap": "50"}, "spend_cap", "alerts at 50, 80 and 100 % of USD 50.00 a month"),
]


@pytest.mark.parametrize(("price", "component", "words"), WORDS)
def test_a_component_is_told_in_words_and_money(price: dict[str, Any], component: str, words: str) -> None:
    found = catalogue(price)
    assert price_words(found, found.products[0], "usd")[component] == words


def test_a_long_list_of_tiers_is_cut_and_its_length_told() -> None:
    many = [{"up_to": end, "amount": "1"} for end in range(1, 10)] + [{"up_to": None, "amount": "1"}]
    found = catalogue({"usage": [{"meter": "calls", "tiers": many}]})
    assert price_words(found, found.products[0], "usd")["usage:calls"].endswith("to 6 calls: USD 1.00 a call; and 4 more tiers")


def test_another_currency_has_its_own_decimals_and_a_free_product_no_words() -> None:
    found = catalogue({"base": "1"}, currencies={"jpy": {"base": "150"}, "kwd": {"base": "0.5"}})
    product = found.products[0]
    assert [price_words(found, product, code)["base"] for code in ("jpy", "kwd")] == ["JPY 150 a month", "KWD 0.500 a month"]
    assert price_words(found, product, "eur") == {}
    assert [component_name(found, name) for name in ("base", "usage:gone", "unit")] == ["base fee", "usage of gone", "packages"]


@pytest.mark.parametrize(("count", "one", "text"), [(1, "call", "1 call"), (1000, "call", "1,000 calls"), (2, "query", "2 queries")])
def test_units_are_counted_as_people_do(count: int, one: str, text: str) -> None:
    assert plural(count, one) == text


FILE = Path(__file__).parents[3] / "monetizationModels.json"


def changed(**edits: str) -> list[str]:
    text = FILE.read_text()
    after = text
    for old, new in edits.values():
        assert old in after
        after = after.replace(old, new)
    return lines(Catalogue.parse(text).document(), Catalogue.parse(after).document())


def test_each_difference_is_one_line_with_its_product_and_path() -> None:
    assert changed(rate=('"0.15"', '"0.17"'), limit=('"calls": 3500', '"calls": 3600'), fee=('"14.95"', '"15.95"')) == [
        'payg: price.usage[calls].amount: "0.15" -> "0.17"',
        'basic: price.base: "14.95" -> "15.95"',
        "enterprise: rate_limit.calls: 3500 -> 3600",
    ]


def test_what_comes_and_goes_as_a_whole_is_told_field_by_field_and_products_by_name() -> None:
    before = json.loads(FILE.read_text())
    after = json.loads(FILE.read_text())
    gone, first = after["products"].pop(1), after["products"][0]
    del first["quota"]["calls"]
    after["products"][0] = {name: value for name, value in first.items() if name != "quota"}
    after["products"].append({"id": "new", "name": "New", "model": "Free", "quota": {"calls": 5}})
    found = differences(*(Catalogue.parse(json.dumps(document)).document() for document in (before, after)))
    assert found[gone["id"]] == ["no longer sold"]
    assert found["new"] == ["a new product"]
    assert "quota.calls: 100 -> nothing" in found["free"]


def test_the_first_version_names_its_products_and_an_order_that_changed_is_told() -> None:
    document = Catalogue.parse(FILE.read_text()).document()
    assert lines(None, document)[0] == "free: a new product"
    turned = document | {"products": document["products"][::-1]}
    assert lines(document, turned) == ["the order of the products: enterprise, pro, standard, basic, payg, developer, free"]
    assert lines(document, document) == []
