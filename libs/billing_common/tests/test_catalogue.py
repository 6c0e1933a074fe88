"""The file is read exactly, and what cannot be sold is refused with its place and a remedy."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from billing_common.catalogue import Catalogue, CatalogueError, UnknownProductError
from billing_common.catalogue_stripe import desired_products

FILE = Path(__file__).parents[3] / "monetizationModels.json"
CALLS = {"calls": {"name": "API calls"}}
METERED = {"id": "payg", "name": "Pay", "model": "Metered", "price": {"usage": [{"meter": "calls", "amount": "0.15", "per": 100}]}}


def catalogue_text(*products: object, **fields: object) -> str:
    return json.dumps({"version": 1, "meters": CALLS, "products": products, **fields}, indent=1)


def changed(**price: object) -> dict[str, object]:
    usage = {"meter": "calls", "amount": "0.15", "per": 100} | price
    return METERED | {"price": {"usage": [{name: value for name, value in usage.items() if value is not None}]}}


def test_the_seven_products_are_as_stated() -> None:
    catalogue = Catalogue.parse(FILE.read_text())
    assert [product.id for product in catalogue.products] == ["free", "developer", "payg", "basic", "standard", "pro", "enterprise"]
    rates = {product.id: (product.rate_limit.calls, product.rate_limit.per_seconds) for product in catalogue.products if product.rate_limit}
    assert rates == {
        "free": (100, 60),
        "developer": (100, 60),
        "payg": (200, 60),
        "basic": (100, 60),
        "standard": (100, 60),
        "pro": (1200, 60),
        "enterprise": (3500, 60),
    }
    assert {product.id: product.quota.calls for product in catalogue.products if product.quota} == {"free": 100, "basic": 50000}
    assert [product.source for product in catalogue.products] == ["stream"] * 6 + ["ingest"]


def test_a_document_that_was_published_is_read_back_the_same() -> None:
    catalogue = Catalogue.parse(FILE.read_text())
    assert Catalogue.from_document(json.loads(json.dumps(catalogue.document()))) == catalogue


def test_the_schema_accepts_the_file_and_explains_every_field() -> None:
    schema = Catalogue.json_schema()
    assert not list(Draft202012Validator(schema).iter_errors(json.loads(FILE.read_text())))
    for name, definition in schema["$defs"].items():
        for field, entry in definition.get("properties", {}).items():
            assert entry.get("description"), f"{name}.{field} is not explained"


def test_an_amount_written_as_a_number_keeps_every_digit() -> None:
    text = catalogue_text(METERED).replace('"0.15"', "0.1500000000000000055")
    with pytest.raises(CatalogueError, match="decimals of the minor unit"):
        Catalogue.parse(text)
    assert Catalogue.parse(catalogue_text(METERED).replace('"0.15"', "0.15")).products[0].price.usage[0].amount == Decimal("0.15")  # type: ignore[union-attr]


BROKEN = [
    (catalogue_text(METERED | {"model": "Meterd"}), "$.products[0].model", 'Did you mean "Metered"?'),
    (catalogue_text(METERED | {"fetures": []}), "$.products[0].fetures", 'Did you mean "features"?'),
    (catalogue_text(METERED, METERED), "$.products[0].id", "used by two products"),
    (catalogue_text(changed(amount="-1")), "$.products[0].price.usage[0].amount", "out of range"),
    (catalogue_text(changed(amount="0.1", per=3)), "$.products[0].price.usage[0].amount", "decimals of the minor unit"),
    (catalogue_text(changed(meter="cals")), "$.products[0].price.usage[0].meter", 'Did you mean "calls"?'),
    (catalogue_text(METERED, currency="usx"), "$.currency", "not a currency"),
    (catalogue_text(METERED | {"currency": "eurr"}), "$.products[0].currency", 'Did you mean "eur"?'),
    (catalogue_text(changed(amount=None)), "$.products[0].price.usage[0]", 'either "amount" or "tiers"'),
    (catalogue_text(changed(included=5)), "$.products[0].price.usage[0].included", "includes nothing"),
    (
        catalogue_text(METERED | {"model": "Graduated"} | {"price": changed(amount=None, tiers=[{"up_to": 5, "amount": 1}])["price"]}),
        "$.products[0].price.usage[0].tiers[0].up_to",
        "the last tier has an end",
    ),
    (
        catalogue_text(
            METERED
            | {"model": "Graduated"}
            | {
                "price": changed(amount=None, tiers=[{"up_to": 5, "amount": 1}, {"up_to": 5, "amount": 1}, {"up_to": None, "amount": 1}])[
                    "price"
                ]
            }
        ),
        "$.products[0].price.usage[0].tiers[1].up_to",
        "inside the one before",
    ),
    (catalogue_text(METERED | {"trial_days": 7}), "$.products[0].trial_days", "calendar billing"),
    (catalogue_text(METERED | {"id": "a/b"}), "$.products[0].id", "not allowed"),
    (catalogue_text(METERED, meters=CALLS | {"bytes": {"name": "Bytes"}}), "$.meters.bytes", "no product uses"),
    (catalogue_text(METERED | {"on_end": "free"}), "$.products[0].on_end", "no product of the model Free"),
    (catalogue_text(METERED | {"model": "Tier", "price": {"base": "9.999"}}), "$.products[0].price.base", "too precise"),
    (catalogue_text(METERED | {"model": "Tier", "price": {"base": "9.99"}}), "$.products[0].quota", "needs a quota"),
    (catalogue_text(METERED | {"currencies": {"jpy": {"base": "10"}}}), "$.products[0].currencies.jpy", "same parts"),
]


@pytest.mark.parametrize(("text", "path", "words"), BROKEN)
def test_what_cannot_be_sold_is_refused_with_its_place(text: str, path: str, words: str) -> None:
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse(text)
    hits = [problem for problem in refused.value.problems if problem.path == path and words in problem.message]
    assert hits, str(refused.value)
    named = path.rsplit(".", 1)[-1].split("[", maxsplit=1)[0]
    assert hits[0].line == 1 or named in text.splitlines()[hits[0].line - 1] or "{" in text.splitlines()[hits[0].line - 1]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = catalogue_text(METERED | {"model": "Meterd"}, METERED | {"id": "x", "keys": 0, "colour": "red"})
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse(text)
    lines = [problem.line for problem in refused.value.problems]
    assert len(lines) == 3
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "line"), [('{"version": 1,\n}', 2), ("", 1), ('{"a": 1} x', 1), ("[" * 500, 1), ('{"a":\n"\\x"}', 2), ('{"a": nul}', 1)]
)
def test_text_that_is_not_json_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse(text)
    assert refused.value.problems[0].line == line


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(CatalogueError, match="stands here twice"):
        Catalogue.parse('{"version": 1, "version": 1, "products": []}')


@pytest.mark.parametrize("letter", ["\\u0000", "\\n", "\\ud800"], ids=["a zero byte", "a line feed", "half a letter"])
def test_a_text_that_cannot_be_shown_is_refused_with_its_line(letter: str) -> None:
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse(FILE.read_text().replace('"Developer"', f'"Deve{letter}loper"'))
    assert "control character" in refused.value.problems[0].message
    assert refused.value.problems[0].line > 1


def test_an_unknown_product_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownProductError, match='Did you mean "standard"'):
        Catalogue.parse(FILE.read_text()).product("standart")


def test_the_older_form_becomes_the_present_one() -> None:
    older = [
        {"id": "free", "pricingModelType": "Free", "prices": {"unit": {"quota": 1}}},
        {
            "id": "standard",
            "pricingModelType": "TierWithOverage",
            "recurring": {"interval": "month", "intervalCount": 1},
            "prices": {
                "unit": {"currency": "usd", "unitAmount": 8995, "quota": 1000, "maxUnits": 1},
                "metered": {"currency": "usd", "unitAmount": 10},
            },
        },
        {
            "id": "enterprise",
            "pricingModelType": "Unit",
            "recurring": {"interval": "month", "intervalCount": 1},
            "prices": {"unit": {"currency": "usd", "unitAmount": 74995, "quota": 15000, "maxUnits": 10}},
        },
    ]
    catalogue = Catalogue.parse(json.dumps(older))
    standard, enterprise = catalogue.product("standard").price, catalogue.product("enterprise").price
    assert standard is not None
    assert enterprise is not None
    assert (standard.base, standard.usage[0].amount, standard.usage[0].per, standard.usage[0].included) == (
        Decimal("89.95"),
        Decimal("0.10"),
        100,
        100_000,
    )
    assert enterprise.unit is not None
    assert (enterprise.unit.size, enterprise.unit.amount) == (1_500_000, Decimal("749.95"))
    assert Catalogue.from_document(catalogue.document()) == catalogue


def test_a_changed_amount_gives_another_lookup_key_and_nothing_else_does() -> None:
    def keys(text: str) -> list[str]:
        return [price.lookup_key for product in desired_products(Catalogue.parse(text)) for price in product.prices]

    text = FILE.read_text()
    assert keys(text) == keys(text.replace("Pay per call, nothing else.", "Other words"))
    assert len(set(keys(text)) ^ set(keys(text.replace('"0.15"', '"0.16"')))) == 2


def test_meters_count_what_their_filters_say() -> None:
    meters = {"writes": {"name": "Writes", "counts": {"methods": ["POST"], "templates": ["/orders"], "statuses": ["2xx", "404"]}}}
    product = METERED | {"price": {"usage": [{"meter": "writes", "amount": "1"}]}}
    meter = Catalogue.parse(catalogue_text(product, meters=meters)).meters["writes"]
    assert meter.counts_call(method="POST", template="/orders", status=201)
    assert meter.counts_call(method="POST", template="/orders", status=404)
    assert not meter.counts_call(method="GET", template="/orders", status=200)
    assert not meter.counts_call(method="POST", template="/other", status=200)
    assert not meter.counts_call(method="POST", template="/orders", status=429)
