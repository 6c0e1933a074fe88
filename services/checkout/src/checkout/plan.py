"""What an apply would do: the difference between a catalogue and what stands at APIM and Stripe. Pure functions."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import desired_products
from billing_common.catalogue_words import price_words
from checkout.plan_apim import ApimWorld, apim_steps
from checkout.plan_stripe import stripe_steps
from checkout.policy import NOWHERE
from checkout.policy_answers import Plans
from checkout.steps import Known, Step
from checkout.store_catalogue import Version
from checkout.stripe_catalogue import StripeWorld


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they are carried out, and the things that stay as they are."""

    steps: tuple[Step, ...]
    kept: tuple[Step, ...]
    content: str  # identity of the catalogue that is asked for

    @property
    def fingerprint(self) -> str:
        """Names exactly these steps and this catalogue: an apply that finds others refuses when it was told to do these."""
        return hashlib.sha256(json.dumps([self.content, *(step.identity for step in self.steps)]).encode()).hexdigest()[:16]

    def public(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        return {"plan": self.fingerprint, "steps": [step.public() for step in self.steps], "unchanged": len(self.kept)}


def digest(catalogue: Catalogue) -> str:
    """Return the identity of a catalogue's content."""
    return hashlib.sha256(json.dumps(catalogue.document(), sort_keys=True).encode()).hexdigest()


def make_plan(catalogue: Catalogue, *, stripe: StripeWorld, apim: ApimWorld, known: Known, plans: Plans = NOWHERE) -> Plan:
    """Compare; Stripe comes first, so that a product is offered in the portal only when it can be sold."""
    stripe_wanted, stripe_removed = stripe_steps(catalogue, stripe, known)
    apim_wanted, apim_removed = apim_steps(catalogue, apim, plans)
    found = [*stripe_wanted, *apim_wanted, *stripe_removed, *apim_removed]
    steps = tuple(step for step in found if step.action != "keep")
    return Plan(steps, tuple(step for step in found if step.action == "keep"), digest(catalogue))


def known_of(versions: Iterable[Version]) -> Known:
    """Return what versions, newest first, say about their prices and meters."""
    known = Known()
    for version in versions:
        for product in desired_products(version.catalogue):
            ids = version.stripe_ids.get(product.product_id, {})
            for price in product.prices:
                price_id = ids.get("prices_by_currency", {}).get(price.currency, {}).get(price.component)
                words = price_words(version.catalogue, version.catalogue.product(product.product_id), price.currency)
                known.words.setdefault(price.lookup_key, words.get(price.component, ""))
                if price_id:
                    known.prices.setdefault(price.lookup_key, price_id)
            for meter in product.meters:
                if meter.meter_id in ids.get("meters", {}):
                    known.meters.setdefault(meter.event_name, ids["meters"][meter.meter_id]["id"])
    return known


def stripe_ids(catalogue: Catalogue, world: StripeWorld, known: Known) -> dict[str, Any]:
    """Return what `catalogue.applied` carries: ids at Stripe of everything this catalogue sells."""
    found: dict[str, Any] = {}
    for product in desired_products(catalogue):
        default = catalogue.currency_of(catalogue.product(product.product_id))
        by_currency: dict[str, dict[str, str]] = {}
        for price in product.prices:
            by_currency.setdefault(price.currency, {})[price.component] = _there(world.price(price.lookup_key, known.prices)).stripe_id
        meters = {meter.meter_id: meter.event_name for meter in product.meters}
        found[product.product_id] = {
            "product": product.stripe_id,
            "prices": by_currency.get(default, {}),
            "prices_by_currency": by_currency,
            "meters": {
                meter_id: {"id": _there(world.meter(event_name, known.meters)).stripe_id, "event_name": event_name}
                for meter_id, event_name in meters.items()
            },
        }
    return found


def _there(found: Any) -> Any:
    if found is None:
        raise LookupError("an object that was just made is not in Stripe's list")
    return found


def names_of_ids(stripe_ids: Mapping[str, Any]) -> dict[str, str]:
    """Return id at Stripe -> what it is, of everything a version sells."""
    found: dict[str, str] = {}
    for product_id, ids in stripe_ids.items():
        found[ids["product"]] = f"product {product_id}"
        found |= {meter["id"]: f"meter {meter['event_name']}" for meter in ids["meters"].values()}
        for currency, prices in ids["prices_by_currency"].items():
            found |= {price_id: f"price {product_id} {component} {currency}" for component, price_id in prices.items()}
    return found
