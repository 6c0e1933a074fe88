"""A wrong value in any place of a full catalogue is told in a person's words: never in Python's, never in the validator's."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.catalogue_model import Meter, Price, Product, Quota, UnitPrice, UsagePrice

PRICE: dict[str, Any] = {
    "base": "5",
    "setup": "1",
    "usage": [{"meter": "calls", "amount": "1", "per": 100, "included": 5, "rounding": "exact", "mode": "graduated"}],
    "minimum": "1",
    "maximum": "100",
    "spend_cap": "50",
}
TIERED = {"meter": "calls", "tiers": [{"up_to": 5, "amount": "1", "flat": "0"}, {"up_to": None, "amount": "1"}]}
DISCOUNTED = {"meter": "calls", "amount": "1", "discounts": [{"up_to": 5, "percent": "5"}, {"up_to": None, "percent": "6"}]}
FULL: dict[str, Any] = {
    "$schema": "x",
    "version": 1,
    "currency": "usd",
    "meters": {
        "calls": {
            "name": "API calls",
            "unit": "call",
            "counts": {"methods": ["GET"], "templates": ["/x"], "statuses": ["2xx"]},
            "weight": 1,
            "weights": [{"method": "GET", "template": "/x", "weight": 2}],
            "aggregation": "sum",
        },
        "tokens": {"name": "Tokens", "property": "tokens"},
    },
    "products": [
        {
            "id": "a",
            "name": "A",
            "description": "d",
            "model": "Hybrid",
            "interval": "month",
            "billing_anchor": "anniversary",
            "trial_days": 3,
            "source": "stream",
            "currency": "usd",
            "price": PRICE,
            "currencies": {"eur": PRICE | {"usage": [TIERED]}},
            "rate_limit": {"calls": 5, "per_seconds": 60},
            "quota": {"calls": 50, "window": "calendar_month", "beyond": "stop", "meter": "calls", "thresholds": ["0.5"]},
            "apis": ["orders"],
            "operations": {"orders": ["get-order"]},
            "features": ["f"],
            "keys": 1,
            "on_end": "cancel",
            "policies": {"late_usage": "waive", "proration": "none", "dunning_grace_days": 0},
        },
        {"id": "b", "name": "B", "model": "Unit", "price": {"unit": {"meter": "tokens", "size": 5, "amount": "1", "at_least": 1}}},
        {"id": "c", "name": "C", "model": "VolumeDiscount", "price": {"usage": [DISCOUNTED]}},
    ],
}
OLDER: list[Any] = [
    {
        "id": "a",
        "pricingModelType": "TierWithOverage",
        "recurring": {"interval": "month", "intervalCount": 1},
        "prices": {
            "unit": {"currency": "usd", "unitAmount": 5, "quota": 1, "maxUnits": 1},
            "metered": {"currency": "usd", "unitAmount": 5},
        },
    }
]
BAD: list[Any] = [None, True, 1.5, -1, 10**20, "", "x" * 5000, "NaN", [], {}, [None], {"a": 1}]
OURS = re.compile(r'"[^"]*"')  # what stands in quotes is the file's own text
FOREIGN = re.compile(
    r"\b(tuple|dict|dictionary|list_type|str|int|bool|NoneType|Decimal|instance|input|valid|validation|parse|Error|Truth|object at)\b",
    re.IGNORECASE,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    holder = changed
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    return changed


def leaves(document: Any) -> list[tuple[Any, ...]]:
    return [path for path in places(document) if not isinstance(at(document, path), dict | list)]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def wrong(document: Any) -> Iterator[Any]:
    """Yield a document with every leaf wrong, for each wrong value, and documents with one object or list that is something else."""
    for value in BAD:
        broken = document
        for path in leaves(document):
            broken = replaced(broken, path, value)
        yield broken
    for path in places(document):
        if isinstance(at(document, path), dict | list):
            yield from (replaced(document, path, value) for value in (None, "x", [], {"a": 1}))


@pytest.mark.parametrize("document", [FULL, OLDER], ids=["the present form", "the older form"])
def test_any_wrong_value_in_any_place_is_told_in_a_persons_words(document: Any) -> None:
    Catalogue.parse(json.dumps(document))
    told = 0
    for broken in wrong(document):
        try:
            Catalogue.parse(json.dumps(broken))
        except CatalogueError as error:
            for problem in error.problems:
                told += 1
                words = OURS.sub("", f"{problem.message} {problem.allowed}")
                assert problem.allowed, problem
                assert not FOREIGN.search(words), problem
                assert "does not fit" not in words, problem  # an error of the validator that has no words of its own
    assert told > 100


def test_the_full_catalogue_has_every_field_so_no_field_escapes() -> None:
    written = json.dumps([FULL, OLDER])
    for model in (Catalogue, Meter, Product, Price, UsagePrice, UnitPrice, Quota):
        names = {field.alias or name for name, field in model.model_fields.items()}
        assert {name for name in names if f'"{name}"' not in written} == set()


@pytest.mark.parametrize("word", ["true", "false"])
def test_true_and_false_are_not_taken_for_numbers(word: str) -> None:
    text = json.dumps(FULL).replace('"keys": 1', f'"keys": {word}')
    with pytest.raises(
        CatalogueError, match=rf"\.keys: {word} is not a whole number \(allowed: a whole number: keys a subscription may have\)"
    ):
        Catalogue.parse(text)


def test_the_examples_and_the_repositorys_own_catalogue_are_free_of_problems() -> None:
    root = Path(__file__).parents[3]
    for file in (root / "monetizationModels.json", *sorted((root / "docs" / "examples").glob("*.json"))):
        Catalogue.parse(file.read_text())
