"""What an apply would do: the difference between a catalogue and what stands at APIM and Stripe. Pure functions."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_stripe import DesiredPrice, DesiredProduct, desired_products
from checkout import policy
from checkout.apim_gateway import GROUPS, SeenApimProduct
from checkout.policy_answers import Plans
from checkout.stripe_catalogue import StripeWorld

Action = Literal["create", "update", "reactivate", "archive", "link", "unlink", "unpublish"]


@dataclass(frozen=True)
class ApimWorld:
    """What stands at APIM for the products of this catalogue and of the one before."""

    logger_is_right: bool
    products: Mapping[str, SeenApimProduct | None]


@dataclass(frozen=True)
class Step:
    """One change outside. `subject` is the thing itself, for whoever carries the step out."""

    system: Literal["apim", "stripe"]
    action: Action
    kind: str
    name: str
    product_id: str = ""
    detail: str = ""
    subject: Any = field(default=None, compare=False, repr=False)

    def text(self) -> str:
        """Return the step as one line for a person."""
        return f"{self.system}: {self.action} {self.kind} {self.name}{f' ({self.detail})' if self.detail else ''}"

    def public(self) -> dict[str, Any]:
        """Return the step as plain JSON."""
        return {name: value for name, value in asdict(self).items() if name != "subject"} | {"text": self.text()}


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they are carried out, and how many things stay as they are."""

    steps: tuple[Step, ...]
    unchanged: int

    @property
    def fingerprint(self) -> str:
        """Names exactly these steps: an apply that finds others refuses when it was told to do these."""
        return hashlib.sha256(json.dumps([step.text() for step in self.steps]).encode()).hexdigest()[:16]


def digest(catalogue: Catalogue) -> str:
    """Return the identity of a catalogue's content."""
    return hashlib.sha256(json.dumps(catalogue.document(), sort_keys=True).encode()).hexdigest()


def make_plan(catalogue: Catalogue, *, stripe: StripeWorld, apim: ApimWorld, plans: Plans = policy.NOWHERE) -> Plan:
    """Compare; Stripe comes first, so that a product is offered in the portal only when it can be sold."""
    desired = desired_products(catalogue)
    wanted = [*_stripe_wanted(desired, stripe), *_apim_wanted(catalogue, apim, plans)]
    steps = [step for step in wanted if step is not None]
    removed = [*_stripe_removed(desired, stripe), *_apim_removed(catalogue, apim)]
    return Plan((*steps, *removed), unchanged=len(wanted) - len(steps))


def _stripe_wanted(desired: Iterable[DesiredProduct], world: StripeWorld) -> Iterable[Step | None]:
    for product in desired:
        yield _stripe_product(product, world)
        for meter in product.meters:
            seen = world.meters.get(meter.event_name)
            step = Step("stripe", "create" if seen is None else "reactivate", "meter", meter.event_name, product.product_id, subject=meter)
            yield None if seen is not None and seen.active else step
        for price in product.prices:
            yield _stripe_price(price, world)


def _stripe_product(product: DesiredProduct, world: StripeWorld) -> Step | None:
    seen = world.products.get(product.stripe_id)
    if seen is None:
        return Step("stripe", "create", "product", product.stripe_id, product.product_id, product.name, subject=product)
    if (seen.name, seen.description, seen.features, seen.active) == (product.name, product.description, product.features, True):
        return None
    return Step("stripe", "update", "product", product.stripe_id, product.product_id, product.name, subject=product)


def _stripe_price(price: DesiredPrice, world: StripeWorld) -> Step | None:
    seen = world.prices.get(price.lookup_key)
    if seen is not None and seen.active:
        return None
    siblings = [known for known in world.prices.values() if known.active and _same_place(known.lookup_key, price.lookup_key)]
    detail = "replaces the price that is archived" if siblings else ""
    return Step("stripe", "create" if seen is None else "reactivate", "price", price.lookup_key, price.product_id, detail, subject=price)


def _same_place(left: str, right: str) -> bool:
    return left.rsplit(":", 1)[0] == right.rsplit(":", 1)[0]


def _stripe_removed(desired: tuple[DesiredProduct, ...], world: StripeWorld) -> Iterable[Step]:
    keys = {price.lookup_key for product in desired for price in product.prices}
    for price in world.prices.values():
        if price.active and price.lookup_key not in keys:
            yield Step("stripe", "archive", "price", price.lookup_key, price.product_id, "its subscribers stay on it")
    kept = {product.stripe_id for product in desired}
    for product in world.products.values():
        if product.active and product.stripe_id not in kept:
            yield Step("stripe", "archive", "product", product.stripe_id, product.product_id)


def _apim_wanted(catalogue: Catalogue, world: ApimWorld, plans: Plans) -> Iterable[Step | None]:
    yield None if world.logger_is_right else Step("apim", "update", "logger", policy.LOGGER_ID)
    for product in catalogue.products:
        seen = world.products.get(product.id)
        yield _apim_product(product, seen)
        for group in GROUPS:
            linked = seen is not None and group in seen.groups
            yield None if linked else Step("apim", "link", "group", group, product.id, f"product {product.id}")
        have = seen.apis if seen else frozenset()
        for api in product.apis:
            yield None if api in have else Step("apim", "link", "api", api, product.id, f"product {product.id}")
        for api in sorted(have - set(product.apis)):
            yield Step("apim", "unlink", "api", api, product.id, f"product {product.id}")
        merged = policy.merge(seen.policy if seen else None, product, plans)
        right = policy.same(seen.policy if seen else None, merged)
        action: Action = "update" if seen and seen.policy else "create"
        yield None if right else Step("apim", action, "policy", product.id, product.id, _limits(product), subject=merged)


def _apim_product(product: Product, seen: SeenApimProduct | None) -> Step | None:
    if seen is None:
        return Step("apim", "create", "product", product.id, product.id, product.name, subject=product)
    if (seen.display_name, seen.description, seen.published) == (product.name, product.description, True):
        return None
    return Step("apim", "update", "product", product.id, product.id, product.name, subject=product)


def _limits(product: Product) -> str:
    rate = f"{product.rate_limit.calls:,} calls in {product.rate_limit.per_seconds} s" if product.rate_limit else "no rate limit"
    quota = f", quota {product.quota.calls:,}" if product.quota and product.quota.beyond == "stop" else ""
    gates = "".join(f", {len(operations)} operations of {api}" for api, operations in product.operations.items())
    return rate + quota + gates


def _apim_removed(catalogue: Catalogue, world: ApimWorld) -> Iterable[Step]:
    kept = {product.id for product in catalogue.products}
    for product_id, seen in world.products.items():
        if product_id not in kept and seen is not None and seen.published:
            yield Step("apim", "unpublish", "product", product_id, product_id, "its keys go on working")


def stripe_ids(catalogue: Catalogue, world: StripeWorld) -> dict[str, Any]:
    """Return what `catalogue.applied` carries: ids at Stripe of everything this catalogue sells."""
    found: dict[str, Any] = {}
    for product in desired_products(catalogue):
        default = catalogue.currency_of(catalogue.product(product.product_id))
        by_currency: dict[str, dict[str, str]] = {}
        for price in product.prices:
            by_currency.setdefault(price.currency, {})[price.component] = world.prices[price.lookup_key].stripe_id
        found[product.product_id] = {
            "product": product.stripe_id,
            "prices": by_currency.get(default, {}),
            "prices_by_currency": by_currency,
            "meters": {
                meter.meter_id: {"id": world.meters[meter.event_name].stripe_id, "event_name": meter.event_name} for meter in product.meters
            },
        }
    return found
