"""What a catalogue is at Stripe: products, meters and prices as the parameters that create them. Pure functions, no Stripe."""

import hashlib
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from billing_common.catalogue import Catalogue, Price, Product, UsagePrice
from billing_common.catalogue_model import meter_event_name
from billing_common.catalogue_tiers import Slice, has_slices, slices_of, unit_rate
from billing_common.money import plain, round_half_up, to_minor

__all__ = ["DesiredMeter", "DesiredPrice", "DesiredProduct", "desired_product", "desired_products", "meter_event_name", "stripe_product_id"]


@dataclass(frozen=True)
class DesiredMeter:
    """A Stripe meter. Meter events name a customer and no subscription, so each product has meters of its own."""

    meter_id: str
    event_name: str
    display_name: str

    def parameters(self) -> dict[str, Any]:
        """Return what creates it."""
        return {
            "display_name": self.display_name,
            "event_name": self.event_name,
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }


@dataclass(frozen=True)
class DesiredPrice:
    """A Stripe price. It cannot be changed: another amount gives another lookup key, so another price."""

    component: str
    currency: str
    lookup_key: str
    amounts: dict[str, Any] = field(hash=False)
    meter_id: str | None
    product_id: str
    stripe_product_id: str
    nickname: str

    def parameters(self, meter_stripe_id: str | None) -> dict[str, Any]:
        """Return what creates it, with the id of the meter that was created before."""
        amounts = dict(self.amounts)
        if meter_stripe_id is not None:
            amounts["recurring"] = {**amounts["recurring"], "meter": meter_stripe_id}
        return {"product": self.stripe_product_id, "currency": self.currency, **self.marks(), **amounts}

    def marks(self) -> dict[str, Any]:
        """Return what can be changed at Stripe after the creation: how the price is found and called."""
        return {
            "lookup_key": self.lookup_key,
            "nickname": self.nickname,
            "metadata": {"turnpike_product_id": self.product_id, "turnpike_component": self.component},
        }


@dataclass(frozen=True)
class DesiredProduct:
    """A Stripe product with its meters and prices. `prices` stand in the order of the invoice, the default currency first."""

    product_id: str
    stripe_id: str
    name: str
    description: str
    features: tuple[str, ...]
    meters: tuple[DesiredMeter, ...]
    prices: tuple[DesiredPrice, ...]

    def parameters(self) -> dict[str, Any]:
        """Return what creates or updates it; the id is set at creation only."""
        texts = {"description": self.description} if self.description else {}
        return {
            "name": self.name,
            **texts,
            "metadata": {"turnpike_product_id": self.product_id},
            "marketing_features": [{"name": feature} for feature in self.features],
            "active": True,
        }


def stripe_product_id(product_id: str) -> str:
    """Return the id of the product at Stripe: chosen by us, so that creating it twice is one product."""
    return f"turnpike_{product_id}"


def desired_products(catalogue: Catalogue) -> tuple[DesiredProduct, ...]:
    """Return everything that should be at Stripe. A free product has no price and no meter there: it is only listed."""
    return tuple(desired_product(catalogue, product) for product in catalogue.products)


def desired_product(catalogue: Catalogue, product: Product) -> DesiredProduct:
    meters = tuple(
        DesiredMeter(meter_id, meter_event_name(product.id, meter_id), f"{product.name}: {catalogue.meters[meter_id].name}"[:250])
        for meter_id in product.priced_meters()
    )
    currencies = dict.fromkeys((catalogue.currency_of(product), *product.currencies))
    prices = [
        desired
        for currency in currencies
        if (price := catalogue.price_of(product, currency)) is not None
        for desired in _prices(catalogue, product, price, currency)
    ]
    return DesiredProduct(
        product.id, stripe_product_id(product.id), product.name, product.description, product.features, meters, tuple(prices)
    )


def _prices(catalogue: Catalogue, product: Product, price: Price, currency: str) -> list[DesiredPrice]:
    recurring = {"interval": product.interval, "usage_type": "licensed"}
    metered = {"interval": product.interval, "usage_type": "metered"}
    found: list[DesiredPrice] = []
    amounts: dict[str, Any]
    if price.setup is not None:
        amounts = {"unit_amount": round_half_up(to_minor(price.setup, currency))}
        found.append(_price(product, currency, "setup", amounts, nickname="setup"))
    if price.base is not None:
        amounts = {"unit_amount": round_half_up(to_minor(price.base, currency)), "recurring": recurring}
        found.append(_price(product, currency, "base", amounts, nickname="base fee"))
    for usage in price.usage:
        amounts = {**_usage_amounts(usage, currency), "recurring": metered}
        name = catalogue.meters[usage.meter].name
        found.append(_price(product, currency, f"usage:{usage.meter}", amounts, nickname=name, meter_id=usage.meter))
    if price.unit is not None:
        amounts = {
            "unit_amount": round_half_up(to_minor(price.unit.amount, currency)),
            "transform_quantity": {"divide_by": price.unit.size, "round": "up"},
            "recurring": metered,
        }
        name = catalogue.meters[price.unit.meter].name
        found.append(_price(product, currency, "unit", amounts, nickname=name, meter_id=price.unit.meter))
    return found


def _price(
    product: Product, currency: str, component: str, amounts: dict[str, Any], *, nickname: str, meter_id: str | None = None
) -> DesiredPrice:
    identity = json.dumps([amounts, meter_id], sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:12]
    key = f"turnpike:{product.id}:{component}:{currency}:{fingerprint}"
    return DesiredPrice(component, currency, key, amounts, meter_id, product.id, stripe_product_id(product.id), nickname)


def _usage_amounts(usage: UsagePrice, currency: str) -> dict[str, Any]:
    if usage.rounding != "exact" and not has_slices(usage):
        return {
            "unit_amount_decimal": plain(to_minor(usage.amount or Decimal(0), currency)),
            "transform_quantity": {"divide_by": usage.per, "round": "up" if usage.rounding == "started" else "down"},
        }
    slices = tuple(slices_of(usage))
    if len(slices) == 1 and not slices[0].flat:
        return {"unit_amount_decimal": plain(unit_rate(slices[0].amount, slices[0].per, currency))}
    return {"billing_scheme": "tiered", "tiers_mode": usage.mode, "tiers": [_tier(entry, currency) for entry in slices]}


def _tier(entry: Slice, currency: str) -> dict[str, Any]:
    flat = {"flat_amount": round_half_up(to_minor(entry.flat, currency))} if entry.flat else {}
    rate = plain(unit_rate(entry.amount, entry.per, currency))
    return {"up_to": "inf" if entry.up_to is None else entry.up_to, "unit_amount_decimal": rate, **flat}
