"""Rules of the door: whether a webhook is Stripe's, what it is about, which topic its news belongs to."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from billing_common.events import (
    CheckoutCompleted,
    CheckoutExpired,
    Event,
    InvoiceCreated,
    InvoiceFinalized,
    InvoicePaid,
    InvoicePaymentFailed,
    PaymentMethodChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionUpdated,
)

Kind = Literal["subscription", "invoice", "customer", "session"]
ID = re.compile(r"[A-Za-z0-9_]{1,255}")
TYPE = re.compile(r"[A-Za-z0-9_.\[\]]{1,200}")
PAUSE_SECONDS_MAX = 60.0
EVENTS_KEPT = timedelta(days=30)

NEWS: Mapping[str, tuple[Kind, type[Event]]] = {
    "customer.subscription.created": ("subscription", SubscriptionCreated),
    "customer.subscription.updated": ("subscription", SubscriptionUpdated),
    "customer.subscription.paused": ("subscription", SubscriptionUpdated),
    "customer.subscription.resumed": ("subscription", SubscriptionUpdated),
    "customer.subscription.pending_update_applied": ("subscription", SubscriptionUpdated),
    "customer.subscription.deleted": ("subscription", SubscriptionDeleted),
    "invoice.created": ("invoice", InvoiceCreated),
    "invoice.finalized": ("invoice", InvoiceFinalized),
    "invoice.paid": ("invoice", InvoicePaid),
    "invoice.payment_failed": ("invoice", InvoicePaymentFailed),
    "checkout.session.completed": ("session", CheckoutCompleted),
    "checkout.session.async_payment_succeeded": ("session", CheckoutCompleted),
    "checkout.session.expired": ("session", CheckoutExpired),
    "payment_method.attached": ("customer", PaymentMethodChanged),
    "payment_method.updated": ("customer", PaymentMethodChanged),
    "payment_method.automatically_updated": ("customer", PaymentMethodChanged),
    "customer.updated": ("customer", PaymentMethodChanged),
}
ONLY_WHEN_CHANGED = frozenset({"customer.updated"})  # it also tells of balances, names and addresses


class SignatureError(Exception):
    """The request is not Stripe's, or too old to be believed; the message says which and what to do."""


class MalformedEventError(Exception):
    """The body is signed but is not an event of Stripe's."""


@dataclass(frozen=True)
class Received:
    """One event of Stripe's. `kind` and `object_id` name what to fetch; both None when it is only kept."""

    id: str
    type: str
    created: datetime
    kind: Kind | None
    object_id: str | None
    payload: bytes


def check_signature(body: bytes, header: str | None, secrets: Sequence[str], *, now: datetime, tolerance: timedelta) -> None:
    """Raise SignatureError unless one of the secrets signed this very body within the tolerance. `now` is wall time."""
    if not header:
        raise SignatureError("the header Stripe-Signature is missing: only Stripe may post here")
    parts = [part.strip().partition("=") for part in header.split(",")[:20]]
    times = [value for name, _, value in parts if name == "t"]
    given = [value.encode() for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not re.fullmatch(r"[0-9]{1,10}", times[0]) or not given:
        raise SignatureError("the header Stripe-Signature is not of the form t=<seconds>,v1=<signature>")
    signed = times[0].encode() + b"." + body
    good = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        for one in given:
            good = hmac.compare_digest(expected, one) or good  # no early end: how long it takes says nothing
    if not good:
        raise SignatureError("no signature matches: WEBHOOK_INGRESS_STRIPE_WEBHOOK_SECRETS must hold the signing secret of this endpoint")
    if abs(now - datetime.fromtimestamp(int(times[0]), UTC)) > tolerance:
        raise SignatureError("the signature is too old or from the future: the clocks of this machine and of Stripe must agree")


def read_event(payload: bytes) -> Received:
    """Return what the event is about. Raises MalformedEventError."""
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        raise MalformedEventError("the body is not JSON") from None
    if not isinstance(event, dict) or not _matches(ID, event.get("id")) or not _matches(TYPE, event.get("type")):
        raise MalformedEventError("the body is not a Stripe event: id and type are needed")
    kind, object_id = _about(event)
    return Received(event["id"], event["type"], _created(event.get("created")), kind, object_id, payload)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _created(value: Any) -> datetime:
    """Return the time of a snapshot event (epoch seconds) or of a thin one (RFC 3339)."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(int(value), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise MalformedEventError("the body is not a Stripe event: created is not a time") from None


def _about(event: Mapping[str, Any]) -> tuple[Kind | None, str | None]:
    news = NEWS.get(event["type"])
    content = event.get("data")
    subject = content.get("object") if isinstance(content, dict) else None
    if news is None or not isinstance(subject, dict):
        return None, None
    reference = subject.get("customer") if event["type"].startswith("payment_method.") else subject.get("id")
    object_id = reference.get("id") if isinstance(reference, dict) else reference
    return (news[0], str(object_id)) if _matches(ID, object_id) else (None, None)


def pause_seconds(tries: int) -> float:
    """Return how long to wait after this many failed tries."""
    return float(min(0.5 * 2 ** min(tries, 10), PAUSE_SECONDS_MAX))


def recovery_slices(*, newest: datetime | None, now: datetime, overlap: timedelta) -> list[tuple[datetime, datetime]]:
    """Return the spans to ask Stripe for events again: it keeps them for 30 days. `now` is business time.

    Oldest first, so that a round that broke goes on where it was.
    """
    start = now - EVENTS_KEPT if newest is None else max(now - EVENTS_KEPT, newest - overlap)
    slices = []
    while start <= now:
        end = min(start + timedelta(days=5), now + timedelta(seconds=1))
        slices.append((start, end))
        start = end if end <= now else now + timedelta(seconds=1)
    return slices
