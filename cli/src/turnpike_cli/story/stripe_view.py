"""What Stripe says, read with the real SDK: subscriptions, invoices and their lines. The story never writes here."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe


@dataclass(frozen=True)
class Line:
    """One invoice line: what is billed, for which service period, how much (minor units)."""

    description: str
    start: datetime
    end: datetime
    amount_minor: int


@dataclass(frozen=True)
class StripeView:
    """Reads one Stripe account."""

    client: stripe.StripeClient
    transport: stripe.HTTPClient

    @classmethod
    def connect(cls, base: str, key: str) -> "StripeView":
        transport = stripe.HTTPXClient(timeout=20)
        addresses: Any = {"api": base, "meter_events": base}
        return cls(stripe.StripeClient(key, base_addresses=addresses, max_network_retries=3, http_client=transport), transport)

    async def close(self) -> None:
        await self.transport.close_async()  # type: ignore[no-untyped-call]  # the vendor's

    async def subscription(self, subscription_id: str) -> Any:
        """Return Stripe's subscription of a Turnpike subscription. Raises LookupError."""
        page = await self.client.v1.subscriptions.list_async({"status": "all", "limit": 100})
        async for found in page.auto_paging_iter():
            if getattr(found.metadata, "turnpike_subscription_id", None) == subscription_id:
                return found
        raise LookupError(f"Stripe has no subscription for {subscription_id}")

    async def status(self, stripe_id: str) -> str:
        return str((await self.client.v1.subscriptions.retrieve_async(stripe_id)).status)

    async def invoices(self, stripe_id: str) -> list[Any]:
        page = await self.client.v1.invoices.list_async({"subscription": stripe_id, "limit": 100})
        return [invoice async for invoice in page.auto_paging_iter()]

    async def lines(self, stripe_id: str, start: datetime, end: datetime) -> list[Line]:
        """Return all lines whose service period lies within [start, end], whichever invoice they stand on; oldest invoice first."""
        found = []
        for invoice in reversed(await self.invoices(stripe_id)):
            page = await self.client.v1.invoices.line_items.list_async(invoice.id, {"limit": 100})
            async for line in page.auto_paging_iter():
                first, last = datetime.fromtimestamp(line.period.start, UTC), datetime.fromtimestamp(line.period.end, UTC)
                if start <= first and last <= end:
                    found.append(Line(line.description or "", first, last, line.amount))
        return found

    async def catalogue(self) -> dict[str, int]:
        """Return how many active products, prices, meters and webhook endpoints there are."""
        products = await self.client.v1.products.list_async({"active": True, "limit": 100})
        prices = await self.client.v1.prices.list_async({"active": True, "limit": 100})
        meters = await self.client.v1.billing.meters.list_async({"status": "active", "limit": 100})
        endpoints = await self.client.v1.webhook_endpoints.list_async({"limit": 100})
        return {
            "products": len(products.data),
            "prices": len(prices.data),
            "meters": len(meters.data),
            "webhook_endpoints": len(endpoints.data),
        }
