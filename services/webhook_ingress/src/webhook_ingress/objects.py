"""From Stripe's objects, as plain dictionaries, to Turnpike's events: pure, and the only place that knows where Stripe keeps what."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from billing_common.events import CheckoutEvent, Event, InvoiceState, PaymentMethodChanged, SubscriptionState

OBJECT = Mapping[str, Any]
SUBSCRIPTION_FACTS = ("subscription_id", "account_id", "user_id", "product_id", "catalogue_version", "display_name")


class NotOursError(Exception):
    """The object does not carry Turnpike's metadata: somebody else made it in this Stripe account."""


@dataclass(frozen=True)
class Owner:
    """Whose an object is."""

    subscription_id: str
    account_id: str


def owner_of(metadata: OBJECT | None) -> Owner | None:
    """Return whose the object with this metadata is, or None."""
    subscription_id = (metadata or {}).get("turnpike_subscription_id")
    account_id = (metadata or {}).get("turnpike_account_id")
    return Owner(subscription_id, account_id) if subscription_id and account_id else None


def invoice_details(invoice: OBJECT) -> OBJECT:
    """Return what an invoice says of its subscription, or of the one that had ended before it. Raises NotOursError when it has none."""
    details: OBJECT = (invoice.get("parent") or {}).get("subscription_details") or {}
    if details.get("subscription"):
        return details
    metadata: OBJECT = invoice.get("metadata") or {}
    if owner_of(metadata) is None or not metadata.get("turnpike_stripe_subscription_id"):
        raise NotOursError("an invoice without a subscription")
    return {"subscription": metadata["turnpike_stripe_subscription_id"], "metadata": metadata}


def session_owner(session: OBJECT) -> Owner | None:
    """Return whose a Checkout session is: by its own metadata, or by those of what it made and of who pays."""
    made = session.get("subscription")
    payer = session.get("customer")
    return (
        owner_of(session.get("metadata"))
        or (owner_of(made.get("metadata")) if isinstance(made, dict) else None)
        or _by_reference(session.get("client_reference_id"), payer if isinstance(payer, dict) else {})
    )


def _by_reference(reference: str | None, payer: OBJECT) -> Owner | None:
    account_id = (payer.get("metadata") or {}).get("turnpike_account_id")
    return Owner(reference, account_id) if reference and account_id else None


def subscription_facts(subscription: OBJECT) -> dict[str, Any]:
    """Return the fields of a SubscriptionState. Raises NotOursError."""
    metadata = subscription.get("metadata") or {}
    ours = {name: metadata.get(f"turnpike_{name}", "") for name in SUBSCRIPTION_FACTS}
    missing = [name for name, value in ours.items() if not value and name != "display_name"]
    if missing or not ours["catalogue_version"].isdecimal():
        raise NotOursError(f"a subscription without {', '.join(missing) or 'a numeric catalogue_version'}")
    items = subscription["items"]["data"]
    return {
        **ours,
        "catalogue_version": int(ours["catalogue_version"]),
        "status": subscription["status"],
        "currency": subscription["currency"],
        "started_at": moment(subscription["start_date"]),
        "current_period_start": moment(min((item["current_period_start"] for item in items), default=subscription["start_date"])),
        "current_period_end": moment(max((item["current_period_end"] for item in items), default=None)),
        "cancel_at_period_end": bool(subscription.get("cancel_at_period_end")),
        "cancel_at": None if _phase_ends(subscription) else moment(subscription.get("cancel_at")),
        **{name: moment(subscription.get(name)) for name in ("canceled_at", "ended_at")},
        "latest_invoice_id": reference(subscription.get("latest_invoice")),
        "stripe_subscription_id": subscription["id"],
        "stripe_customer_id": reference(subscription["customer"]),
        "items": [_item(item) for item in items],
        "plan_since": _instant(metadata.get("turnpike_plan_since")),
    }


def _phase_ends(subscription: OBJECT) -> bool:
    """Whether `cancel_at` may be the end of a phase only: a schedule that manages the subscription then goes on with the next one."""
    return subscription.get("schedule") is not None and not subscription.get("cancel_at_period_end")


def _instant(text: str | None) -> datetime | None:
    """Return a time that checkout wrote into the metadata; anything else is none."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _item(item: OBJECT) -> dict[str, Any]:
    price = item["price"]
    return {
        "stripe_item_id": item["id"],
        "price_id": price["id"],
        "lookup_key": price.get("lookup_key"),
        "quantity": None if (price.get("recurring") or {}).get("usage_type") == "metered" else item.get("quantity"),
    }


def invoice_facts(invoice: OBJECT, owner: Owner) -> dict[str, Any]:
    """Return the fields of an InvoiceState; `lines.data` holds all lines."""
    return {
        "subscription_id": owner.subscription_id,
        "account_id": owner.account_id,
        "invoice_id": invoice["id"],
        "number": invoice.get("number"),
        "stripe_subscription_id": reference(invoice_details(invoice)["subscription"]),
        "stripe_customer_id": reference(invoice["customer"]),
        "status": invoice["status"],
        "billing_reason": invoice.get("billing_reason") or "manual",
        "currency": invoice["currency"],
        "total_minor": invoice["total"],
        "amount_due_minor": invoice["amount_due"],
        "amount_paid_minor": invoice["amount_paid"],
        "amount_remaining_minor": invoice["amount_remaining"],
        "attempt_count": invoice["attempt_count"],
        "next_payment_attempt": moment(invoice.get("next_payment_attempt")),
        "period_start": moment(invoice["period_start"]),
        "period_end": moment(invoice["period_end"]),
        "created_at": moment(invoice["created"]),
        "finalizes_at": moment(invoice.get("automatically_finalizes_at")),
        "lines": [_line(line) for line in invoice["lines"]["data"]],
    }


def _line(line: OBJECT) -> dict[str, Any]:
    pricing = line.get("pricing") or {}
    parent = line.get("parent") or {}
    metadata = line.get("metadata") or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    quantity = line.get("quantity_decimal")
    return {
        "line_id": line["id"],
        "description": line.get("description") or "",
        "amount_minor": line["amount"],
        "quantity": quantity if quantity is not None else line.get("quantity"),
        "unit_amount_decimal": pricing.get("unit_amount_decimal"),
        "price_id": reference((pricing.get("price_details") or {}).get("price")),
        "period_start": moment(line["period"]["start"]),
        "period_end": moment(line["period"]["end"]),
        "proration": bool(details.get("proration")),
        "component": metadata.get("turnpike_component"),
        "correction_id": uuid_or_none(metadata.get("turnpike_correction_id")),
    }


def customer_facts(customer: OBJECT) -> dict[str, Any]:
    """Return the fields of a PaymentMethodChanged. Raises NotOursError."""
    account_id = (customer.get("metadata") or {}).get("turnpike_account_id")
    if not account_id:
        raise NotOursError("a customer without account_id")
    method = (customer.get("invoice_settings") or {}).get("default_payment_method")
    card = (method.get("card") or {}) if isinstance(method, dict) else {}
    return {
        "account_id": account_id,
        "stripe_customer_id": customer["id"],
        "default_payment_method_id": reference(method),
        "card_last4": card.get("last4"),
    }


def session_facts(session: OBJECT, owner: Owner) -> dict[str, Any]:
    """Return the fields of a CheckoutEvent."""
    return {
        "subscription_id": owner.subscription_id,
        "account_id": owner.account_id,
        "session_id": session["id"],
        "stripe_customer_id": reference(session.get("customer")),
        "stripe_subscription_id": reference(session.get("subscription")),
        "payment_status": session["payment_status"],
    }


def build(event: type[Event], facts: Mapping[str, Any], *, cause_id: str, occurred_at: datetime, revision: int) -> Event:
    """Return the event of this class with these facts."""
    numbered = {"revision": revision} if issubclass(event, SubscriptionState | InvoiceState | PaymentMethodChanged) else {}
    assert numbered or issubclass(event, CheckoutEvent)
    return event(cause_id=cause_id, occurred_at=occurred_at, **facts, **numbered)


def digest(facts: Mapping[str, Any]) -> str:
    """Return a fingerprint of a state: equal states have equal ones."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def moment(seconds: int | None) -> datetime | None:
    """Return Stripe's epoch seconds as aware UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def uuid_or_none(text: str | None) -> UUID | None:
    """Return the id, or None where somebody wrote something else there."""
    try:
        return UUID(text)
    except (TypeError, ValueError):
        return None


def reference(value: Any) -> str | None:
    """Return the id of what stands there, expanded or not."""
    found = value.get("id") if isinstance(value, dict) else value
    return None if found is None else str(found)
