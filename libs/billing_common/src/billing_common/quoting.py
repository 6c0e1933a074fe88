"""A quote: what a billing period of a product costs, asked by the command, over HTTP or by a test. One answer for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.rating import Facts, Period, Rated, RatingError, as_quote, period_at, rate, trial_end

CALLS_METER = "calls"
QUANTITY_MAX = 10**15


class QuoteError(Exception):
    """The question cannot be answered. `code` is stable; the text names what to change."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What would this usage cost? `calls` goes to the product's meter for calls, or to its only one.

    Without `start` it is a full period that is paid for: no trial. With it, it is the first period of a subscription that begins then,
    with its free days where the product has some, or a part of a month where it is billed by the calendar. `end`: the subscription is
    cancelled then, within that period.
    """

    product_id: str
    usage: Mapping[str, int]
    calls: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    currency: str | None = None


@dataclass(frozen=True)
class Quote:
    product: Product
    rated: Rated
    trial_end: datetime | None

    def public(self) -> dict[str, Any]:
        """Return the JSON of the command and of `POST /v1/quotes`; `trial_end` only where the quoted period is free."""
        return {"product": self.product.id, **as_quote(self.rated), **({"trial_end": self.trial_end.isoformat()} if self.trial_end else {})}


def quote(catalogue: Catalogue, asked: Question, *, now: datetime) -> Quote:
    """Price it with the one rating function; raises `QuoteError` for what makes no sense."""
    try:
        product = catalogue.product(asked.product_id)
    except UnknownProductError as error:
        raise QuoteError("unknown_product", str(error)) from error
    usage = _usage(product, asked)
    if asked.start is None:
        at = now.astimezone(UTC).replace(microsecond=0)
        whole = product.model_copy(update={"trial_days": 0})
        start, free_until = period_at(whole, started_at=at, at=at).start, None
        period = period_at(whole, started_at=start, at=start)
    else:
        start = asked.start.astimezone(UTC)
        period, free_until = period_at(product, started_at=start, at=start), trial_end(product, start)
    ended_at = _end(asked.end, start, period)
    facts = Facts(started_at=start, ended_at=ended_at, trial_end=free_until, currency=asked.currency)
    try:
        rated = rate(catalogue, product, period=period, usage=usage, facts=facts)
    except RatingError as error:
        raise QuoteError("cannot_be_priced", str(error)) from error
    return Quote(product, rated, min(free_until, ended_at) if free_until and ended_at else free_until)


def _usage(product: Product, asked: Question) -> dict[str, int]:
    usage = dict(asked.usage)
    if asked.calls is not None:
        meters = product.meter_ids()
        if CALLS_METER not in meters and len(meters) > 1:
            raise QuoteError("which_meter", f'the product "{product.id}" has several meters, give usage for each: {", ".join(meters)}')
        meter = meters[0] if CALLS_METER not in meters and meters else CALLS_METER
        if meter in usage:
            raise QuoteError("which_meter", f'the usage of "{meter}" is given twice, as calls and by its name: give one of them')
        usage[meter] = asked.calls
    if any(quantity > QUANTITY_MAX for quantity in usage.values()):
        raise QuoteError("too_much", f"a quantity is at most {QUANTITY_MAX:,}")
    return usage


def _end(end: datetime | None, start: datetime, period: Period) -> datetime | None:
    """Return when the subscription ends, where that is within the period."""
    if end is None:
        return None
    if not start < end <= period.end:
        text = f'a quote is for one billing period: "to" must lie after {_stamp(start)} and not after {_stamp(period.end)}'
        raise QuoteError("outside_period", text)
    return end.astimezone(UTC) if end < period.end else None


def _stamp(at: datetime) -> str:
    """Return the date, and the time where it is not midnight."""
    return f"{at:%Y-%m-%d}" if at.hour == at.minute == at.second == 0 else f"{at:%Y-%m-%dT%H:%M:%SZ}"
