"""What a full billing period of a plan costs for given usage, which plan costs least, which cannot serve it. Every price is `rating`'s."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Literal

from billing_common import rating
from billing_common.catalogue import Catalogue, Meter, Product
from billing_common.catalogue_model import Interval
from billing_common.money import EXACT
from billing_common.rating import Line, Period
from turnpike_ui.formats import plural

MONTHS: dict[Interval, int] = {"month": 1, "year": 12}
MONTH_SECONDS_MAX = 31 * 24 * 3600
_START = datetime(2000, 1, 1, tzinfo=UTC)  # no full period costs more than another: any start gives the same lines
FULL_PERIODS: dict[Interval, Period] = {
    "month": Period(_START, datetime(2000, 2, 1, tzinfo=UTC)),
    "year": Period(_START, datetime(2001, 1, 1, tzinfo=UTC)),
}


@dataclass(frozen=True)
class Question:
    """Usage of each meter in a month, the currency, and whether plans billed by the month or by the year are compared."""

    usage: tuple[tuple[str, int], ...]
    currency: str
    interval: Interval = "month"

    @cached_property
    def by_meter(self) -> dict[str, int]:
        return dict(self.usage)

    def along(self, meter_id: str, monthly: int) -> "Question":
        """Return the same question with another usage of one meter."""
        return replace(self, usage=tuple((meter, monthly if meter == meter_id else units) for meter, units in self.usage))


@dataclass(frozen=True)
class Refusal:
    """Why a plan cannot be had for this usage."""

    code: Literal["quota", "currency"]
    text: str
    limit: int | None = None  # what the quota allows in a month


@dataclass(frozen=True)
class Cost:
    """A full period of one plan. `total_minor` is None where the plan is refused; a setup fee, paid once, is not part of it."""

    product: Product
    currency: str
    lines: tuple[Line, ...] = ()
    setup_minor: int = 0
    total_minor: int | None = None
    refusal: Refusal | None = None
    warning: str = ""  # the rate limit is too slow for this usage, even when it is spread evenly

    @cached_property
    def exact_minor(self) -> Decimal:
        """The total before any line was rounded."""
        return sum((exact_of(line) for line in self.lines), Decimal(0))


def exact_of(line: Line) -> Decimal:
    """Return a line's amount in minor units before it was rounded."""
    return EXACT.multiply(line.unit_amount_decimal, Decimal(line.quantity))


def products_for(catalogue: Catalogue, interval: Interval) -> list[Product]:
    """Return the plans that are compared: those billed in this interval, and the free ones."""
    return [product for product in catalogue.products if product.is_free or product.interval == interval]


def meters_for(catalogue: Catalogue, interval: Interval) -> list[str]:
    """Return the meters that decide what these plans cost or whether they serve, in the order of the file."""
    used = {meter for product in products_for(catalogue, interval) for meter in product.meter_ids()}
    return [meter for meter in catalogue.meters if meter in used]


def intervals_of(catalogue: Catalogue) -> list[Interval]:
    sold = {product.interval for product in catalogue.products if not product.is_free}
    return [interval for interval in MONTHS if interval in sold] or ["month"]


def currencies_of(catalogue: Catalogue) -> list[str]:
    """Return the currencies that something is sold in, that of the first plans first."""
    sold = [product for product in catalogue.products if not product.is_free]
    codes = [code for product in sold for code in (catalogue.currency_of(product), *product.currencies)]
    return list(dict.fromkeys([*(catalogue.currency_of(product) for product in sold), *codes])) or [catalogue.currency]


def months_counted(meter: Meter, interval: Interval) -> int:
    """Return how many months' usage one period bills. Distinct and largest values do not add up over months."""
    return 1 if meter.has_state else MONTHS[interval]


def cost_of(catalogue: Catalogue, product: Product, asked: Question) -> Cost:
    """Price a full period of one plan, or say why it cannot be had."""
    if catalogue.price_of(product, asked.currency) is None and not product.is_free:
        return Cost(product, asked.currency, refusal=_other_currency(catalogue, product, asked.currency))
    if (refusal := _beyond_quota(catalogue, product, asked)) is not None:
        return Cost(product, asked.currency, refusal=refusal)
    period = FULL_PERIODS[product.interval]
    usage = {
        meter: asked.by_meter.get(meter, 0) * months_counted(catalogue.meters[meter], product.interval) for meter in product.meter_ids()
    }
    facts = rating.Facts(started_at=period.start, currency=asked.currency)
    rated = rating.rate(catalogue, product, period=period, usage=usage, facts=facts)
    setup_minor = sum(line.amount_minor for line in rated.lines if line.component == "setup")
    return Cost(
        product,
        asked.currency,
        lines=tuple(line for line in rated.lines if line.component != "setup"),
        setup_minor=setup_minor,
        total_minor=rated.total_minor - setup_minor,
        warning=_too_slow(catalogue, product, asked),
    )


def costs_of(catalogue: Catalogue, asked: Question) -> list[Cost]:
    return [cost_of(catalogue, product, asked) for product in products_for(catalogue, asked.interval)]


def cheapest(costs: Iterable[Cost]) -> Cost | None:
    """Return the plan that costs least: of equal ones the first of the file, and a fast enough one before one that is not."""
    served = [cost for cost in costs if cost.total_minor is not None]
    return min(served, key=lambda cost: (bool(cost.warning), cost.total_minor, cost.exact_minor), default=None)


def ceiling(product: Product, meter_id: str) -> int | None:
    """Return the monthly usage of a meter above which the plan stops."""
    quota = product.quota
    return quota.calls if quota is not None and quota.beyond == "stop" and quota.meter == meter_id else None


def capacity(catalogue: Catalogue, product: Product, meter_id: str) -> int | None:
    """Return how much of a meter the rate limit lets through in a month of 31 days; None where calls and units are not the same."""
    meter, limit = catalogue.meters[meter_id], product.rate_limit
    plain_sum = meter.aggregation == "sum" and meter.property_name is None and meter.weight == 1 and not meter.weights
    one_to_one = plain_sum or meter.aggregation == "count"
    if limit is None or not one_to_one or meter_id not in product.meter_ids():
        return None
    return limit.calls * product.keys * MONTH_SECONDS_MAX // limit.per_seconds


def _beyond_quota(catalogue: Catalogue, product: Product, asked: Question) -> Refusal | None:
    quota = product.quota
    if quota is None or quota.beyond != "stop" or asked.by_meter.get(quota.meter, 0) <= quota.calls:
        return None
    window = "a month" if quota.window == "calendar_month" else "in 30 days"
    return Refusal("quota", f"Stops at {plural(quota.calls, catalogue.meters[quota.meter].unit)} {window}", quota.calls)


def _other_currency(catalogue: Catalogue, product: Product, currency: str) -> Refusal:
    codes: Sequence[str] = [catalogue.currency_of(product), *product.currencies]
    return Refusal("currency", f"Not sold in {currency.upper()}, only in {', '.join(code.upper() for code in codes)}")


def _too_slow(catalogue: Catalogue, product: Product, asked: Question) -> str:
    for meter_id, monthly in asked.usage:
        most = capacity(catalogue, product, meter_id)
        if most is not None and monthly > most:
            keys = f" with each of {product.keys} keys" if product.keys > 1 else ""
            return f"Its rate limit{keys} lets through at most {plural(most, catalogue.meters[meter_id].unit)} a month"
    return ""
