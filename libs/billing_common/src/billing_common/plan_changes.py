"""Going from one plan to another: which plans can follow each other, and what the change gives back and charges. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_stripe import desired_product
from billing_common.rating import Facts, Line, period_at, rate

When = Literal["now", "period_end"]
ITEMS_MAX = 20  # of a subscription at Stripe
SHOWN_FOR = timedelta(minutes=15)  # how long a price that was shown is charged as shown

STANDINGS: Mapping[str, tuple[str, str]] = {
    "trialing": ("in_trial", "A trial runs to its end first: change the plan after it."),
    "past_due": ("unpaid_invoice", "An invoice of this subscription is open: pay it first."),
    "unpaid": ("unpaid_invoice", "An invoice of this subscription is open: pay it first."),
    "paused": ("paused", "This subscription is paused: resume it first."),
}


class ChangeRefusedError(Exception):
    """These plans cannot follow each other like that; `code` is stable, the message says what is possible instead."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Sold:
    """A product as one catalogue version sells it."""

    catalogue: Catalogue
    product: Product

    def has_fee(self, currency: str) -> bool:
        price = self.catalogue.price_of(self.product, currency)
        return price is not None and price.base is not None


def refuse_standing(*, live: bool, status: str | None, ending: bool) -> None:
    """Raise `ChangeRefusedError` when a subscription in this state cannot change its plan."""
    if not live or status in {None, "incomplete"}:
        raise ChangeRefusedError("not_running", "This subscription is not running.")
    if ending:
        raise ChangeRefusedError("ending", "This subscription has been cancelled: it can only end.")
    if status in STANDINGS:
        raise ChangeRefusedError(*STANDINGS[status])


def refuse_change(old: Sold, new: Sold, *, currency: str, when: When) -> None:
    """Raise `ChangeRefusedError` when a subscription to the old plan cannot go on with the new one."""
    was, then = old.product, new.product
    if was.is_free or then.is_free:
        text = "A free plan has no card and no invoice: subscribe to the other plan, then cancel this one."
        raise ChangeRefusedError("free_product", text)
    if new.catalogue.price_of(then, currency) is None:
        raise ChangeRefusedError("other_currency", f"{then.name} is not sold in {currency.upper()}, the currency of this subscription.")
    if was.interval != then.interval:
        text = f"{was.name} is billed by the {was.interval} and {then.name} by the {then.interval}: subscribe to it, then cancel this one."
        raise ChangeRefusedError("other_interval", text)
    if was.billing_anchor != then.billing_anchor or was.trial_days != then.trial_days:
        text = f"The billing periods of {then.name} begin on other days than those of {was.name}: subscribe to it, then cancel this one."
        raise ChangeRefusedError("other_anchor", text)
    if when == "now":
        _refuse_now(old, new, currency)


def _refuse_now(old: Sold, new: Sold, currency: str) -> None:
    for sold in (old, new):
        if sold.has_fee(currency) and sold.product.policies.proration == "none":
            text = f"The fee of {sold.product.name} is for whole periods: change at the end of the period."
            raise ChangeRefusedError("whole_periods", text)
    kept = len(old.product.priced_meters())  # until their last usage is billed
    if kept + len(new.product.priced_meters()) + int(new.has_fee(currency)) > ITEMS_MAX:
        text = "Both plans together have more prices than a subscription can hold: change at the end of the period."
        raise ChangeRefusedError("too_many_prices", text)


def lines_of_change(old: Sold, new: Sold, *, at: datetime, started_at: datetime, plan_since: datetime, currency: str) -> list[Line]:
    """Return what a change now gives back of the old fee and charges of the new one, to the second, as on the invoice of the change.

    `started_at` is the subscription's start, from which periods are reckoned; `plan_since` is when its present plan began.
    """
    period = period_at(old.product, started_at=started_at, at=at)
    ended = Facts(started_at=plan_since, ended_at=at, end_reason="change", currency=currency)
    begun = Facts(started_at=at, currency=currency, setup_due=old.product.id != new.product.id)
    before = rate(old.catalogue, old.product, period=period, usage={}, facts=ended).lines
    after = rate(new.catalogue, new.product, period=period, usage={}, facts=begun).lines
    returned = [line for line in before if line.component == "base" and line.amount_minor < 0]
    return [*returned, *(line for line in after if line.component in {"setup", "base"})]


def costs_the_same(old: Sold, new: Sold, currency: str) -> bool:
    """Whether both charge the same in a currency: the same prices at Stripe, and the same additions to its drafts."""
    return _charges(old, currency) == _charges(new, currency)


def _charges(sold: Sold, currency: str) -> tuple[object, ...]:
    price = sold.catalogue.price_of(sold.product, currency)
    if price is None:
        return ()
    prices = desired_product(sold.catalogue, sold.product).prices
    rounded = tuple((usage.meter, usage.rounding, usage.per, usage.included) for usage in price.usage if usage.rounding != "exact")
    keys = tuple(sorted(one.lookup_key for one in prices if one.currency == currency))
    return keys, price.minimum, price.maximum, price.unit.at_least if price.unit else None, rounded
