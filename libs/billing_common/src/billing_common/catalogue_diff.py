"""What changed between two catalogue documents, line by line, as a person would tell it. Pure functions."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

NOTHING = "nothing"
KEYED_BY = {"products": "id", "usage": "meter"}  # lists whose entries have a name; of others the place counts


def differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return product id -> lines; what belongs to no product stands under the empty id. Products in the order of the new document."""
    old, new = before or {}, after
    found: dict[str, list[str]] = {"": [] if before is None else list(_of_the_file(old, new))}
    was, now = _by_id(old), _by_id(new)
    for product_id in [*now, *(product_id for product_id in was if product_id not in now)]:
        if product_id not in was:
            found[product_id] = ["a new product"]
        elif product_id not in now:
            found[product_id] = ["no longer sold"]
        else:
            found[product_id] = list(_leaves("", was[product_id], now[product_id]))
    return {product_id: lines for product_id, lines in found.items() if lines}


def lines(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Return the same as one list: `payg: price.usage[calls].amount: "0.15" -> "0.17"`."""
    return [f"{product_id}: {text}" if product_id else text for product_id, texts in differences(before, after).items() for text in texts]


def _by_id(document: Mapping[str, Any]) -> dict[str, Any]:
    return {product["id"]: product for product in document.get("products", ())}


def _of_the_file(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    rest = ({name: value for name, value in document.items() if name not in {"products", "$schema"}} for document in (old, new))
    yield from _leaves("", *rest)
    kept = [product_id for product_id in _by_id(new) if product_id in _by_id(old)]
    if kept != [product_id for product_id in _by_id(old) if product_id in _by_id(new)]:
        yield f"the order of the products: {', '.join(_by_id(new))}"


def _leaves(path: str, old: Any, new: Any) -> Iterable[str]:
    """Go down where both sides have something inside; a leaf that differs is a line."""
    if old == new:
        return
    parts_old, parts_new = _parts(path, old), _parts(path, new)
    if parts_old is None and parts_new is None:
        yield f"{path}: {_text(old)} -> {_text(new)}"
        return
    if parts_old is None or parts_new is None:  # it came or went as a whole
        parts_old, parts_new = parts_old or {}, parts_new or {}
    for name in [*parts_new, *(name for name in parts_old if name not in parts_new)]:
        yield from _leaves(name, parts_old.get(name), parts_new.get(name))


def _parts(path: str, value: Any) -> dict[str, Any] | None:
    """Return full path -> value of what stands inside; None for a leaf. A list of plain values is a leaf."""
    if isinstance(value, Mapping):
        return {f"{path}.{name}" if path else str(name): entry for name, entry in value.items()}
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        key = KEYED_BY.get(path.rsplit(".", 1)[-1])
        return {f"{path}[{entry.get(key, index) if key else index}]": entry for index, entry in enumerate(value)}
    return None


def _text(value: Any) -> str:
    return NOTHING if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)
