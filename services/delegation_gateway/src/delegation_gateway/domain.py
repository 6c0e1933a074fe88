"""The rules: what a registration must hold, what a subscription's state means, when a cancellation takes effect. No I/O, no clock."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from billing_common.catalogue import Product

NAME_CHARACTERS_MAX = 100
DISPLAY_NAME_CHARACTERS_MAX = 100
EMAIL_CHARACTERS_MAX = 254
PASSWORD_CHARACTERS_MIN = 10
PASSWORD_CHARACTERS_MAX = 200
EMAIL = re.compile(r"[^@\s<>\"(),:;\\\[\]]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}")
Timing = Literal["now", "period_end"]


@dataclass(frozen=True)
class Registration:
    first_name: str
    last_name: str
    email: str
    password: str

    @property
    def email_key(self) -> str:
        return email_key(self.email)


def email_key(email: str) -> str:
    """Return the form in which addresses are compared."""
    return email.strip().lower()


def registration_errors(registration: Registration) -> dict[str, str]:
    """Return what is wrong, by field, in words that say what to do; empty when nothing is."""
    errors: dict[str, str] = {}
    for field, text in (("first_name", registration.first_name), ("last_name", registration.last_name)):
        label = field.replace("_", " ")
        if not text.strip():
            errors[field] = f"Enter your {label}"
        elif not _is_one_line(text, NAME_CHARACTERS_MAX):
            errors[field] = f"Your {label} can have at most {NAME_CHARACTERS_MAX} characters, on one line"
    if not registration.email.strip():
        errors["email"] = "Enter your e-mail address"
    elif len(registration.email) > EMAIL_CHARACTERS_MAX or not EMAIL.fullmatch(registration.email.strip()):
        errors["email"] = "Enter an e-mail address like name@example.com"
    if len(registration.password) < PASSWORD_CHARACTERS_MIN:
        errors["password"] = f"Choose a password of at least {PASSWORD_CHARACTERS_MIN} characters"
    elif len(registration.password) > PASSWORD_CHARACTERS_MAX:
        errors["password"] = f"Choose a password of at most {PASSWORD_CHARACTERS_MAX} characters"
    elif registration.password.strip().lower() == registration.email_key:
        errors["password"] = "Choose a password that is not your e-mail address"  # noqa: S105 # a sentence, not a password
    return errors


def subscribe_errors(display_name: str, *, consent: bool) -> dict[str, str]:
    """Return what is wrong with the form that asks for a subscription, by field."""
    errors: dict[str, str] = {}
    if not display_name.strip():
        errors["display_name"] = "Enter a name for this subscription"
    elif not _is_one_line(display_name, DISPLAY_NAME_CHARACTERS_MAX):
        errors["display_name"] = f"The name can have at most {DISPLAY_NAME_CHARACTERS_MAX} characters, on one line"
    if not consent:
        errors["consent-yes"] = "Confirm that you agree to the price and the terms"
    return errors


def key_name_error(name: str) -> str | None:
    """Return what is wrong with a key's name."""
    if not name.strip():
        return "Enter a name for this key"
    if not _is_one_line(name, DISPLAY_NAME_CHARACTERS_MAX):
        return f"The name can have at most {DISPLAY_NAME_CHARACTERS_MAX} characters, on one line"
    return None


def _is_one_line(text: str, characters_max: int) -> bool:
    return len(text.strip()) <= characters_max and text.isprintable()


@dataclass(frozen=True)
class Subscription:
    """All that is known here about one subscription: the request, the state Stripe reported, the access that was applied."""

    subscription_id: str
    account_id: str
    product_id: str
    catalogue_version: int
    display_name: str
    requested_currency: str | None
    requested_at: datetime
    request_state: str
    request_reason: str | None
    status: str | None
    currency: str | None
    started_at: datetime | None
    period_start: datetime | None
    period_end: datetime | None
    cancel_at_period_end: bool
    cancel_at: datetime | None
    ended_at: datetime | None
    is_at_stripe: bool
    cancellation: Timing | None
    access: str | None
    access_reason: str | None
    sid: str | None
    plan_since: datetime | None = None

    @property
    def is_ended(self) -> bool:
        return self.status in {"canceled", "incomplete_expired"} or self.request_state == "ended"

    @property
    def is_live(self) -> bool:
        return self.status is not None and not self.is_ended

    @property
    def can_be_paid(self) -> bool:
        """Whether a Checkout session may be opened for it: asked for, and nothing has come of it yet."""
        return self.status is None and self.request_state in {"requested", "expired"}

    @property
    def has_key(self) -> bool:
        return self.access in {"active", "suspended"}

    @property
    def ends_at(self) -> datetime | None:
        """When it ends by itself, if it does."""
        return self.cancel_at or (self.period_end if self.cancel_at_period_end else None)


@dataclass(frozen=True)
class Badge:
    word: str
    kind: str


BADGES: Mapping[str, Badge] = {
    "active": Badge("Active", "good"),
    "trialing": Badge("Trial", "good"),
    "past_due": Badge("Past due", "bad"),
    "unpaid": Badge("Past due", "bad"),  # until the grace of the plan has passed; then access is suspended
    "paused": Badge("Paused", "warn"),
    "incomplete": Badge("Waiting for payment", "warn"),
    "incomplete_expired": Badge("Not paid", ""),
    "canceled": Badge("Ended", ""),
}
REQUEST_BADGES: Mapping[str, Badge] = {
    "requested": Badge("Not paid yet", "warn"),
    "expired": Badge("Not paid", ""),
    "failed": Badge("Not possible", "bad"),
    "live": Badge("Being set up", "accent"),
    "ended": Badge("Ended", ""),
}


def badge(subscription: Subscription) -> Badge:
    """Return the one word for where a subscription stands."""
    if subscription.status is None:
        return REQUEST_BADGES[subscription.request_state]
    if subscription.is_live and subscription.access == "suspended":
        return Badge("Suspended", "bad")
    if subscription.is_live and subscription.cancellation == "now":
        return Badge("Ending", "warn")
    return BADGES.get(subscription.status, Badge(subscription.status, ""))


def timings(product: Product, subscription: Subscription) -> tuple[Timing, ...]:
    """Return when it may end, the default first: who has paid a base fee may use it up."""
    if subscription.period_end is None or subscription.status in {"unpaid", "paused", "incomplete"}:
        return ("now",)
    has_base = product.price is not None and product.price.base is not None
    return ("period_end", "now") if has_base else ("now", "period_end")
