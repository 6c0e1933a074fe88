"""Compares a catalogue with API Management. Pure functions."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from billing_common.catalogue import Catalogue, Product
from checkout import policy
from checkout.apim_gateway import GROUPS, SeenApimProduct
from checkout.policy import NOWHERE, PolicyError
from checkout.policy_answers import Plans
from checkout.steps import Change, Step, compared

ALWAYS_LINKED = frozenset({"administrators"})  # APIM's own: it cannot be taken away


@dataclass(frozen=True)
class ApimWorld:
    """What stands at APIM for the products of this catalogue and of those before.

    `recorded`: products whose calls must go on being recorded, whatever this catalogue says, for somebody is billed by the record.
    `takes_records`: a record that nobody is billed by any more is nothing wrong, as long as nothing else is to be done.
    """

    logger_is_right: bool
    products: Mapping[str, SeenApimProduct | None]
    recorded: Collection[str] = frozenset()
    takes_records: bool = False


def apim_steps(catalogue: Catalogue, world: ApimWorld, plans: Plans = NOWHERE) -> tuple[list[Step], list[Step]]:
    """Return what is wanted, also where it is there, and what goes last."""
    wanted = [Step("apim", "keep" if world.logger_is_right else "update", "logger", policy.LOGGER_ID)]
    for product in catalogue.products:
        seen = world.products.get(product.id)
        wanted += [_product(product, seen), *_groups(product, seen), *_apis(product, seen), _policy(product, seen, world, plans)]
    return wanted, list(_removed(catalogue, world))


def _product(product: Product, seen: SeenApimProduct | None) -> Step:
    if seen is None:
        return Step("apim", "create", "product", product.id, product.id, product.name, subject=product)
    changes = compared(
        ("name", seen.display_name, product.name),
        ("description", seen.description, product.description),
        ("published", seen.published, True),
        ("needs a subscription", seen.subscription_required, True),
        ("needs approval", seen.approval_required, False),
    )
    return Step("apim", "update" if changes else "keep", "product", product.id, product.id, changes=changes, subject=product)


def _groups(product: Product, seen: SeenApimProduct | None) -> Iterable[Step]:
    have = seen.groups if seen else frozenset()
    for group in GROUPS:
        yield Step("apim", "keep" if group in have else "link", "group", group, product.id, f"product {product.id}")
    for group in sorted(have - set(GROUPS) - ALWAYS_LINKED):
        yield Step("apim", "unlink", "group", group, product.id, f"product {product.id}; only {', '.join(GROUPS)} are to see it")


def _apis(product: Product, seen: SeenApimProduct | None) -> Iterable[Step]:
    have = seen.apis if seen else frozenset()
    for api in product.apis:
        yield Step("apim", "keep" if api in have else "link", "api", api, product.id, f"product {product.id}")
    for api in sorted(have - set(product.apis)):
        yield Step("apim", "unlink", "api", api, product.id, f"product {product.id}")


def _policy(product: Product, seen: SeenApimProduct | None, world: ApimWorld, plans: Plans) -> Step:
    existing = seen.policy if seen else None
    try:
        merged = policy.merge(existing, product, plans, records=product.id in world.recorded)
        if world.takes_records and policy.same(existing, recording := policy.merge(existing, product, plans, records=True)):
            merged = recording
        changes = tuple(Change(*entry) for entry in policy.differences(existing, merged))
    except PolicyError as error:
        raise PolicyError(f"product {product.id}: {error}") from error
    if policy.same(existing, merged):
        return Step("apim", "keep", "policy", product.id, product.id)
    if existing is None:
        return Step("apim", "create", "policy", product.id, product.id, _limits(product), subject=merged)
    return Step("apim", "update", "policy", product.id, product.id, _limits(product), changes, subject=merged)


def _limits(product: Product) -> str:
    rate = f"{product.rate_limit.calls:,} calls in {product.rate_limit.per_seconds} s" if product.rate_limit else "no rate limit"
    quota = f", quota {product.quota.calls:,}" if product.quota and product.quota.beyond == "stop" else ""
    gates = "".join(f", {len(operations)} operations of {api}" for api, operations in product.operations.items())
    return rate + quota + gates


def _removed(catalogue: Catalogue, world: ApimWorld) -> Iterable[Step]:
    kept = {product.id for product in catalogue.products}
    for product_id, seen in world.products.items():
        if product_id not in kept and seen is not None and seen.published:
            yield Step("apim", "unpublish", "product", product_id, product_id, f"{seen.display_name}; its keys go on working")
