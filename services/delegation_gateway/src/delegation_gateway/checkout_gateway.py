"""Checkout's internal door: the addresses of payment and billing pages."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import httpx

from billing_common.internal_auth import InternalAuth


class CheckoutUnavailableError(Exception):
    """Checkout does not answer; the same request may be made again, it leads to the same session."""


class CheckoutRefusedError(Exception):
    """Checkout will not open this page; the text says why."""


@dataclass(frozen=True)
class CheckoutRequest:
    subscription_id: str
    account_id: str
    user_id: str
    product_id: str
    catalogue_version: int
    display_name: str
    currency: str | None
    success_url: str
    cancel_url: str


class Checkout(Protocol):
    """What the routes use."""

    async def payment_page(self, request: CheckoutRequest) -> str: ...
    async def billing_page(self, account_id: str, *, return_url: str) -> str: ...


class CheckoutGateway:
    """Asks over HTTP with a fresh token for each request."""

    def __init__(self, client: httpx.AsyncClient, auth: InternalAuth) -> None:
        self._client = client
        self._auth = auth

    async def payment_page(self, request: CheckoutRequest) -> str:
        """Return the address of the Checkout page; the same subscription id gives the same session."""
        return await self._ask("/v1/checkout-sessions", asdict(request))

    async def billing_page(self, account_id: str, *, return_url: str) -> str:
        """Return the address of Stripe's page for cards and invoices of an account."""
        return await self._ask("/v1/billing-portal-sessions", {"account_id": account_id, "return_url": return_url})

    async def _ask(self, path: str, body: dict[str, Any]) -> str:
        try:
            answer = await self._client.post(path, json=body, headers=self._auth.headers())
        except httpx.HTTPError as error:
            raise CheckoutUnavailableError(type(error).__name__) from error
        if answer.status_code >= 500 or answer.status_code in {401, 403, 408, 429}:
            raise CheckoutUnavailableError(f"HTTP {answer.status_code}")
        if answer.is_error:
            raise CheckoutRefusedError(_detail(answer))
        return str(answer.json()["url"])


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    return detail if isinstance(detail, str) else f"HTTP {answer.status_code}"
