"""Checkout's internal door: the addresses of payment and billing pages, and what corrections of usage cost."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import httpx

from billing_common.internal_auth import InternalAuth

CHARGES_MAX = 1000
CHARGES_SECONDS = 3.0  # a page says what it lacks rather than waiting for it


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
    async def charges(self, subscription_id: str) -> list[dict[str, Any]]: ...


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

    async def charges(self, subscription_id: str) -> list[dict[str, Any]]:
        """Return what corrections and late usage of closed periods cost, the newest first."""
        params = {"subscription_id": subscription_id, "limit": CHARGES_MAX}
        found: list[dict[str, Any]] = await self._decoded("GET", "/v1/corrections", params=params, timeout=CHARGES_SECONDS)
        return found

    async def _ask(self, path: str, body: dict[str, Any]) -> str:
        return str((await self._decoded("POST", path, json=body))["url"])

    async def _decoded(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = await self._client.request(method, path, headers=self._auth.headers(), **more)
        except httpx.HTTPError as error:
            raise CheckoutUnavailableError(type(error).__name__) from error
        if answer.status_code >= 500 or answer.status_code in {401, 403, 408, 429}:
            raise CheckoutUnavailableError(f"HTTP {answer.status_code}")
        if answer.is_error:
            raise CheckoutRefusedError(_detail(answer))
        return answer.json()


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    return detail if isinstance(detail, str) else f"HTTP {answer.status_code}"
