"""Stripe, for the catalogue: what products, meters and prices are there, and the calls that change them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import stripe

from billing_common.catalogue_stripe import DesiredMeter, DesiredPrice, DesiredProduct
from checkout.stripe_gateway import metadata_of, once, stripe_errors

PAGE = 100
MARK = "turnpike_"  # how ids of products and event names of meters begin


@dataclass(frozen=True)
class SeenProduct:
    """A product of Turnpike's at Stripe. `product_id` is what its metadata says."""

    stripe_id: str
    product_id: str
    name: str
    description: str
    features: tuple[str, ...]
    active: bool
    default_price: str


@dataclass(frozen=True)
class SeenMeter:
    stripe_id: str
    event_name: str
    display_name: str
    active: bool


@dataclass(frozen=True)
class SeenPrice:
    """A price of one of our products, also one that somebody made by hand; everything but the ids may have been changed."""

    stripe_id: str
    stripe_product_id: str
    lookup_key: str
    product_id: str
    component: str
    nickname: str
    active: bool


@dataclass(frozen=True)
class StripeWorld:
    """Everything at Stripe that is Turnpike's, by its id there."""

    products: dict[str, SeenProduct] = field(default_factory=dict)
    meters: dict[str, SeenMeter] = field(default_factory=dict)
    prices: dict[str, SeenPrice] = field(default_factory=dict)

    def price(self, lookup_key: str, known: Mapping[str, str]) -> SeenPrice | None:
        """Return our price: the one that an applied version names, else the one with the lookup key."""
        if (found := self.prices.get(known.get(lookup_key, ""))) is not None:
            return found
        return next((price for price in self.prices.values() if price.lookup_key == lookup_key), None)

    def meter(self, event_name: str, known: Mapping[str, str]) -> SeenMeter | None:
        """Return our meter: the one that an applied version names, else the one that is active."""
        if (found := self.meters.get(known.get(event_name, ""))) is not None:
            return found
        named = [meter for meter in self.meters.values() if meter.event_name == event_name]
        return next((meter for meter in named if meter.active), named[0] if named else None)


class StripeCatalogue:
    """Reads and writes the catalogue's objects. Each create can be repeated: ids, event names and lookup keys are our own."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def read(self) -> StripeWorld:
        async with stripe_errors():
            products = {seen.stripe_id: seen async for entry in self._pages(self._v1.products) if (seen := self._product(entry))}
            meters = {
                meter.id: SeenMeter(meter.id, meter.event_name, meter.display_name, meter.status == "active")
                async for meter in self._pages(self._v1.billing.meters)
                if meter.event_name.startswith(MARK)
            }
            prices = {price.stripe_id: price async for entry in self._pages(self._v1.prices) if (price := self._price(entry, products))}
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

    async def update_product(self, product: DesiredProduct, *, clear_default_price: bool, key: str) -> None:
        cleared = {"default_price": ""} if clear_default_price else {}
        params: Any = product.parameters() | {"description": product.description} | cleared
        async with stripe_errors():
            await self._v1.products.update_async(product.stripe_id, params, once(key))

    async def archive_product(self, stripe_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.products.update_async(stripe_id, {"active": False}, once(key))

    async def create_meter(self, meter: DesiredMeter, *, key: str) -> str:
        params: Any = meter.parameters()
        async with stripe_errors():
            return (await self._v1.billing.meters.create_async(params, once(key))).id

    async def restore_meter(self, stripe_id: str, meter: DesiredMeter, *, inactive: bool, key: str) -> None:
        """Bring a meter that is there back to what it should be."""
        async with stripe_errors():
            if inactive:
                await self._v1.billing.meters.reactivate_async(stripe_id, {}, once(f"{key}:on"))
            await self._v1.billing.meters.update_async(stripe_id, {"display_name": meter.display_name}, once(key))

    async def archive_meter(self, stripe_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.billing.meters.deactivate_async(stripe_id, {}, once(key))

    async def create_price(self, price: DesiredPrice, meter_stripe_id: str | None, *, key: str) -> str:
        params: Any = price.parameters(meter_stripe_id)
        async with stripe_errors():
            return (await self._v1.prices.create_async(params, once(key))).id

    async def restore_price(self, stripe_id: str, price: DesiredPrice, *, key: str) -> None:
        """Bring everything about a price that can be changed back to what it should be, and put it on sale."""
        params: Any = {**price.marks(), "transfer_lookup_key": True, "active": True}
        async with stripe_errors():
            await self._v1.prices.update_async(stripe_id, params, once(key))

    async def archive_price(self, stripe_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.prices.update_async(stripe_id, {"active": False}, once(key))

    @staticmethod
    async def _pages(service: Any) -> Any:
        listing = await service.list_async({"limit": PAGE})
        async for entry in listing.auto_paging_iter():
            yield entry

    @staticmethod
    def _product(entry: Any) -> SeenProduct | None:
        metadata = metadata_of(entry)
        if "turnpike_product_id" not in metadata and not entry.id.startswith(MARK):
            return None
        features = tuple(feature.name for feature in entry.marketing_features or [])
        product_id = metadata.get("turnpike_product_id", "")
        default = _id(entry.default_price) if entry.default_price else ""
        return SeenProduct(entry.id, product_id, entry.name, entry.description or "", features, entry.active, default)

    @staticmethod
    def _price(entry: Any, products: Mapping[str, SeenProduct]) -> SeenPrice | None:
        metadata, lookup_key, product = metadata_of(entry), entry.lookup_key or "", _id(entry.product)
        if product not in products and not (lookup_key.startswith("turnpike:") and "turnpike_product_id" in metadata):
            return None
        owner, component = metadata.get("turnpike_product_id", ""), metadata.get("turnpike_component", "")
        return SeenPrice(entry.id, product, lookup_key, owner, component, entry.nickname or "", entry.active)


def _id(found: Any) -> str:
    return found if isinstance(found, str) else str(found.id)
