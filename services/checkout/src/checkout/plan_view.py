"""A plan as a person judges it: product by product, system by system, with what changes in the file. Pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from billing_common.catalogue import Catalogue
from billing_common.catalogue_diff import differences
from checkout.plan import Plan
from checkout.steps import Step
from checkout.store_catalogue import Version

SYSTEMS = ("stripe", "apim")
GROUPS = ("created", "replaced", "changed", "archived")
_GROUP_OF = {
    "create": "created", "link": "created", "update": "changed", "reactivate": "changed",
    "archive": "archived", "unlink": "archived", "unpublish": "archived",
}  # fmt: skip


def by_product(plan: Plan, catalogue: Catalogue, previous: Version | None) -> list[dict[str, Any]]:
    """Return what happens to each product, in the order of the file; what belongs to no product stands under the empty id."""
    in_the_file = differences(previous.document if previous else None, catalogue.document())
    names = {product["id"]: product["name"] for product in previous.document["products"]} if previous else {}
    names |= {product.id: product.name for product in catalogue.products}
    touched = [step.product_id for step in (*plan.steps, *plan.kept)]
    ids = dict.fromkeys(["", *(product.id for product in catalogue.products), *in_the_file, *touched])
    return [
        _product(product_id, names.get(product_id, ""), plan, in_the_file) for product_id in ids if product_id in {*in_the_file, *touched}
    ]


def _product(product_id: str, name: str, plan: Plan, in_the_file: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "product_id": product_id,
        "name": name,
        "file": list(in_the_file.get(product_id, ())),
        "systems": {system: _system(system, product_id, plan) for system in SYSTEMS},
    }


def _system(system: str, product_id: str, plan: Plan) -> dict[str, Any]:
    steps = [step for step in plan.steps if (step.system, step.product_id) == (system, product_id)]
    kept = [step for step in plan.kept if (step.system, step.product_id) == (system, product_id)]
    grouped: dict[str, Any] = {group: [] for group in GROUPS}
    replacing = {step.name for step in steps if step.replaces and step.action != "archive"}
    for step in steps:
        if step.action == "archive" and step.replaces in replacing:
            continue  # told with the price that takes its place
        group = "replaced" if step.name in replacing else _GROUP_OF[step.action]
        grouped[group].append({"kind": step.kind, "name": step.name, "text": _words(step)})
    return grouped | {"untouched": dict(Counter(step.kind for step in kept))}


def _words(step: Step) -> str:
    """Return what happens to the thing; a price is known by what it costs, everything else by its name."""
    changes = "; ".join(change.text() for change in step.changes if (step.action, change.what) != ("reactivate", "state"))
    again = "active again" if step.action == "reactivate" else ""
    name = "price" if step.kind == "price" else f"{step.kind} {step.name}"
    about = step.detail if step.kind not in {"group", "api"} else ""
    return ": ".join([name, *filter(None, ["; ".join(filter(None, [about, again, changes]))])])
