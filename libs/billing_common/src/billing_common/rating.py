"""The one pricing function: a product, a period, usage and the facts of a subscription in; the lines of Stripe's invoice out.

Decimal and int only. Every line is rounded once, to whole minor units, halves up; the total is the sum of the rounded lines.
Lines stand in this order: setup fee, base fee, usage in the order of the file (one line per slice), packages, minimum or maximum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Literal

from dateutil.relativedelta import relativedelta

from billing_common.catalogue import Catalogue, Price, Product, UsagePrice
from billing_common.catalogue_tiers import Slice, slices_of, unit_rate
from billing_common.money import EXACT, plain, round_half_up, to_minor

SECOND = timedelta(seconds=1)


class RatingError(Exception):
    """The question makes no sense: an unknown meter, a negative quantity, a currency the product is not sold in."""


@dataclass(frozen=True)
class Period:
    """A billing period: start inclusive, end exclusive, both aware UTC."""

    start: datetime
    end: datetime

    def part(self, minor: Decimal, *, since: datetime) -> Decimal:
        """Return the part of an amount for what is left at an instant, by the second; divided last, so that halves stay exact."""
        left = (self.end - max(self.start, since.replace(microsecond=0))) // SECOND
        return EXACT.divide(EXACT.multiply(minor, Decimal(max(left, 0))), Decimal((self.end - self.start) // SECOND))


@dataclass(frozen=True)
class Facts:
    """What rating must know about the subscription."""

    started_at: datetime
    ended_at: datetime | None = None
    end_reason: Literal["cancellation", "change"] = "cancellation"
    trial_end: datetime | None = None
    quantity: int = 1
    currency: str | None = None


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
    """The lines of one period and their sum."""

    currency: str
    lines: tuple[Line, ...]
    total_minor: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_minor", sum(line.amount_minor for line in self.lines))


def rate(catalogue: Catalogue, product: Product, *, period: Period, usage: Mapping[str, int], facts: Facts) -> Rated:
    """Return what the service of this period costs, wherever Stripe puts it: a base fee stands on the invoice before."""
    currency = facts.currency or catalogue.currency_of(product)
    price = catalogue.price_of(product, currency)
    _check(product, price, currency, usage, facts)
    if price is None:
        return Rated(currency, ())
    if facts.trial_end is not None and facts.trial_end >= period.end:
        trial = Line(f"Trial period for {product.name}", facts.quantity, Decimal(0), 0, "trial", period)
        return Rated(currency, (*_setup(product, price, currency, period, facts), trial))
    lines = [*_setup(product, price, currency, period, facts), *_base(product, price, currency, period, facts)]
    for usage_price in price.usage:
        lines += _usage(catalogue, usage_price, currency, period, usage.get(usage_price.meter, 0))
    lines += _packages(catalogue, price, currency, period, usage)
    lines += _spend_limits(price, currency, period, lines)
    return Rated(currency, tuple(lines))


def _check(product: Product, price: Price | None, currency: str, usage: Mapping[str, int], facts: Facts) -> None:
    if price is None and not product.is_free:
        raise RatingError(f'the product "{product.id}" is not sold in {currency.upper()[:10]}')
    unknown = sorted(set(usage) - set(product.meter_ids()))
    if unknown:
        raise RatingError(f'the product "{product.id}" has no meter "{unknown[0][:40]}"; it has {", ".join(product.meter_ids()) or "none"}')
    if any(quantity < 0 for quantity in usage.values()) or facts.quantity < 1:
        raise RatingError("a quantity is never negative")


def _setup(product: Product, price: Price, currency: str, period: Period, facts: Facts) -> Iterable[Line]:
    if price.setup and facts.started_at >= period.start:
        minor = to_minor(price.setup, currency)
        yield Line(f"{product.name}: setup", 1, minor, round_half_up(minor), "setup", period)


def _base(product: Product, price: Price, currency: str, period: Period, facts: Facts) -> Iterable[Line]:
    """Charge in advance from the start; give back what is unused only when the product is changed, not when it is cancelled."""
    if price.base is None:
        return
    minor = to_minor(price.base, currency)
    whole = EXACT.multiply(minor, Decimal(facts.quantity))
    by_second = product.policies.proration == "by_second"
    start = max(period.start, facts.started_at, facts.trial_end or facts.started_at)
    if start > period.start and not by_second:
        return  # Stripe charges nothing for the days before the first full period
    amount = round_half_up(period.part(whole, since=start))
    text = f"{product.name}: base fee"
    yield Line(text, facts.quantity, minor, amount, "base", Period(start, period.end), proration=start > period.start)
    if by_second and facts.end_reason == "change" and facts.ended_at is not None and start <= facts.ended_at < period.end:
        unused = -round_half_up(period.part(whole, since=facts.ended_at))
        text = f"{product.name}: unused time of the base fee"
        yield Line(text, facts.quantity, -minor, unused, "base", Period(facts.ended_at, period.end), proration=True)


def _usage(catalogue: Catalogue, usage: UsagePrice, currency: str, period: Period, quantity: int) -> Iterable[Line]:
    meter, component = catalogue.meters[usage.meter], f"usage:{usage.meter}"
    if usage.rounding != "exact":
        blocks = _blocks(quantity, usage.per, ROUND_CEILING if usage.rounding == "started" else ROUND_FLOOR)
        minor = to_minor(usage.amount or Decimal(0), currency)
        text = f"{meter.name}, per {usage.rounding} {usage.per:,}"
        yield Line(text, blocks, minor, round_half_up(EXACT.multiply(minor, Decimal(blocks))), component, period)
        return
    slices = slices_of(usage)
    if usage.mode == "volume":
        slices = (next(entry for entry in slices if entry.up_to is None or quantity <= entry.up_to),)
    low = 0
    for index, entry in enumerate(slices):
        high = quantity if entry.up_to is None or usage.mode == "volume" else min(quantity, entry.up_to)
        if high <= low and index > 0:
            break
        place = _place(low, entry, only=len(slices) == 1)
        rate_minor, units = unit_rate(entry.amount, entry.per, currency), max(high - low, 0)
        text = f"{meter.name}{place}" + (" (included)" if not rate_minor and not entry.flat else "")
        yield Line(text, units, rate_minor, round_half_up(EXACT.multiply(rate_minor, Decimal(units))), component, period)
        if entry.flat:
            flat = to_minor(entry.flat, currency)
            yield Line(f"{meter.name}{place}, flat fee", 1, flat, round_half_up(flat), component, period)
        low = high


def _place(low: int, entry: Slice, *, only: bool) -> str:
    if only:
        return ""
    return f", first {entry.up_to:,}" if low == 0 and entry.up_to else f", from {low + 1:,}"


def _packages(catalogue: Catalogue, price: Price, currency: str, period: Period, usage: Mapping[str, int]) -> Iterable[Line]:
    """Charge each started package; the packages that are charged at least stand on a line of their own, as at Stripe."""
    if price.unit is None:
        return
    started = _blocks(usage.get(price.unit.meter, 0), price.unit.size, ROUND_CEILING)
    minor = to_minor(price.unit.amount, currency)
    text = f"{catalogue.meters[price.unit.meter].name}, per started {price.unit.size:,}"
    yield Line(text, started, minor, round_half_up(EXACT.multiply(minor, Decimal(started))), "unit", period)
    missing = price.unit.at_least - started
    if missing > 0:
        yield Line(
            f"{text}, at least {price.unit.at_least:,}",
            missing,
            minor,
            round_half_up(EXACT.multiply(minor, Decimal(missing))),
            "minimum",
            period,
        )


def _spend_limits(price: Price, currency: str, period: Period, lines: Iterable[Line]) -> Iterable[Line]:
    spent = sum(line.amount_minor for line in lines if line.component != "setup")
    least = round_half_up(to_minor(price.minimum or Decimal(0), currency))
    if spent < least:
        yield Line("Minimum spend", 1, Decimal(least - spent), least - spent, "minimum", period)
    if price.maximum is not None:
        most = round_half_up(to_minor(price.maximum, currency))
        if spent > most:
            yield Line("Maximum spend", 1, Decimal(most - spent), most - spent, "maximum", period)


def _blocks(quantity: int, size: int, rounding: str) -> int:
    return -(-quantity // size) if rounding == ROUND_CEILING else quantity // size


def period_at(product: Product, *, started_at: datetime, at: datetime) -> Period:
    """Return the billing period that holds an instant."""
    if product.billing_anchor == "calendar":
        moment = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start = moment.replace(month=1) if product.interval == "year" else moment
        return Period(start, start + _step(product, 1))
    anchor = started_at + timedelta(days=product.trial_days)
    if product.trial_days and at < anchor:
        return Period(started_at, anchor)
    count = max(0, _whole_steps(product, anchor, at))
    return Period(anchor + _step(product, count), anchor + _step(product, count + 1))


def _step(product: Product, count: int) -> relativedelta:
    return relativedelta(years=count) if product.interval == "year" else relativedelta(months=count)


def _whole_steps(product: Product, anchor: datetime, at: datetime) -> int:
    """Count the full intervals; each end is reckoned from the anchor, so the 31st comes back after a short month."""
    count = (at.year - anchor.year) * (1 if product.interval == "year" else 12)
    count += 0 if product.interval == "year" else at.month - anchor.month
    return count - 1 if anchor + _step(product, count) > at else count


def as_quote(rated: Rated) -> dict[str, object]:
    """Return the JSON that every quote has: the command's, the HTTP door's and the pages'."""
    return {
        "currency": rated.currency,
        "total_minor": rated.total_minor,
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
