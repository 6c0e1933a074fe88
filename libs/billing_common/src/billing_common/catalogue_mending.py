"""What is left of a catalogue without its broken fields, so that the rules across fields can be checked in the same go."""

import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from billing_common.catalogue_model import Meter, Product
from billing_common.catalogue_source import Path

ROUNDS_MAX = 40  # each round takes at least one field away
REQUIRED = frozenset({"id", "name", "model"})  # of a product and a meter
# What a broken part of a price is taken for, so that the entries beside it are still looked at; nothing is said about these values.
STAND_INS: dict[str, Any] = {
    "base": "0", "setup": "0", "minimum": "0", "maximum": "1e12", "spend_cap": "1e12",
    "meter": "unnamed", "size": 1, "amount": "0", "up_to": None, "flat": "0", "percent": 0, "weight": 0,
}  # fmt: skip
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Rest:
    """Meters, products by their place in the file, and the paths of what was taken away."""

    currency: str = "usd"
    meters: dict[str, Meter] = field(default_factory=dict)
    products: dict[int, Product] = field(default_factory=dict)
    gone: set[Path] = field(default_factory=set)
    mentioned: set[str] = field(default_factory=set)


def mend(document: Any) -> Rest:
    """Return what can still be checked; nothing where the document is not even an object."""
    rest = Rest()
    if not isinstance(document, dict):
        return rest
    if isinstance(document.get("currency"), str):
        rest.currency = document["currency"]
    else:
        rest.gone.add(("currency",))
    meters, products = document.get("meters", {}), document.get("products", [])
    for meter_id, raw in meters.items() if isinstance(meters, dict) else ():
        meter = _mended(Meter, raw, ("meters", meter_id), rest.gone)
        rest.meters[meter_id] = meter or Meter(name="unnamed")
    for index, raw in enumerate(products) if isinstance(products, list) else ():
        rest.mentioned |= _meters_of(raw)
        product = _mended(Product, raw, ("products", index), rest.gone)
        if product is not None:
            rest.products[index] = product
    return rest


def _mended(model: type[Model], raw: Any, path: Path, gone: set[Path]) -> Model | None:
    """Take the fields away that pydantic refuses, until it takes the rest."""
    value = copy.deepcopy(raw)
    for _ in range(ROUNDS_MAX):
        if not isinstance(value, dict):
            break
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for entry in error.errors(include_url=False):
                gone.add((*path, *entry["loc"]))
                _take_away(value, tuple(entry["loc"]), missing=entry["type"] == "missing")
    gone.add(path)
    return None


def _take_away(value: dict[str, Any], at: Path, *, missing: bool) -> None:
    """Replace what stands at the path, or drop it. What is required takes its whole object along; an item of a list takes the list."""
    if len(at) == 1 and at[0] in REQUIRED:
        any_model = "Hybrid" if value.get("price") else "Free"
        value[str(at[0])] = any_model if at[0] == "model" else "unnamed"
        return
    holder, name = _holder(value, at), str(at[-1])
    if isinstance(holder, dict) and name in STAND_INS and (name not in holder or holder[name] != STAND_INS[name]):
        holder[name] = STAND_INS[name]
        return
    steps = at[:-1] if missing else at
    if missing or isinstance(at[-1], int):
        steps = steps[: next((place for place, part in enumerate(steps) if isinstance(part, int)), len(steps))]
    holder = _holder(value, steps)
    if steps and isinstance(holder, dict):
        holder.pop(steps[-1], None)


def _holder(value: Any, at: Path) -> Any:
    """Return the object or list that holds the last part of the path; None where the path leads nowhere."""
    for part in at[:-1]:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _meters_of(raw: Any) -> set[str]:
    """Return all meter ids that a product mentions, however broken the rest of it is."""
    if isinstance(raw, dict):
        named = {raw["meter"]} if isinstance(raw.get("meter"), str) else set()
        return named.union(*(_meters_of(entry) for entry in raw.values()))
    return set().union(*(_meters_of(entry) for entry in raw)) if isinstance(raw, list) else set()
