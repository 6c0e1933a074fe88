"""Changing the plan: which plans a subscription can go on with, when, and what that costs at once. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from billing_common.catalogue import Catalogue
from billing_common.plan_changes import SHOWN_FOR, ChangeRefusedError, Sold, When, lines_of_change, refuse_change
from billing_common.rating import Line, period_at
from delegation_gateway.change_store import Change
from delegation_gateway.domain import Subscription
from delegation_gateway.plans import Plan, plan_of
from turnpike_ui.formats import count

CONFIRMATION_REASONS = frozenset({"authentication_required", "subscription_payment_intent_requires_action"})  # 3-D Secure
CARD_REASONS = CONFIRMATION_REASONS | {
    "card_declined", "expired_card", "incorrect_cvc", "insufficient_funds", "invoice_no_payment_method_types", "processing_error",
}  # fmt: skip
REASONS: Mapping[str, str] = {
    "already_subscribed": "You have another subscription to that plan.",
    "cancelled": "The subscription was cancelled before.",
    "change_pending": "Another change was under way at that moment.",
    "checkout_in_progress": "That plan was being bought at that moment. Try again.",
    "ended": "The subscription ended before.",
    "ending": "The subscription was cancelled before.",
    "in_trial": "A trial runs to its end first.",
    "not_made": "The payment service did not make it. Try again.",
    "price_changed": "Its price changed at that moment: look at the new one first.",
    "same_product": "The subscription is on that plan already.",
    "unknown_product": "That plan is not on sale any more.",
    "unpaid_invoice": "An invoice is open: pay it first.",
}


@dataclass(frozen=True)
class Offer:
    """A plan to go on with. `refused` says why it cannot be; None when it can."""

    plan: Plan
    refused: str | None


@dataclass(frozen=True)
class Way:
    """One time at which the plan can change. `refused` says why not then."""

    when: When
    refused: str | None
    lines: Sequence[Line] = ()

    @property
    def due_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


NEWS_FOR = timedelta(days=3)  # how long the page tells of a change that was made, or was not
Kind = Literal["under way", "planned", "new prices", "made", "repriced", "failed"]


@dataclass(frozen=True)
class ChangeNotice:
    """What the subscription's page says of the newest change; `words` are the reason, or the new price in one line."""

    kind: Kind
    name: str
    change: Change
    words: str = ""

    @property
    def needs_card(self) -> bool:
        return self.kind == "failed" and self.change.reason in CARD_REASONS

    @property
    def is_open(self) -> bool:
        return self.kind in {"under way", "planned"}


def notice_of(change: Change, subscription: Subscription, plan: Plan, now: datetime) -> ChangeNotice | None:
    """Return what is to be said of a change; None when it is over and old, or nothing a customer has to know."""
    if change.is_under_way:
        return ChangeNotice("under way", plan.name, change) if change.asked_here else None
    if change.state == "scheduled":
        return ChangeNotice("planned" if change.asked_here else "new prices", plan.name, change, plan.summary)
    if change.state == "made" and change.effective_at is not None and now - change.effective_at <= NEWS_FOR:
        if subscription.product_id != change.product_id:  # the state that moves page and key comes by another way
            return ChangeNotice("under way", plan.name, change)
        return ChangeNotice("made" if change.asked_here else "repriced", plan.name, change, plan.summary)
    if change.state == "failed" and change.asked_here and now - change.requested_at <= NEWS_FOR:
        return ChangeNotice("failed", plan.name, change, words_of(change.reason))
    return None


def words_of(reason: str | None) -> str:
    """Say why a change was not made."""
    if reason in CONFIRMATION_REASONS:
        wanted = "Your bank wants you to confirm this payment, which a change at once cannot wait for"
        return f"{wanted}: use another card, or change with the next period."
    if reason in CARD_REASONS:
        return "Your card was declined."
    return REASONS.get(reason or "", "The payment service refused it.")


def offers(old: Sold, latest: Catalogue, currency: str, held: Iterable[str]) -> list[Offer]:
    """Return all other plans on sale, those that are possible first. `held` are the products of the account's other subscriptions."""
    taken = set(held)
    found = []
    for product in latest.products:
        if product.id == old.product.id:
            continue
        new = Sold(latest, product)
        refused = "You have a subscription to this plan already." if product.id in taken else _refusal(old, new, currency, "period_end")
        sold_in = currency if latest.price_of(product, currency) is not None else None
        found.append(Offer(plan_of(latest, product, sold_in), refused))
    return sorted(found, key=lambda offer: offer.refused is not None)


def _refusal(old: Sold, new: Sold, currency: str, when: When) -> str | None:
    try:
        refuse_change(old, new, currency=currency, when=when)
    except ChangeRefusedError as error:
        return str(error)
    return None


def ways(
    old: Sold, new: Sold, subscription: Subscription, *, currency: str, plan_since: datetime, at: datetime, used: Mapping[str, int]
) -> list[Way]:
    """Return when the plan can change, the default first: a dearer plan now, another one when the paid period is over.

    `used` is the usage of the calendar month, which the new plan's quota counts as well.
    """
    started_at = subscription.started_at or subscription.requested_at
    refused = _refusal(old, new, currency, "now") or _stops(new, used)
    lines = (
        []
        if refused
        else lines_of_change(old, new, at=at.replace(microsecond=0), started_at=started_at, plan_since=plan_since, currency=currency)
    )
    now, later = Way("now", refused, lines), Way("period_end", None)
    return [now, later] if refused is None and _is_dearer(old, new, currency) else [later, now]


def _stops(new: Sold, used: Mapping[str, int]) -> str | None:
    quota = new.product.quota
    if quota is None or quota.beyond != "stop" or quota.window != "calendar_month" or used.get(quota.meter, 0) < quota.calls:
        return None
    return (
        f"You have used {count(used[quota.meter])} this month and {new.product.name} stops at {count(quota.calls)}: "
        "your calls would be refused until the next month."
    )


def _is_dearer(old: Sold, new: Sold, currency: str) -> bool:
    fees = [price.base or 0 if (price := sold.catalogue.price_of(sold.product, currency)) else 0 for sold in (old, new)]
    return fees[1] >= fees[0]


def is_fresh(shown_at: datetime, *, old: Sold, started_at: datetime, now: datetime) -> bool:
    """Whether an amount that was worked out at an instant is still what will be charged."""
    begin = max(period_at(old.product, started_at=started_at, at=now).start, started_at)
    return max(begin, now - SHOWN_FOR) <= shown_at <= now
