"""What a product's quota and included amounts are, and which of their shares are announced. Pure functions."""

from dataclasses import dataclass
from decimal import Decimal

from billing_common.catalogue import Product
from billing_common.catalogue_model import Quota

OF_INCLUDED = (Decimal("0.5"), Decimal("0.8"), Decimal(1))


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount of a meter whose shares are announced. Without a quota it is an included amount, which counts by segment."""

    meter_id: str
    amount: int
    thresholds: tuple[Decimal, ...]
    product: Product
    quota: Quota | None = None

    def reached(self, quantity: int) -> list[Decimal]:
        return [threshold for threshold in self.thresholds if quantity >= threshold * self.amount]

    def stops_at(self, threshold: Decimal) -> bool:
        """API Management itself stops what runs through it; other gateways have to be told."""
        return self.quota is not None and self.quota.beyond == "stop" and self.product.source != "stream" and threshold >= 1


def limits_of(product: Product) -> tuple[Limit, ...]:
    """Return the limits of a product. A quota goes before an included amount of the same meter."""
    limits = {}
    for usage in product.price.usage if product.price else ():
        if usage.included:
            limits[usage.meter] = Limit(usage.meter, usage.included, OF_INCLUDED, product)
    if (quota := product.quota) is not None:
        limits[quota.meter] = Limit(quota.meter, quota.calls, quota.thresholds, product, quota)
    return tuple(limits.values())
