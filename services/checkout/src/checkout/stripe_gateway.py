"""Stripe, for sales: customers, Checkout and portal sessions, and what happens to a subscription or an invoice afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe

OWNER = frozenset({"turnpike_subscription_id", "turnpike_account_id"})  # what an invoice of its own says of its subscription
ENDED = frozenset({"canceled", "incomplete_expired"})


class StripeUnavailableError(Exception):
    """No answer, or one that may be better next time. `replayed`: Stripe repeats a stored failure, a new idempotency key is needed."""

    def __init__(self, message: str, *, replayed: bool = False) -> None:
        super().__init__(message)
        self.replayed = replayed


class StripeRefusedError(Exception):
    """Stripe has understood and says no; asking again cannot help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class OpenSession:
    """A Checkout session that waits for the customer."""

    session_id: str
    url: str
    expires_at: datetime


@dataclass(frozen=True)
class KnownItem:
    """An invoice item that was made before; `alone`: not of a subscription."""

    invoice_id: str | None
    alone: bool


@asynccontextmanager
async def stripe_errors() -> AsyncIterator[None]:
    """Turn the SDK's errors into the two kinds that callers treat differently."""
    try:
        yield
    except stripe.APIConnectionError as error:
        raise StripeUnavailableError("Stripe does not answer") from error
    except stripe.RateLimitError as error:
        raise StripeUnavailableError("Stripe says it is asked too fast") from error
    except stripe.APIError as error:
        headers = {str(name).lower(): str(value).lower() for name, value in (error.headers or {}).items()}
        replayed = headers.get("idempotent-replayed") == "true"
        raise StripeUnavailableError(f"Stripe answers HTTP {error.http_status}", replayed=replayed) from error
    except stripe.StripeError as error:
        code = (error.error.code if error.error else None) or error.code or type(error).__name__
        raise StripeRefusedError(code, error.user_message or code) from error


def once(key: str) -> Any:
    """Return the request options that make a repeated call one call."""
    return {"idempotency_key": key}


def metadata_of(found: Any) -> dict[str, str]:
    """Return an object's metadata as a dictionary: the SDK's own object is none."""
    return found.metadata.to_dict() if found.metadata else {}


class StripeGateway:
    """Each method is one call, or a few that may be repeated together."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def create_customer(self, account_id: str, *, key: str) -> str:
        params: Any = {"metadata": {"turnpike_account_id": account_id}}
        async with stripe_errors():
            return (await self._v1.customers.create_async(params, once(key))).id

    async def set_email(self, customer_id: str, email: str) -> None:
        async with stripe_errors():
            await self._v1.customers.update_async(customer_id, {"email": email})

    async def create_session(self, params: Any, *, key: str) -> OpenSession:
        async with stripe_errors():
            session = await self._v1.checkout.sessions.create_async(params, once(key))
        if session.url is None:
            raise StripeRefusedError("session_not_open", "this Checkout session is no longer open")
        return OpenSession(session.id, session.url, datetime.fromtimestamp(session.expires_at, UTC))

    async def expire_session(self, session_id: str) -> str:
        """End an open session; returns its status afterwards. One that has ended stays as it is."""
        async with stripe_errors():
            try:
                session = await self._v1.checkout.sessions.expire_async(session_id)
            except stripe.InvalidRequestError:
                session = await self._v1.checkout.sessions.retrieve_async(session_id)
        return session.status or "expired"

    async def create_portal_session(self, customer_id: str, return_url: str) -> str:
        async with stripe_errors():
            return (await self._v1.billing_portal.sessions.create_async({"customer": customer_id, "return_url": return_url})).url

    async def cancel_at_period_end(self, subscription_id: str, *, key: str) -> None:
        async with stripe_errors():
            await self._v1.subscriptions.update_async(subscription_id, {"cancel_at_period_end": True}, once(key))

    async def cancel_now(self, subscription_id: str, *, key: str) -> None:
        """Cancel with a last invoice that holds the unbilled usage. DELETE takes no idempotency key: a second one finds it cancelled."""
        async with stripe_errors():
            subscription = await self._v1.subscriptions.retrieve_async(subscription_id)
            if subscription.status not in ENDED:
                await self._v1.subscriptions.cancel_async(subscription_id, {"invoice_now": True, "prorate": False}, once(key))

    async def set_default_payment_method(self, customer_id: str, payment_method_id: str, *, key: str) -> None:
        params: Any = {"invoice_settings": {"default_payment_method": payment_method_id}}
        async with stripe_errors():
            await self._v1.customers.update_async(customer_id, params, once(key))

    async def pay_invoice(self, invoice_id: str, payment_method_id: str, *, key: str) -> None:
        """Try to collect an open invoice; one that is paid or void needs nothing."""
        async with stripe_errors():
            invoice = await self._v1.invoices.retrieve_async(invoice_id)
            if invoice.status == "open":
                await self._v1.invoices.pay_async(invoice_id, {"payment_method": payment_method_id}, once(key))

    async def invoice_of_period(self, subscription_id: str, period_end: datetime) -> tuple[str, bool] | None:
        """Return the invoice of the period that ended then and whether it is a draft; None while Stripe has not made it."""
        async with stripe_errors():
            invoices = await self._v1.invoices.list_async({"subscription": subscription_id, "limit": 20})
        ends = int(period_end.timestamp())
        return next((found for found in ((entry.id, entry.status == "draft") for entry in invoices.data if entry.period_end == ends)), None)

    async def has_ended(self, subscription_id: str) -> bool:
        """Tell whether no further invoice will come of a subscription."""
        async with stripe_errors():
            return (await self._v1.subscriptions.retrieve_async(subscription_id)).status in ENDED

    async def find_item(self, customer_id: str, intent_id: str) -> KnownItem | None:
        """Return the line that carries this intent, if it was made before."""
        async with stripe_errors():
            listed: Any = {"customer": customer_id, "limit": 100}
            known = await self._v1.invoice_items.list_async(listed)
            async for item in known.auto_paging_iter():
                if metadata_of(item).get("turnpike_intent_id") == intent_id:
                    invoice = item.invoice
                    return KnownItem(invoice if invoice is None or isinstance(invoice, str) else invoice.id, alone=item.parent is None)
        return None

    async def add_invoice_item(self, params: Any, *, intent_id: str, key: str) -> None:
        """Add a line once: an item that carries this intent already is the one."""
        if await self.find_item(params["customer"], intent_id) is not None:
            return
        marked: Any = {**params, "metadata": {**params.get("metadata", {}), "turnpike_intent_id": intent_id}}
        async with stripe_errors():
            await self._v1.invoice_items.create_async(marked, once(key))

    async def bill_alone(self, params: Any, owner: dict[str, str], *, intent_id: str, key: str) -> str:
        """Put a line on an invoice of its own, final at once; less than nothing becomes the customer's credit. Returns the invoice."""
        alone = {name: value for name, value in params.items() if name != "subscription"}
        whose = {**owner, "turnpike_stripe_subscription_id": params["subscription"], "turnpike_intent_id": intent_id}
        invoice_id, is_draft = await self._own_invoice(alone, whose, key=f"{key}:invoice")
        if is_draft:
            await self.add_invoice_item({**alone, "invoice": invoice_id}, intent_id=intent_id, key=f"{key}:item")
            async with stripe_errors():
                await self._v1.invoices.finalize_invoice_async(invoice_id, {"auto_advance": True}, once(f"{key}:final"))
        return invoice_id

    async def _own_invoice(self, params: Any, metadata: dict[str, str], *, key: str) -> tuple[str, bool]:
        async with stripe_errors():
            known = await self._v1.invoices.list_async({"customer": params["customer"], "limit": 100})
            async for invoice in known.auto_paging_iter():
                if metadata_of(invoice).get("turnpike_intent_id") == metadata["turnpike_intent_id"]:
                    return invoice.id, invoice.status == "draft"
            ended = await self._v1.subscriptions.retrieve_async(metadata["turnpike_stripe_subscription_id"])
            wanted: Any = {
                **({"default_payment_method": ended.default_payment_method} if ended.default_payment_method else {}),
                "customer": params["customer"],
                "currency": params["currency"],
                "auto_advance": True,
                "pending_invoice_items_behavior": "exclude",
                "metadata": {**{name: value for name, value in metadata_of(ended).items() if name in OWNER}, **metadata},
            }
            return (await self._v1.invoices.create_async(wanted, once(key))).id, True
