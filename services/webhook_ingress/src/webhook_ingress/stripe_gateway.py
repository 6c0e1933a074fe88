"""The only file that speaks to Stripe: objects as they are now, and the list of past events."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import stripe

from webhook_ingress.domain import NEWS, Kind

PAGE = 100


class StripeUnavailableError(Exception):
    """Stripe did not give an answer that helps now; later may. The message names status, code and request id only."""


class StripeGateway:
    """Fetches plain dictionaries: expandable fields are expanded where the events need them."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def fetch(self, kind: Kind, object_id: str) -> dict[str, Any] | None:
        """Return the object as it is now, or None when Stripe does not have it any more. Raises StripeUnavailableError."""
        try:
            found = await self._retrieve(kind, object_id)
        except stripe.InvalidRequestError as error:
            if error.http_status == 404:
                return None
            raise unavailable(error) from error
        except stripe.StripeError as error:
            raise unavailable(error) from error
        return None if found.get("deleted") else found

    async def _retrieve(self, kind: Kind, object_id: str) -> dict[str, Any]:
        v1 = self._client.v1
        if kind == "subscription":
            subscription = await v1.subscriptions.retrieve_async(object_id)
            found = subscription.to_dict(for_json=True)
            if found["items"].get("has_more"):
                listed = await v1.subscription_items.list_async({"subscription": object_id, "limit": PAGE})
                found["items"]["data"] = [item.to_dict(for_json=True) async for item in listed.auto_paging_iter()]
            return found
        if kind == "invoice":
            invoice = await v1.invoices.retrieve_async(object_id)
            found = invoice.to_dict(for_json=True)
            if found["lines"].get("has_more"):
                lines = await v1.invoices.line_items.list_async(object_id, {"limit": PAGE})
                found["lines"]["data"] = [line.to_dict(for_json=True) async for line in lines.auto_paging_iter()]
            return found
        if kind == "customer":
            customer = await v1.customers.retrieve_async(object_id, {"expand": ["invoice_settings.default_payment_method"]})
            return customer.to_dict(for_json=True)
        session = await v1.checkout.sessions.retrieve_async(object_id, {"expand": ["subscription", "customer"]})
        return session.to_dict(for_json=True)

    async def events_between(self, start: datetime, end: datetime, *, only_undelivered: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of the types we handle, newest first. Raises StripeUnavailableError."""
        created = {"gte": int(start.timestamp()), "lte": int(end.timestamp())}
        wanted: Any = {"created": created, "types": sorted(NEWS), "limit": PAGE}
        if only_undelivered:
            wanted["delivery_success"] = False
        try:
            page = await self._client.v1.events.list_async(wanted)
            async for event in page.auto_paging_iter():
                yield event.to_dict(for_json=True)
        except stripe.StripeError as error:
            raise unavailable(error) from error


def unavailable(error: stripe.StripeError) -> StripeUnavailableError:
    """Return what may be logged of an error: never a body, which may repeat what was sent."""
    code = getattr(error.error, "code", None) or error.code or type(error).__name__
    return StripeUnavailableError(f"HTTP {error.http_status} {code} (request {error.request_id})")
