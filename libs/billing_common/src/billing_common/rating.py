"""The one pricing function: a product, a period, usage and the facts of a subscription in; the lines of Stripe's invoice out.

Decimal and int only. Every line is rounded once, to whole minor units, halves up; the total is the sum of the rounded lines.
Lines stand as they come on Stripe's invoices: setup fee and base fee on the one that opens the period; on the one that closes it first
what changes within the period brought, the newest first, then usage in the order of the file (one line per slice), packages, and what is
added to the draft because no price at Stripe can say it: rounding to blocks beyond an allowance, packages at least, minimum or maximum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

from billing_common.catalogue import Catalogue, Price, Product, UsagePrice
from billing_common.catalogue_model import UnitPrice
from billing_common.catalogue_tiers import Slice, has_slices, slice_of, slices_of, unit_rate
from billing_common.money import EXACT, plain, round_half_up, to_minor
from billing_common.rating_periods import Period, period_at, trial_end

__all__ = [
    "ADDED_TO_DRAFT",
    "Facts",
    "Line",
    "Period",
    "QuantityChange",
    "Rated",
    "RatingError",
    "as_quote",
    "period_at",
    "rate",
    "trial_end",
]

ADDED_TO_DRAFT = frozenset({"rounding", "minimum", "maximum"})  # components that Turnpike adds to Stripe's draft invoice


class RatingError(Exception):
    """The question makes no sense: an unknown meter, a negative quantity, a currency the product is not sold in."""


@dataclass(frozen=True)
class QuantityChange:
    """From this instant the subscription has another number of base fees (seats, environments)."""

    at: datetime
    quantity: int


@dataclass(frozen=True)
class Facts:
    """What rating must know about the subscription. `quantity` is what it began with; changes stand in order of time.

    After a change of the product or of its version, `started_at` is when that happened: each plan is rated on its own.
    """

    started_at: datetime
    ended_at: datetime | None = None
    end_reason: Literal["cancellation", "change"] = "cancellation"
    trial_end: datetime | None = None
    quantity: int = 1
    currency: str | None = None
    quantity_changes: tuple[QuantityChange, ...] = ()
    credit_minor: int = 0
    setup_due: bool = True  # not at a new version of the same product: that is no new customer

    def quantity_before(self, instant: datetime) -> int:
        """Return how many base fees are paid up to an instant: a change at that very second comes after the period's fee was drawn."""
        return next((change.quantity for change in reversed(self.quantity_changes) if change.at < instant), self.quantity)

    def begin_of(self, period: Period) -> datetime:
        """Return from when on the period is paid for: its start, or that of the subscription, or the end of the trial."""
        return max(period.start, self.started_at.replace(microsecond=0), self.trial_end or period.start)

    def end_of(self, period: Period) -> datetime:
        """Return until when the period was used: its end, or that of the subscription."""
        ended_at = self.ended_at or period.end
        return max(self.begin_of(period), min(period.end, ended_at.replace(microsecond=0)))


@dataclass(frozen=True)
class Line:
    """One line of the invoice. `unit_amount_decimal` is in minor units and exact; `amount_minor` is rounded."""

    description: str
    quantity: int
    unit_amount_decimal: Decimal
    amount_minor: int
    component: str
    period: Period
    proration: bool = False


@dataclass(frozen=True)
class Rated:
    """The lines of one period, their sum, and what of it the customer's credit pays: as at Stripe, credit is no line."""

    currency: str
    lines: tuple[Line, ...]
    credit_minor: int = 0
    total_minor: int = field(init=False)
    due_minor: int = field(init=False)

    def __post_init__(self) -> None:
        total = sum(line.amount_minor for line in self.lines)
        object.__setattr__(self, "total_minor", total)
        object.__setattr__(self, "due_minor", total - min(max(total, 0), self.credit_minor))


def rate(catalogue: Catalogue, product: Product, *, period: Period, usage: Mapping[str, int], facts: Facts) -> Rated:
    """Return what the service of this period costs, wherever Stripe puts it: a base fee stands on the invoice before."""
    currency = facts.currency or catalogue.currency_of(product)
    price = catalogue.price_of(product, currency)
    _check(product, price, currency, usage, facts)
    if price is None:
        return Rated(currency, (), facts.credit_minor)
    lines = list(_setup(product, price, currency, period, facts))
    if facts.trial_end is not None and facts.trial_end >= period.end:
        return Rated(currency, (*lines, *_trial(product, price, period, facts)), facts.credit_minor)
    lines += _base(product, price, currency, period, facts)
    used = Period(facts.begin_of(period), facts.end_of(period))
    if used.start == used.end:  # changed at the very start: nothing could be used, so nothing is charged but what is given back
        return Rated(currency, tuple(lines), facts.credit_minor)
    for usage_price in price.usage:
        lines += _usage(catalogue, usage_price, currency, used, usage.get(usage_price.meter, 0))
    lines += _packages(catalogue, price, currency, used, usage)
    for usage_price in price.usage:
        lines += _rounding(catalogue, usage_price, currency, used, usage.get(usage_price.meter, 0))
    lines += _least_packages(catalogue, price, currency, used, usage)
    lines += _spend_limits(price, currency, used, lines, _least_spend(product, price, currency, period, facts))
    return Rated(currency, tuple(lines), facts.credit_minor)


def _check(product: Product, price: Price | None, currency: str, usage: Mapping[str, int], facts: Facts) -> None:
    if price is None and not product.is_free:
        raise RatingError(f'the product "{product.id}" is not sold in {currency.upper()[:10]}')
    unknown = sorted(set(usage) - set(product.meter_ids()))
    if unknown:
        raise RatingError(f'the product "{product.id}" has no meter "{unknown[0][:40]}"; it has {", ".join(product.meter_ids()) or "none"}')
    quantities = (facts.quantity, *(change.quantity for change in facts.quantity_changes))
    if any(quantity < 0 for quantity in usage.values()) or min(quantities) < 1 or facts.credit_minor < 0:
        raise RatingError("a quantity is never negative")


def _setup(product: Product, price: Price, currency: str, period: Period, facts: Facts) -> Iterable[Line]:
    if price.setup is not None and facts.setup_due and facts.started_at >= period.start:
        minor, begin = to_minor(price.setup, currency), facts.started_at.replace(microsecond=0)
        yield Line(f"{product.name}: setup", 1, minor, round_half_up(minor), "setup", Period(begin, begin))


def _trial(product: Product, price: Price, period: Period, facts: Facts) -> Iterable[Line]:
    """A trial shows that the base fee is not charged; Stripe has no line for a meter that will be read later."""
    if price.base is not None:
        yield Line(f"Trial period for {product.name}", facts.quantity, Decimal(0), 0, "trial", period)


def _base(product: Product, price: Price, currency: str, period: Period, facts: Facts) -> Iterable[Line]:
    """Charge in advance from the start; give back what is unused only when the product is changed, not when it is cancelled."""
    if price.base is None:
        return
    minor, start = to_minor(price.base, currency), facts.begin_of(period)
    by_second = product.policies.proration == "by_second"
    if start > period.start and not by_second:
        return  # Stripe charges nothing for the days before the first full period
    quantity = facts.quantity_before(start)
    yield _rest_of_base(product, minor, quantity, period, start, proration=start > period.start)
    if by_second:  # otherwise another quantity counts from the next period on
        changes = sorted(_changes_of_base(product, minor, period, facts), key=lambda line: line.period.start, reverse=True)
        yield from changes  # the newest first; of one instant as they were made: what is given back, then what is charged


def _changes_of_base(product: Product, minor: Decimal, period: Period, facts: Facts) -> Iterable[Line]:
    start = facts.begin_of(period)
    quantity = facts.quantity_before(start)
    end = facts.ended_at if facts.ended_at is not None and start <= facts.ended_at < period.end else None
    for change in facts.quantity_changes:
        if start <= change.at < (end or period.end) and change.quantity != quantity:
            yield _rest_of_base(product, -minor, quantity, period, change.at, proration=True)
            quantity = change.quantity
            yield _rest_of_base(product, minor, quantity, period, change.at, proration=True)
    if facts.end_reason == "change" and end is not None:
        yield _rest_of_base(product, -minor, quantity, period, end, proration=True)


def _rest_of_base(product: Product, minor: Decimal, quantity: int, period: Period, since: datetime, *, proration: bool) -> Line:
    """Charge the base fee for what is left of the period; give it back when the amount is negative."""
    amount = round_half_up(period.part(EXACT.multiply(minor, Decimal(quantity)), since=since))
    text = f"{product.name}: {'unused time of the ' if minor < 0 else ''}base fee"
    return Line(text, quantity, minor, amount, "base", Period(since, period.end), proration=proration)


def _usage(catalogue: Catalogue, usage: UsagePrice, currency: str, period: Period, quantity: int) -> Iterable[Line]:
    meter, component = catalogue.meters[usage.meter], f"usage:{usage.meter}"
    if usage.rounding != "exact" and not has_slices(usage):
        blocks = _blocks(quantity, usage)
        minor = to_minor(usage.amount or Decimal(0), currency)
        text = f"{meter.name}, per {usage.rounding} {usage.per:,}"
        yield Line(text, blocks, minor, round_half_up(EXACT.multiply(minor, Decimal(blocks))), component, period)
        return
    for low, high, entry in _entered(usage, quantity):
        place = _place(low, entry) if usage.mode == "graduated" else ""
        rate_minor, units = unit_rate(entry.amount, entry.per, currency), high - low
        text = f"{meter.name}{place}" + (" (included)" if not rate_minor and not entry.flat else "")
        yield Line(text, units, rate_minor, round_half_up(EXACT.multiply(rate_minor, Decimal(units))), component, period)
        if entry.flat:
            flat = to_minor(entry.flat, currency)
            yield Line(f"{meter.name}{place}, flat fee", 1, flat, round_half_up(flat), component, period)


def _entered(usage: UsagePrice, quantity: int) -> Iterable[tuple[int, int, Slice]]:
    """Yield the slices that are charged, each from unit `low` (exclusive) to `high`; the first one also when nothing was used."""
    if usage.mode == "volume":
        yield 0, quantity, slice_of(usage, quantity)
        return
    low = 0
    for entry in slices_of(usage):
        if low and quantity <= low:
            return
        high = quantity if entry.up_to is None else min(quantity, entry.up_to)
        yield low, high, entry
        low = entry.up_to or high


def _rounding(catalogue: Catalogue, usage: UsagePrice, currency: str, period: Period, quantity: int) -> Iterable[Line]:
    """Bring a price with slices to whole blocks: the difference between the blocks' price and the calls' price."""
    if usage.rounding == "exact" or not has_slices(usage) or quantity <= usage.included:
        return
    whole = usage.included + _blocks(quantity - usage.included, usage) * usage.per
    billed, counted = (sum(line.amount_minor for line in _usage(catalogue, usage, currency, period, each)) for each in (whole, quantity))
    if billed != counted:
        text = f"{catalogue.meters[usage.meter].name}, rounded to {usage.rounding} {usage.per:,}"
        yield Line(text, 1, Decimal(billed - counted), billed - counted, "rounding", period)


def _place(low: int, entry: Slice) -> str:
    if low == 0 and entry.up_to is None:
        return ""
    return f", first {entry.up_to:,}" if low == 0 and entry.up_to else f", from {low + 1:,}"


def _packages(catalogue: Catalogue, price: Price, currency: str, period: Period, usage: Mapping[str, int]) -> Iterable[Line]:
    if price.unit is not None:
        started = -(-usage.get(price.unit.meter, 0) // price.unit.size)
        yield _package_line(catalogue, price.unit, currency, period, started)


def _least_packages(catalogue: Catalogue, price: Price, currency: str, period: Period, usage: Mapping[str, int]) -> Iterable[Line]:
    """The packages that are charged at least stand on a line of their own, as at Stripe."""
    if price.unit is not None:
        missing = price.unit.at_least - -(-usage.get(price.unit.meter, 0) // price.unit.size)
        if missing > 0:
            line = _package_line(catalogue, price.unit, currency, period, missing)
            yield replace(line, description=f"{line.description}, at least {price.unit.at_least:,}", component="minimum")


def _package_line(catalogue: Catalogue, unit: UnitPrice, currency: str, period: Period, count: int) -> Line:
    minor = to_minor(unit.amount, currency)
    text = f"{catalogue.meters[unit.meter].name}, per started {unit.size:,}"
    return Line(text, count, minor, round_half_up(EXACT.multiply(minor, Decimal(count))), "unit", period)


def _least_spend(product: Product, price: Price, currency: str, period: Period, facts: Facts) -> int:
    """Return the least spend of the time the plan was bought for: like a base fee a share by the second, in full when cancelled early."""
    minor, start = to_minor(price.minimum or Decimal(0), currency), facts.begin_of(period)
    if product.policies.proration == "none":
        return round_half_up(minor) if start == period.start else 0
    share = period.part(minor, since=start)
    if facts.end_reason == "change" and facts.ended_at is not None:
        share = EXACT.subtract(share, period.part(minor, since=facts.end_of(period)))
    return round_half_up(share)


def _spend_limits(price: Price, currency: str, period: Period, lines: Iterable[Line], least: int) -> Iterable[Line]:
    spent = sum(line.amount_minor for line in lines if line.component != "setup")
    if spent < least:
        yield Line("Minimum spend", 1, Decimal(least - spent), least - spent, "minimum", period)
    if price.maximum is not None:
        most = round_half_up(to_minor(price.maximum, currency))
        if spent > most:
            yield Line("Maximum spend", 1, Decimal(most - spent), most - spent, "maximum", period)


def _blocks(quantity: int, usage: UsagePrice) -> int:
    return -(-quantity // usage.per) if usage.rounding == "started" else quantity // usage.per


def as_quote(rated: Rated) -> dict[str, object]:
    """Return the JSON that every quote has: the command's, the HTTP door's and the pages'."""
    return {
        "currency": rated.currency,
        "total_minor": rated.total_minor,
        **({"due_minor": rated.due_minor} if rated.credit_minor else {}),
        "lines": [
            {
                "description": line.description,
                "quantity": line.quantity,
                "unit_amount_decimal": plain(line.unit_amount_decimal),
                "amount_minor": line.amount_minor,
                "component": line.component,
                "period_start": line.period.start.isoformat(),
                "period_end": line.period.end.isoformat(),
                "proration": line.proration,
            }
            for line in rated.lines
        ],
    }
