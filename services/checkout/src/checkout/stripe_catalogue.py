"""Stripe, for the catalogue: what products, meters and prices are there, and the calls that change them."""

from dataclasses import dataclass, field
from typing import Any

import stripe

from billing_common.catalogue_stripe import DesiredMeter, DesiredPrice, DesiredProduct
from checkout.stripe_gateway import metadata_of, once, stripe_errors

PAGE = 100


@dataclass(frozen=True)
class SeenProduct:
    """A product of Turnpike's at Stripe."""

    stripe_id: str
    product_id: str
    name: str
    description: str
    features: tuple[str, ...]
    active: bool


@dataclass(frozen=True)
class SeenMeter:
    stripe_id: str
    event_name: str
    active: bool


@dataclass(frozen=True)
class SeenPrice:
    stripe_id: str
    lookup_key: str
    product_id: str
    active: bool


@dataclass(frozen=True)
class StripeWorld:
    """Everything at Stripe that carries Turnpike's marks."""

    products: dict[str, SeenProduct] = field(default_factory=dict)
    meters: dict[str, SeenMeter] = field(default_factory=dict)
    prices: dict[str, SeenPrice] = field(default_factory=dict)


class StripeCatalogue:
    """Reads and writes the catalogue's objects. Each create can be repeated: ids, event names and lookup keys are our own."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def read(self) -> StripeWorld:
        async with stripe_errors():
            products = {seen.stripe_id: seen async for entry in self._pages(self._v1.products) if (seen := self._product(entry))}
            meters: dict[str, SeenMeter] = {}
            async for meter in self._pages(self._v1.billing.meters):
                found = SeenMeter(meter.id, meter.event_name, meter.status == "active")
                if meter.event_name.startswith("turnpike_") and (found.active or meter.event_name not in meters):
                    meters[meter.event_name] = found
            prices = {price.lookup_key: price async for entry in self._pages(self._v1.prices) if (price := self._price(entry))}
        return StripeWorld(products, meters, prices)

    async def create_product(self, product: DesiredProduct, *, key: str) -> None:
        params: Any = {"id": product.stripe_id, **product.parameters()}
        async with stripe_errors():
            try:
                await self._v1.products.create_async(params, once(key))
            except stripe.InvalidRequestError as error:
                if error.code != "resource_already_exists":
                    raise
                await self._v1.products.update_async(product.stripe_id, params | {"id": None})

    async def update_product(self, product: DesiredProduct, *, key: str) -> None:
        params: Any = product.parameters() | {"description": product.description}
        async with stripe_errors():
            await self._v1.products.update_async(product.stripe_id, params, once(key))

    async def archive_product(self, stripe_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.products.update_async(stripe_id, {"active": False}, once(key))

    async def create_meter(self, meter: DesiredMeter, *, key: str) -> str:
        params: Any = meter.parameters()
        async with stripe_errors():
            return (await self._v1.billing.meters.create_async(params, once(key))).id

    async def reactivate_meter(self, stripe_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.billing.meters.reactivate_async(stripe_id, {}, once(key))

    async def create_price(self, price: DesiredPrice, meter_stripe_id: str | None, *, key: str) -> str:
        params: Any = price.parameters(meter_stripe_id)
        async with stripe_errors():
            return (await self._v1.prices.create_async(params, once(key))).id

    async def set_price_active(self, stripe_id: str, *, active: bool, key: str) -> None:
        async with stripe_errors():
            await self._v1.prices.update_async(stripe_id, {"active": active}, once(key))

    @staticmethod
    async def _pages(service: Any) -> Any:
        listing = await service.list_async({"limit": PAGE})
        async for entry in listing.auto_paging_iter():
            yield entry

    @staticmethod
    def _product(entry: Any) -> SeenProduct | None:
        metadata = metadata_of(entry)
        if "turnpike_product_id" not in metadata:
            return None
        features = tuple(feature.name for feature in entry.marketing_features or [])
        return SeenProduct(entry.id, metadata["turnpike_product_id"], entry.name, entry.description or "", features, entry.active)

    @staticmethod
    def _price(entry: Any) -> SeenPrice | None:
        metadata = metadata_of(entry)
        if not (entry.lookup_key or "").startswith("turnpike:") or "turnpike_product_id" not in metadata:
            return None
        return SeenPrice(entry.id, entry.lookup_key, metadata["turnpike_product_id"], entry.active)
