"""Compares a catalogue with Stripe. Pure functions."""

from collections.abc import Iterable

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import DesiredMeter, DesiredPrice, DesiredProduct, desired_products
from billing_common.catalogue_words import component_name, price_words
from checkout.steps import Action, Known, Step, compared
from checkout.stripe_catalogue import SeenPrice, StripeWorld


def stripe_steps(catalogue: Catalogue, world: StripeWorld, known: Known) -> tuple[list[Step], list[Step]]:
    """Return what is wanted, also where it is there, and what is in the way and goes last."""
    desired = desired_products(catalogue)
    places = {_place(price.lookup_key): price.lookup_key for product in desired for price in product.prices}
    matched = {
        seen.stripe_id
        for product in desired
        for price in product.prices
        if (seen := world.price(price.lookup_key, known.prices)) is not None
    }
    keys = {stripe_id: key for key, stripe_id in known.prices.items()}
    leaving = [price for price in world.prices.values() if price.active and price.stripe_id not in matched]
    leaving_keys = {price.stripe_id: keys.get(price.stripe_id, "") for price in leaving}
    making_room = {_place(key): key for key in leaving_keys.values() if key}
    wanted: list[Step] = []
    for product in desired:
        wanted.append(_product(product, world, set(leaving_keys)))
        for meter in product.meters:
            wanted += _meter(meter, product.product_id, world, known)
        words = {currency: price_words(catalogue, catalogue.product(product.product_id), currency) for currency in _currencies(product)}
        for price in product.prices:
            old_key = making_room.get(_place(price.lookup_key), "")
            text = words[price.currency][price.component]
            name = component_name(catalogue, price.component)
            wanted.append(_price(price, world, known, text=text, name=name, old_key=old_key))
    removed = [_leaving(price, leaving_keys[price.stripe_id], places, known) for price in leaving]
    return wanted, [*removed, *_products_removed(desired, world)]


def _currencies(product: DesiredProduct) -> Iterable[str]:
    return dict.fromkeys(price.currency for price in product.prices)


def _place(lookup_key: str) -> str:
    """Return product, component and currency: where one price takes the place of another."""
    return lookup_key.rsplit(":", 1)[0]


def _product(product: DesiredProduct, world: StripeWorld, leaving: set[str]) -> Step:
    """A default price is nobody's business unless it has to go: Stripe does not archive one."""
    seen = world.products.get(product.stripe_id)
    if seen is None:
        return Step("stripe", "create", "product", product.stripe_id, product.product_id, product.name, subject=product)
    default = seen.default_price if seen.default_price in leaving else ""
    changes = compared(
        ("name", seen.name, product.name),
        ("description", seen.description, product.description),
        ("features", seen.features, product.features),
        ("active", seen.active, True),
        ("metadata turnpike_product_id", seen.product_id, product.product_id),
        ("default price", default, ""),
    )
    action: Action = "update" if changes else "keep"
    return Step("stripe", action, "product", product.stripe_id, product.product_id, changes=changes, subject=(product, bool(default)))


def _meter(meter: DesiredMeter, product_id: str, world: StripeWorld, known: Known) -> Iterable[Step]:
    seen = world.meter(meter.event_name, known.meters)
    if seen is None:
        yield Step("stripe", "create", "meter", meter.event_name, product_id, subject=meter)
        return
    for rival in world.meters.values():
        if rival.event_name == meter.event_name and rival.active and rival.stripe_id != seen.stripe_id:
            detail = "it has taken the event name of ours"
            yield Step("stripe", "archive", "meter", rival.stripe_id, product_id, detail, subject=rival)
    changes = compared(("active", seen.active, True), ("display name", seen.display_name, meter.display_name))
    action: Action = "keep" if not changes else "update" if seen.active else "reactivate"
    yield Step("stripe", action, "meter", meter.event_name, product_id, changes=changes, subject=(seen.stripe_id, meter))


def _price(price: DesiredPrice, world: StripeWorld, known: Known, *, text: str, name: str, old_key: str) -> Step:
    seen = world.price(price.lookup_key, known.prices)
    old = known.words.get(old_key, "another price") if old_key else ""
    detail = f"{name}: {old} -> {text}" if old else f"{name}: {text}"
    if seen is None:
        return Step("stripe", "create", "price", price.lookup_key, price.product_id, detail, replaces=old_key, subject=price)
    changes = compared(
        ("active", seen.active, True),
        ("lookup key", seen.lookup_key, price.lookup_key),
        ("nickname", seen.nickname, price.nickname),
        ("metadata turnpike_product_id", seen.product_id, price.product_id),
        ("metadata turnpike_component", seen.component, price.component),
    )
    action: Action = "keep" if not changes else "update" if seen.active else "reactivate"
    replaces = old_key if action == "reactivate" else ""
    shown = detail if replaces else f"{name}: {text}"
    return Step(
        "stripe", action, "price", price.lookup_key, price.product_id, shown, changes, replaces=replaces, subject=(seen.stripe_id, price)
    )


def _leaving(price: SeenPrice, key: str, places: dict[str, str], known: Known) -> Step:
    """An active price that the catalogue does not have: replaced, no longer sold, or made by hand."""
    product_id = price.product_id or price.stripe_product_id.removeprefix("turnpike_")
    if key in known.words:
        new_key = places.get(_place(key), "")
        detail = f"{known.words[key]}; its subscribers stay on it"
        return Step("stripe", "archive", "price", key, product_id, detail, replaces=new_key, subject=price.stripe_id)
    detail = f"{f'{price.nickname}, ' if price.nickname else ''}not of an applied catalogue; who has it stays on it"
    return Step("stripe", "archive", "price", price.stripe_id, product_id, detail, subject=price.stripe_id)


def _products_removed(desired: Iterable[DesiredProduct], world: StripeWorld) -> Iterable[Step]:
    kept = {product.stripe_id for product in desired}
    for product in world.products.values():
        if product.active and product.stripe_id not in kept:
            yield Step("stripe", "archive", "product", product.stripe_id, product.product_id, product.name)
