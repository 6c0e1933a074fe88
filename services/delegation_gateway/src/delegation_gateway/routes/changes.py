"""Changing a subscription's plan: choose one, see what it costs, confirm; or take a planned change back."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from billing_common.catalogue import Catalogue
from billing_common.events import SubscriptionChangeRequested, SubscriptionChangeWithdrawn, derive_id
from billing_common.outbox import announce
from billing_common.plan_changes import ChangeRefusedError, Sold, refuse_standing
from billing_common.rating import Facts, period_at, rate
from delegation_gateway import change_store, changes, read_models, subscriptions_store
from delegation_gateway.change_store import Change
from delegation_gateway.domain import Subscription
from delegation_gateway.parts import HereParts, Parts, SignedIn, check_form, no_such_subscription
from delegation_gateway.plans import plan_of
from delegation_gateway.sessions import Visitor
from turnpike_ui import PageError

router = APIRouter(prefix="/subscriptions")
log = structlog.get_logger(__name__)
FORM_ID_CHARACTERS_MAX = 64


class ChangeForm(BaseModel):
    form_token: str = ""
    form_id: str = ""
    when: str = ""
    shown_at: str = ""
    version: str = ""


class WithdrawForm(BaseModel):
    form_token: str = ""
    change_id: str = ""


@dataclass(frozen=True)
class Wish:
    """A subscription that can change its plan, what it is on, and what is on sale."""

    subscription: Subscription
    old: Sold
    latest: Catalogue
    version: int
    currency: str
    replaced: Change | None  # new prices that wait for the next period

    @property
    def page(self) -> str:
        return f"/subscriptions/{self.subscription.subscription_id}"

    @property
    def started_at(self) -> datetime:
        return self.subscription.started_at or self.subscription.requested_at


async def _wish(parts: Parts, visitor: Visitor, subscription_id: str) -> Wish:
    """Return what there is to change; end with a page that says why there is nothing."""
    subscription = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if subscription is None:
        raise no_such_subscription()
    back = ("Open the subscription", f"/subscriptions/{subscription.subscription_id}")
    ending = subscription.cancellation is not None or subscription.ends_at is not None
    try:
        refuse_standing(live=subscription.is_live, status=subscription.status, ending=ending)
    except ChangeRefusedError as error:
        raise PageError(409, "The plan cannot be changed now", str(error), action=back) from None
    change = next(iter(await change_store.newest(parts.pool, subscription.subscription_id)), None)
    if change is not None and not change.gives_way and (change.is_under_way or change.state == "scheduled"):
        if change.state == "scheduled":
            raise PageError(409, "A change is planned already", "Take it back first, then choose another plan.", action=back)
        raise PageError(409, "A change of this plan is under way", "It takes a few seconds.", action=back)
    async with parts.pool.acquire() as connection:
        bought, latest = (
            await parts.catalogues.version(connection, subscription.catalogue_version),
            await parts.catalogues.latest(connection),
        )
    if bought is None or latest is None:
        raise PageError(503, "The plan is not known here yet", "Try again in a minute.", action=back)
    old = Sold(bought, bought.product(subscription.product_id))
    replaced = change if change is not None and change.gives_way else None
    return Wish(subscription, old, latest[1], latest[0], subscription.currency or bought.currency_of(old.product), replaced)


@router.get("/{subscription_id}/change")
async def choose(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str) -> Response:
    """Show the plans to go on with."""
    wish = await _wish(parts, visitor, subscription_id)
    others = await subscriptions_store.list_subscriptions(parts.pool, visitor.account_id)
    held = [one.product_id for one in others if one.is_live and one.subscription_id != wish.subscription.subscription_id]
    context = {
        "visitor": visitor,
        "subscription": wish.subscription,
        "plan": plan_of(wish.old.catalogue, wish.old.product, wish.currency),
        "offers": changes.offers(wish.old, wish.latest, wish.currency, held),
    }
    return parts.pages.render(request, "change.html", context)


@router.get("/{subscription_id}/change/{product_id}")
async def review(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, product_id: str) -> Response:
    """Show what the change costs, now and at the end of the period."""
    return await _review(request, parts, visitor, await _wish(parts, visitor, subscription_id), product_id)


async def _new(parts: Parts, visitor: Visitor, wish: Wish, product_id: str) -> Sold:
    """Return the plan to go on with; end with a page when it cannot be."""
    others = await subscriptions_store.list_subscriptions(parts.pool, visitor.account_id)
    held = [one.product_id for one in others if one.is_live and one.subscription_id != wish.subscription.subscription_id]
    offer = next((one for one in changes.offers(wish.old, wish.latest, wish.currency, held) if one.plan.product_id == product_id), None)
    choice = ("Choose another plan", f"{wish.page}/change")
    if offer is None:
        raise PageError(404, "This plan is not on sale", "It may have been replaced.", action=choice)
    if offer.refused is not None:
        raise PageError(409, f"You cannot change to {offer.plan.name}", offer.refused, action=choice)
    return Sold(wish.latest, wish.latest.product(product_id))


async def _ways(parts: Parts, wish: Wish, new: Sold, at: datetime) -> list[changes.Way]:
    month = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    used = await read_models.usage_between(parts.pool, wish.subscription.subscription_id, month, at)
    since = wish.subscription.plan_since or wish.started_at
    return changes.ways(wish.old, new, wish.subscription, currency=wish.currency, plan_since=since, at=at, used=used.by_meter)


async def _review(request: Request, parts: Parts, visitor: Visitor, wish: Wish, product_id: str, *, again: bool = False) -> Response:
    new, at = await _new(parts, visitor, wish, product_id), parts.clock.now()
    context = {
        "visitor": visitor,
        "subscription": wish.subscription,
        "old": plan_of(wish.old.catalogue, wish.old.product, wish.currency),
        "new": plan_of(new.catalogue, new.product, wish.currency),
        "ways": await _ways(parts, wish, new, at),
        "currency": wish.currency,
        "replaced": wish.replaced,
        "old_has_usage": bool(wish.old.product.priced_meters()),
        "usage_minor": await _usage_so_far(parts, wish, at),
        "shown_at": at.replace(microsecond=0).isoformat(),
        "version": wish.version,
        "form_id": secrets.token_urlsafe(16),
        "again": again,
    }
    return parts.pages.render(request, "change_review.html", context, 409 if again else 200)


async def _usage_so_far(parts: Parts, wish: Wish, at: datetime) -> int:
    """Return what the usage of the present plan costs so far: it is charged when the plan changes now."""
    subscription, old = wish.subscription, wish.old
    if subscription.period_start is None or subscription.period_end is None:
        return 0
    usage = await read_models.usage_between(
        parts.pool, subscription.subscription_id, subscription.period_start, at, counted_since=subscription.plan_since
    )
    period = period_at(old.product, started_at=wish.started_at, at=at)
    facts = Facts(started_at=subscription.plan_since or wish.started_at, ended_at=at, end_reason="change", currency=wish.currency)
    counted = {meter: usage.by_meter.get(meter, 0) for meter in old.product.meter_ids()}
    rated = rate(old.catalogue, old.product, period=period, usage=counted, facts=facts)
    return sum(line.amount_minor for line in rated.lines if line.component not in {"setup", "base", "trial"})


@router.post("/{subscription_id}/change/withdraw")
async def withdraw(parts: HereParts, visitor: SignedIn, subscription_id: str, form: Annotated[WithdrawForm, Form()]) -> Response:
    """Stay on the present plan after all."""
    check_form(visitor, form.form_token)
    subscription = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if subscription is None:
        raise no_such_subscription()
    for change in await change_store.newest(parts.pool, subscription.subscription_id):
        if change.change_id == form.change_id and change.asked_here:
            await _note_withdrawal(parts, visitor, subscription, change.change_id)
    return RedirectResponse(f"/subscriptions/{subscription.subscription_id}", 303)


async def _note_withdrawal(parts: Parts, visitor: Visitor, subscription: Subscription, change_id: str) -> None:
    async with parts.pool.acquire() as connection, connection.transaction():
        if not await change_store.ask_withdrawal(connection, change_id):
            return
        event = SubscriptionChangeWithdrawn(
            cause_id=f"withdraw:{change_id}",
            occurred_at=parts.clock.now(),
            subscription_id=subscription.subscription_id,
            account_id=subscription.account_id,
            user_id=visitor.user_id,
            change_id=change_id,
        )
        await announce(connection, event)
        log.info("planned change taken back", subscription_id=subscription.subscription_id, event_id=str(event.event_id))


@router.post("/{subscription_id}/change/{product_id}")
async def confirm(
    request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, product_id: str, *, form: Annotated[ChangeForm, Form()]
) -> Response:
    """Ask for the change at the price that was shown; show the new one where that is too old."""
    check_form(visitor, form.form_token)
    known = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if known is not None and await change_store.is_known(parts.pool, _change_id(known, form)):  # a double click
        return RedirectResponse(f"/subscriptions/{known.subscription_id}", 303)
    wish = await _wish(parts, visitor, subscription_id)
    new, now = await _new(parts, visitor, wish, product_id), parts.clock.now()
    way = next((one for one in await _ways(parts, wish, new, now) if one.when == form.when and one.refused is None), None)
    shown_at = _instant(form.shown_at)
    fresh = (
        shown_at is not None
        and form.version == str(wish.version)
        and changes.is_fresh(shown_at, old=wish.old, started_at=wish.started_at, now=now)
    )
    if way is None or not fresh or not 0 < len(form.form_id) <= FORM_ID_CHARACTERS_MAX:
        return await _review(request, parts, visitor, wish, product_id, again=True)
    event = SubscriptionChangeRequested(
        cause_id=_cause(wish.subscription, form),
        occurred_at=now,
        subscription_id=wish.subscription.subscription_id,
        account_id=wish.subscription.account_id,
        user_id=visitor.user_id,
        product_id=product_id,
        when=way.when,
        prorate_at=shown_at if way.when == "now" else None,
        catalogue_version=wish.version,
    )
    await _note(parts, event)
    return RedirectResponse(wish.page, 303)


def _cause(subscription: Subscription, form: ChangeForm) -> str:
    return f"change:{subscription.subscription_id}:{form.form_id}"


def _change_id(subscription: Subscription, form: ChangeForm) -> str:
    """Return the id that the event of this form has: the same form is the same wish."""
    return str(derive_id(SubscriptionChangeRequested.topic, subscription.subscription_id, _cause(subscription, form)))


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


async def _note(parts: Parts, event: SubscriptionChangeRequested) -> None:
    """Add wish and event in one transaction; of two forms sent at once one is first, and the other shows what is under way."""
    async with parts.pool.acquire() as connection, connection.transaction():
        if await change_store.add_change(
            connection,
            change_id=str(event.event_id),
            subscription_id=event.subscription_id,
            user_id=event.user_id,
            product_id=event.product_id,
            timing=event.when,
            at=event.occurred_at,
        ):
            await announce(connection, event)
            log.info("plan change requested", subscription_id=event.subscription_id, when=event.when, event_id=str(event.event_id))
