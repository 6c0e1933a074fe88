"""Rules of selling: who may check out what, what a Checkout session asks for, what ends a period. Pure functions."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing_common.catalogue import Catalogue, Product
from billing_common.events import SubscriptionCreated, SubscriptionDeleted, derive_id
from checkout.store import Subscription
from checkout.store_catalogue import Version

VERSION_MAX = 2**31 - 1  # what the column of the version takes
_STATES = {"canceled": "ended", "incomplete_expired": "ended", "incomplete": "requested"}


class RefusedError(Exception):
    """The request cannot be served; `code` is stable, `status` is its HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Request:
    """A wish to subscribe, from the event or from the door."""

    subscription_id: str
    account_id: str
    user_id: str
    product_id: str
    display_name: str
    currency: str | None


def state_of(status: str) -> str:
    """Return what a status at Stripe means for selling: all that can still be charged is live."""
    return _STATES.get(status, "live")


def new_subscription(request: Request, version: Version, product: Product, at: datetime) -> Subscription:
    """Return the subscription as it is stored when it is asked for."""
    return Subscription(
        subscription_id=request.subscription_id,
        account_id=request.account_id,
        user_id=request.user_id,
        product_id=request.product_id,
        catalogue_version=version.version,
        display_name=request.display_name,
        currency=request.currency or version.catalogue.currency_of(product),
        free=product.is_free,
        state="requested",
        revision=0,
        requested_at=at,
    )


def refuse_foreign(request: Request, known: Subscription | None, members: frozenset[str], *, closed: bool) -> None:
    """Refuse a user who is not of the account, and a subscription id that stands for something else."""
    if closed:
        raise RefusedError(409, "account_closed", "this account is closed")
    if members and request.user_id not in members:
        raise RefusedError(409, "wrong_user", "this user does not belong to the account")
    if known is not None and (known.account_id, known.user_id, known.product_id) != (
        request.account_id,
        request.user_id,
        request.product_id,
    ):
        raise RefusedError(409, "subscription_mismatch", "this subscription id stands for another account, user or product")


def refuse_second(known: Subscription | None, others: list[Subscription]) -> None:
    """One live subscription per account and product: more keys, not more subscriptions."""
    if known is not None and known.state == "live":
        raise RefusedError(409, "already_subscribed", "this subscription is paid for already")
    if known is not None and known.state == "ended":
        raise RefusedError(409, "subscription_ended", "this subscription has ended: ask for a new one")
    if any(other.state == "live" for other in others):
        raise RefusedError(409, "already_subscribed", "the account has a live subscription to this product already")


def session_parameters(
    subscription: Subscription, product: Product, prices: dict[str, str], *, customer_id: str, success_url: str, cancel_url: str
) -> dict[str, Any]:
    """Return what creates the Checkout session. Metered prices take no quantity; session metadata would not reach the subscription."""
    metadata = {
        "turnpike_subscription_id": subscription.subscription_id,
        "turnpike_account_id": subscription.account_id,
        "turnpike_user_id": subscription.user_id,
        "turnpike_product_id": subscription.product_id,
        "turnpike_catalogue_version": str(subscription.catalogue_version),
        "turnpike_display_name": subscription.display_name,
    }
    licensed = {"base", "setup"}
    return {
        "mode": "subscription",
        "customer": customer_id,
        "client_reference_id": subscription.subscription_id,
        "line_items": [{"price": price, **({"quantity": 1} if component in licensed else {})} for component, price in prices.items()],
        "metadata": {"turnpike_subscription_id": subscription.subscription_id, "turnpike_account_id": subscription.account_id},
        "subscription_data": {"metadata": metadata, "billing_mode": {"type": "flexible"}, **_billing_start(product)},
        "payment_method_collection": "always",
        "success_url": success_url,
        "cancel_url": cancel_url,
    }


def _billing_start(product: Product) -> dict[str, Any]:
    if product.billing_anchor == "anniversary":
        return {"trial_period_days": product.trial_days} if product.trial_days else {}
    first = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
    month = {"month": 1} if product.interval == "year" else {}
    prorated = "create_prorations" if product.policies.proration == "by_second" else "none"
    return {"billing_cycle_anchor_config": {**first, **month}, "proration_behavior": prorated}


def session_key(subscription_id: str, attempt: int) -> str:
    return f"turnpike:checkout:{derive_id('checkout', subscription_id, str(attempt))}"


def free_created(subscription: Subscription, *, cause_id: str, at: datetime) -> SubscriptionCreated:
    """A free product needs nothing at Stripe: its subscription is created by saying so. Its period has no end."""
    return SubscriptionCreated(
        cause_id=cause_id,
        occurred_at=at,
        subscription_id=subscription.subscription_id,
        account_id=subscription.account_id,
        revision=1,
        user_id=subscription.user_id,
        product_id=subscription.product_id,
        catalogue_version=subscription.catalogue_version,
        display_name=subscription.display_name,
        status="active",
        currency=subscription.currency,
        started_at=at,
        current_period_start=at,
        current_period_end=None,
    )


def free_deleted(subscription: Subscription, *, cause_id: str, at: datetime) -> SubscriptionDeleted:
    """The end of a free subscription, at once: there is no paid period to wait for."""
    return SubscriptionDeleted(
        cause_id=cause_id,
        occurred_at=at,
        subscription_id=subscription.subscription_id,
        account_id=subscription.account_id,
        revision=subscription.revision + 1,
        user_id=subscription.user_id,
        product_id=subscription.product_id,
        catalogue_version=subscription.catalogue_version,
        display_name=subscription.display_name,
        status="canceled",
        currency=subscription.currency,
        started_at=subscription.started_at or at,
        current_period_start=subscription.started_at or at,
        current_period_end=None,
        canceled_at=at,
        ended_at=at,
    )


def words_of_correction(catalogue: Catalogue, *, kind: str, amounts: dict[str, int], at: datetime) -> str:
    """Return the text of the line: Correction: -1,200 API calls, 5 January 2027."""
    what = ", ".join(
        f"{amount:+,} {catalogue.meters[meter].name if meter in catalogue.meters else meter}" for meter, amount in amounts.items()
    )
    when = at.astimezone(UTC)
    return f"{'Late usage' if kind == 'late' else 'Correction'}: {what}, {when.day} {when:%B %Y}"


def words_of_unbilled(catalogue: Catalogue, *, meter_id: str, quantity: int, invoice: str) -> str:
    """Return the text of the line: Usage not on invoice ABC-0001: +1,200 API calls."""
    name = catalogue.meters[meter_id].name if meter_id in catalogue.meters else meter_id
    return f"Usage not on invoice {invoice}: {quantity:+,} {name}"
