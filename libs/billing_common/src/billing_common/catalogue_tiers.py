"""Slices of usage: what is included, tiers and volume discounts all become the same list of slices."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from billing_common.catalogue_model import UsagePrice
from billing_common.money import EXACT, to_minor


@dataclass(frozen=True)
class Slice:
    """Units up to `up_to` (inclusive; None: no end) at `amount` for each `per` units, plus `flat` when entered."""

    up_to: int | None
    amount: Decimal
    per: int
    flat: Decimal = Decimal(0)


def has_slices(usage: UsagePrice) -> bool:
    """Tell whether usage is not all at one rate: Stripe then needs tiers, which cannot be combined with rounding to blocks."""
    return bool(usage.included or usage.tiers or usage.discounts)


def slices_of(usage: UsagePrice) -> Iterator[Slice]:
    """Yield the slices of a usage price before any rounding to blocks, in order; the last one has no end."""
    if usage.tiers:
        yield from (_tier(usage, index) for index in range(len(usage.tiers)))
        return
    amount = usage.amount or Decimal(0)
    if usage.included:
        yield Slice(usage.included, Decimal(0), usage.per)
    if not usage.discounts:
        yield Slice(None, amount, usage.per)
    for entry in usage.discounts:
        if entry.up_to is None or entry.up_to > usage.included:
            yield Slice(entry.up_to, _less(amount, entry.percent), usage.per)


def slice_of(usage: UsagePrice, quantity: int) -> Slice:
    """Return the slice that a quantity ends in: the one that volume pricing charges for all of it."""
    if usage.tiers:
        return _tier(usage, bisect_left(usage.tiers, quantity, hi=len(usage.tiers) - 1, key=lambda tier: tier.up_to or 0))
    return next(entry for entry in slices_of(usage) if entry.up_to is None or quantity <= entry.up_to)


def _tier(usage: UsagePrice, index: int) -> Slice:
    tier = usage.tiers[index]
    return Slice(tier.up_to, tier.amount, usage.per, tier.flat)


def unit_rate(amount: Decimal, per: int, currency: str) -> Decimal:
    """Return the price of one unit in minor units: exact, because the catalogue refuses rates that are not."""
    return EXACT.divide(to_minor(amount, currency), Decimal(per))


def _less(amount: Decimal, percent: Decimal) -> Decimal:
    return EXACT.multiply(amount, EXACT.divide(100 - percent, Decimal(100)))
