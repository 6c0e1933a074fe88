"""Billing periods: which one holds an instant, and what part of an amount is left of it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from dateutil.relativedelta import relativedelta

from billing_common.catalogue_model import Product
from billing_common.money import EXACT

SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Period:
    """A billing period: start inclusive, end exclusive, both aware UTC."""

    start: datetime
    end: datetime

    def part(self, minor: Decimal, *, since: datetime) -> Decimal:
        """Return the part of an amount for what is left at an instant, by the second; divided last, so that halves stay exact."""
        left = (self.end - max(self.start, since.replace(microsecond=0))) // SECOND
        return EXACT.divide(EXACT.multiply(minor, Decimal(max(left, 0))), Decimal((self.end - self.start) // SECOND))


def trial_end(product: Product, started_at: datetime) -> datetime | None:
    """Return when the free days of a subscription that began then are over; None for a product without."""
    return started_at + timedelta(days=product.trial_days) if product.trial_days else None


def period_at(product: Product, *, started_at: datetime, at: datetime) -> Period:
    """Return the billing period that holds an instant. The free days are one of their own, and the others are reckoned from their end."""
    if product.billing_anchor == "calendar":
        moment = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start = moment.replace(month=1) if product.interval == "year" else moment
        return Period(start, start + _step(product, 1))
    anchor = trial_end(product, started_at) or started_at
    if at < anchor:
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
