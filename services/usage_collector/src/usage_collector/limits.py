"""What a product's quota, included amounts and tiers are, and what of them is announced. Pure functions."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from billing_common.catalogue import Product
from billing_common.catalogue_model import Quota, UsagePrice

OF_INCLUDED = (Decimal("0.5"), Decimal("0.8"), Decimal(1))


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold at or below a total. `limit` is what it is a share of, or the last unit before a tier."""

    kind: Literal["allowance", "tier"]
    threshold: Decimal
    limit: int
    hard_stop: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount of a meter whose shares are announced. Without a quota it is an included amount, which counts by segment."""

    meter_id: str
    amount: int
    thresholds: tuple[Decimal, ...]
    product: Product
    quota: Quota | None = None

    def reached(self, quantity: int) -> list[Reached]:
        return [
            Reached("allowance", threshold, self.amount, self.stops_at(threshold))
            for threshold in self.thresholds
            if quantity >= threshold * self.amount
        ]

    def stops_at(self, threshold: Decimal) -> bool:
        """API Management itself stops what runs through it; other gateways have to be told."""
        return self.quota is not None and self.quota.beyond == "stop" and self.product.source != "stream" and threshold >= 1


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers of a meter's price behind the first one: (number in the price, last unit before it). Counted by segment, as priced."""

    meter_id: str
    entries: tuple[tuple[int, int], ...]

    def reached(self, quantity: int) -> list[Reached]:
        return [Reached("tier", Decimal(number), before) for number, before in self.entries if quantity > before]


def limits_of(product: Product) -> tuple[Limit, ...]:
    """Return the limits of a product. A quota goes before an included amount of the same meter."""
    limits = {}
    for usage in product.price.usage if product.price else ():
        if usage.included:
            limits[usage.meter] = Limit(usage.meter, usage.included, OF_INCLUDED, product)
    if (quota := product.quota) is not None:
        limits[quota.meter] = Limit(quota.meter, quota.calls, quota.thresholds, product, quota)
    return tuple(limits.values())


def tiers_of(product: Product) -> tuple[Tiers, ...]:
    """Return the meters of a product whose price has more than one tier (or volume discount)."""
    found = [Tiers(usage.meter, _entries(usage)) for usage in (product.price.usage if product.price else ())]
    return tuple(tiers for tiers in found if tiers.entries)


def _entries(usage: UsagePrice) -> tuple[tuple[int, int], ...]:
    """A discount that ends within what is included is never charged: the first one that is begins where that amount is used up."""
    ends = [entry.up_to for entry in usage.tiers or usage.discounts]
    return tuple((number, end) for number, end in enumerate(ends, start=2) if end is not None and end > usage.included)
