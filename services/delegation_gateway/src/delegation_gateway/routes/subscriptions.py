"""The pages of a member's subscriptions. Another account's subscription is not found."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.events import SubscriptionCancellationRequested
from billing_common.outbox import announce
from delegation_gateway import change_store, domain, keys_store, read_models, subscriptions_store
from delegation_gateway.change_store import Change
from delegation_gateway.changes import ChangeNotice, notice_of
from delegation_gateway.checkout_gateway import CheckoutRefusedError
from delegation_gateway.domain import Subscription
from delegation_gateway.parts import SUBSCRIPTIONS, HereParts, Parts, SignedIn, check_form, no_such_subscription
from delegation_gateway.period_bill import standing_of
from delegation_gateway.plans import plan_of
from delegation_gateway.sessions import Visitor
from turnpike_ui import PageError

router = APIRouter(prefix="/subscriptions")
log = structlog.get_logger(__name__)
REFRESH_SECONDS = 1


class ActForm(BaseModel):
    form_token: str = ""
    page: str = ""
    when: str = ""


@dataclass(frozen=True)
class Shown:
    """The two values of a key, on the page that answers a POST and nowhere else."""

    number: int
    values: tuple[str, str]


async def own(parts: Parts, visitor: Visitor, subscription_id: str) -> Subscription:
    """Return the visitor's subscription; another account's is not found."""
    found = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if found is None:
        raise no_such_subscription()
    return found


async def sold_as(parts: Parts, subscription: Subscription) -> tuple[Catalogue, Product] | None:
    """Return the catalogue and product as they were bought; None while that version is not known here."""
    async with parts.pool.acquire() as connection:
        catalogue = await parts.catalogues.version(connection, subscription.catalogue_version)
    try:
        return None if catalogue is None else (catalogue, catalogue.product(subscription.product_id))
    except UnknownProductError:
        return None


@router.get("")
async def show_list(request: Request, parts: HereParts, visitor: SignedIn) -> Response:
    subscriptions = await subscriptions_store.list_subscriptions(parts.pool, visitor.account_id)
    rows = [(one, domain.badge(one), await sold_as(parts, one)) for one in subscriptions]
    context = {"visitor": visitor, "rows": rows, "portal_url": parts.settings.portal_url}
    return parts.pages.render(request, "subscriptions.html", context)


@router.get("/{subscription_id}")
async def show(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str) -> Response:
    return await page(request, parts, visitor, await own(parts, visitor, subscription_id))


async def page(
    request: Request,
    parts: Parts,
    visitor: Visitor,
    subscription: Subscription,
    shown: Shown | None = None,
    *,
    errors: dict[str, str] | None = None,
    name: str = "",
) -> Response:
    """Show a subscription; `errors` and `name` are those of the form that adds a key."""
    sold = await sold_as(parts, subscription)
    invoices = await read_models.list_invoices(parts.pool, subscription.subscription_id)
    now = parts.clock.now()
    changes = await _change_notices(parts, subscription, now)
    context = {
        "visitor": visitor,
        "subscription": subscription,
        "badge": domain.badge(subscription),
        "plan": plan_of(*sold, currency=subscription.currency or subscription.requested_currency) if sold else None,
        "standing": await standing_of(parts, subscription, sold) if sold and subscription.is_live else None,
        "invoices": invoices,
        "unpaid": next(
            (one for one in invoices if one.status in {"open", "uncollectible"} and one.remaining_minor > 0 and one.attempt_count), None
        ),
        "grace_days": sold[1].policies.dunning_grace_days if sold else 0,
        "keys": shown.values if shown and shown.number == 1 else None,
        **await _keys_context(parts, subscription, sold, shown),
        "errors": errors or {},
        "name": name[: domain.DISPLAY_NAME_CHARACTERS_MAX],
        "changes": changes,
        "can_change": _can_change(subscription, changes),
        "now": now,
        "gateway_url": parts.settings.gateway_url,
        "explains": parts.reporter is not None,
        "divides": parts.collector is not None,
        "here": f"/subscriptions/{subscription.subscription_id}",
    }
    waiting = any(change.kind == "under way" for change in changes)
    headers = {"Refresh": str(REFRESH_SECONDS)} if waiting else {}
    return parts.pages.render(request, "subscription.html", context, 422 if errors else 200, headers=headers)


async def _keys_context(
    parts: Parts, subscription: Subscription, sold: tuple[Catalogue, Product] | None, shown: Shown | None
) -> dict[str, Any]:
    further = await keys_store.list_keys(parts.pool, subscription.subscription_id)
    allowed = sold[1].keys if sold else 1
    is_active = subscription.is_live and subscription.access == "active" and subscription.cancellation != "now"
    may_add = is_active and 1 + len(further) < allowed
    return {"further": further, "shown": shown, "allowed": allowed, "may_add": may_add, "form_id": secrets.token_urlsafe(12)}


def _can_change(subscription: Subscription, changes: Sequence[ChangeNotice]) -> bool:
    """Whether the page offers another plan: what would be refused anyway is not offered."""
    ending = subscription.cancellation is not None or subscription.ends_at is not None
    return subscription.status == "active" and subscription.is_at_stripe and not ending and not any(change.is_open for change in changes)


async def _change_notices(parts: Parts, subscription: Subscription, now: datetime) -> list[ChangeNotice]:
    """Return what there is to say of the newest changes of plan."""
    newest = await change_store.newest(parts.pool, subscription.subscription_id) if subscription.is_live else []
    found = [await _change_notice(parts, subscription, change, now) for change in newest]
    return [notice for notice in found if notice is not None]


async def _change_notice(parts: Parts, subscription: Subscription, change: Change, now: datetime) -> ChangeNotice | None:
    async with parts.pool.acquire() as connection:
        latest = await parts.catalogues.latest(connection)
        known = await parts.catalogues.version(connection, change.catalogue_version) if change.catalogue_version else None
    catalogue = known or (latest[1] if latest else None)
    product = next((one for one in catalogue.products if one.id == change.product_id), None) if catalogue else None
    if catalogue is None or product is None:
        return None
    currency = subscription.currency if catalogue.price_of(product, subscription.currency) is not None else None
    return notice_of(change, subscription, plan_of(catalogue, product, currency), now)


@router.get("/{subscription_id}/ready")
async def ready(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str) -> Response:
    """Wait for payment and key; the page asks again by itself until the key is there."""
    subscription = await own(parts, visitor, subscription_id)
    return _ready_page(request, parts, visitor, subscription)


def _ready_page(
    request: Request, parts: Parts, visitor: Visitor, subscription: Subscription, keys: tuple[str, str] | None = None
) -> Response:
    waiting = not subscription.has_key and not subscription.is_ended and subscription.request_state != "failed"
    context = {
        "visitor": visitor,
        "subscription": subscription,
        "waiting": waiting,
        "keys": keys,
        "gateway_url": parts.settings.gateway_url,
        "portal_url": parts.settings.portal_url,
        "here": f"/subscriptions/{subscription.subscription_id}/ready",
    }
    headers = {"Refresh": str(REFRESH_SECONDS)} if waiting else {}
    return parts.pages.render(request, "ready.html", context, headers=headers)


@router.get("/{subscription_id}/not-paid")
async def not_paid(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str) -> Response:
    """Where Checkout leads when its "back" is used."""
    subscription = await own(parts, visitor, subscription_id)
    if not subscription.can_be_paid:
        return RedirectResponse(f"/subscriptions/{subscription.subscription_id}", 303)
    return parts.pages.render(request, "not_paid.html", {"visitor": visitor, "subscription": subscription})


@router.post("/{subscription_id}/key")
async def show_key(
    request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, form: Annotated[ActForm, Form()]
) -> Response:
    """Show the keys on the page they were asked from. APIM keeps them; they pass through here and are stored nowhere."""
    check_form(visitor, form.form_token)
    subscription = await own(parts, visitor, subscription_id)
    if not subscription.has_key or subscription.sid is None:
        raise PageError(409, "There is no key yet", "It is made right after the payment.", action=SUBSCRIPTIONS)
    keys = await parts.apim.keys(subscription.sid)
    log.info("keys shown", subscription_id=subscription.subscription_id)
    if form.page == "ready":
        return _ready_page(request, parts, visitor, subscription, keys)
    return await page(request, parts, visitor, subscription, Shown(1, keys))


@router.post("/{subscription_id}/billing")
async def billing(parts: HereParts, visitor: SignedIn, subscription_id: str, form: Annotated[ActForm, Form()]) -> Response:
    """Lead to Stripe's page for cards and invoices."""
    check_form(visitor, form.form_token)
    subscription = await own(parts, visitor, subscription_id)
    here = f"{parts.settings.public_url}/subscriptions/{subscription.subscription_id}"
    try:
        return RedirectResponse(await parts.checkout.billing_page(visitor.account_id, return_url=here), 303)
    except CheckoutRefusedError:
        text = "This account has not paid anything yet, so there is no card and no invoice."
        raise PageError(409, "There is nothing to bill", text, action=SUBSCRIPTIONS) from None


async def _cancellable(parts: Parts, visitor: Visitor, subscription_id: str) -> tuple[Subscription, Product]:
    subscription = await own(parts, visitor, subscription_id)
    back = ("Open the subscription", f"/subscriptions/{subscription.subscription_id}")
    if not subscription.is_live:
        raise PageError(409, "There is nothing to cancel", "This subscription is not running.", action=back)
    if subscription.cancellation == "now":
        raise PageError(409, "This subscription is ending", "You have cancelled it; the last usage is being counted.", action=back)
    sold = await sold_as(parts, subscription)
    if sold is None:
        raise PageError(503, "The plan is not known here yet", "Try again in a minute.", action=back)
    return subscription, sold[1]


@router.get("/{subscription_id}/cancel")
async def ask_to_cancel(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str) -> Response:
    return await _cancel_page(request, parts, visitor, subscription_id)


async def _cancel_page(
    request: Request, parts: Parts, visitor: Visitor, subscription_id: str, errors: dict[str, str] | None = None
) -> Response:
    subscription, product = await _cancellable(parts, visitor, subscription_id)
    context = {
        "visitor": visitor,
        "subscription": subscription,
        "product": product,
        "timings": domain.timings(product, subscription),
        "has_usage": bool(product.priced_meters()),
        "errors": errors or {},
    }
    return parts.pages.render(request, "cancel.html", context, 422 if errors else 200)


@router.post("/{subscription_id}/cancel")
async def cancel(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, form: Annotated[ActForm, Form()]) -> Response:
    check_form(visitor, form.form_token)
    subscription, product = await _cancellable(parts, visitor, subscription_id)
    timing: domain.Timing | None = next((one for one in domain.timings(product, subscription) if one == form.when), None)
    if timing is None:
        first = domain.timings(product, subscription)[0]
        return await _cancel_page(request, parts, visitor, subscription_id, {f"when-{first}": "Choose when it ends"})
    now = parts.clock.now()
    async with parts.pool.acquire() as connection, connection.transaction():
        if await subscriptions_store.add_cancellation(
            connection, subscription.subscription_id, user_id=visitor.user_id, timing=timing, at=now
        ):
            event = SubscriptionCancellationRequested(
                cause_id=f"cancel:{subscription.subscription_id}:{timing}",
                occurred_at=now,
                subscription_id=subscription.subscription_id,
                account_id=subscription.account_id,
                user_id=visitor.user_id,
                when=timing,
            )
            await announce(connection, event)
            log.info("cancellation requested", subscription_id=subscription.subscription_id, when=timing, event_id=str(event.event_id))
    return RedirectResponse(f"/subscriptions/{subscription.subscription_id}", 303)
