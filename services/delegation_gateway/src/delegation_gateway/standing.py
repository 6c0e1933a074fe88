"""Where a subscription stands in its period: what was used, what it costs so far, where it is heading. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from billing_common import rating
from billing_common.catalogue import Catalogue, Product
from billing_common.projection import Projection, project
from billing_common.rating import Line, Period
from delegation_gateway.allowances import Allowance
from delegation_gateway.change_store import Stay
from delegation_gateway.domain import Subscription
from delegation_gateway.read_models import Usage
from turnpike_ui.charts import Bar, BarChart, bar_chart


@dataclass(frozen=True)
class MeterStanding:
    name: str
    unit: str
    used: int
    limit: int | None  # what is included, or where calls stop
    stops: bool
    until: datetime | None = None  # when calls that were stopped go on

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True)
class PastPlan:
    """A plan that the subscription was on earlier in the period: it has been billed, and its unused fee was given back."""

    name: str
    until: datetime
    lines: Sequence[Line]

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


@dataclass(frozen=True)
class Standing:
    period: Period
    currency: str
    meters: Sequence[MeterStanding]
    lines: Sequence[Line]
    total_minor: int
    projection: Projection | None
    chart: BarChart | None
    updated_at: datetime | None
    past: Sequence[PastPlan] = ()


def past_plan(
    catalogue: Catalogue, product: Product, stay: Stay, usage: Usage, *, period: Period, currency: str, setup_due: bool
) -> PastPlan:
    """Rate a plan that ended with a change, as its invoices did."""
    assert stay.until is not None
    facts = rating.Facts(started_at=stay.since, ended_at=stay.until, end_reason="change", currency=currency, setup_due=setup_due)
    counted = {meter: usage.by_meter.get(meter, 0) for meter in product.meter_ids()}
    rated = rating.rate(catalogue, product, period=period, usage=counted, facts=facts)
    return PastPlan(product.name, stay.until, [line for line in rated.lines if line.amount_minor or line.quantity])


def period_of(product: Product, subscription: Subscription, now: datetime) -> Period:
    """Return the period that is running: Stripe's where it names one, the catalogue's otherwise.

    Stripe's first period begins with the subscription; what its fee is a part of is the whole period, which ends with it.
    """
    whole = rating.period_at(product, started_at=subscription.started_at or subscription.requested_at, at=now)
    start, end = subscription.period_start, subscription.period_end
    if start is not None and end is not None and start <= now < end != whole.end:
        return Period(start, end)
    return whole


def standing(
    catalogue: Catalogue,
    product: Product,
    subscription: Subscription,
    usage: Usage,
    *,
    period: Period,
    now: datetime,
    whole: Usage | None = None,
    past: Sequence[PastPlan] = (),
    setup_due: bool = True,
    allowance: Allowance | None = None,
) -> Standing:
    """Rate what was collected so far with the function that the invoice agrees with.

    `usage` is that of the present plan; `whole` that of the whole period, which is drawn, when they differ. `allowance` is there where a
    quota stops calls: it may have a window of its own.
    """
    whole = whole or usage
    since = subscription.plan_since or subscription.started_at or subscription.requested_at
    currency = subscription.currency or subscription.requested_currency
    in_trial = subscription.status == "trialing"
    free_until = period.end if in_trial else rating.trial_end(product, subscription.started_at or subscription.requested_at)
    facts = rating.Facts(started_at=since, trial_end=free_until, currency=currency, setup_due=setup_due)
    counted = {meter: usage.by_meter.get(meter, 0) for meter in product.meter_ids()}
    rated = rating.rate(catalogue, product, period=period, usage=counted, facts=facts)
    return Standing(
        period=period,
        currency=rated.currency,
        meters=[_meter(catalogue, product, meter, used, allowance) for meter, used in counted.items()],
        lines=[line for line in rated.lines if line.amount_minor or line.quantity],
        total_minor=rated.total_minor + sum(one.total_minor for one in past),
        projection=project(catalogue, product, counted, period=period, facts=facts, now=now),
        chart=_chart(whole.by_day, period, now),
        updated_at=whole.updated_at,
        past=past,
    )


def _meter(catalogue: Catalogue, product: Product, meter_id: str, used: int, quota: Allowance | None) -> MeterStanding:
    meter = catalogue.meters[meter_id]
    if quota is not None and product.quota is not None and product.quota.meter == meter_id:
        return MeterStanding(meter.name, meter.unit, quota.used, product.quota.calls, stops=True, until=quota.window.end)
    price = product.price
    included = next((usage.included for usage in price.usage if usage.meter == meter_id), 0) if price else 0
    return MeterStanding(meter.name, meter.unit, used, included or None, stops=False)


def _chart(by_day: Mapping[date, int], period: Period, now: datetime) -> BarChart | None:
    if not by_day or period.end - period.start > timedelta(days=62):
        return None
    first, today = period.start.date(), now.date()
    days = [
        first + timedelta(days=offset) for offset in range((period.end - timedelta(seconds=1)).date().toordinal() - first.toordinal() + 1)
    ]
    bars = [Bar(f"{day.day} {day:%b}", by_day.get(day, 0), unfinished=day == today) for day in days]
    chart = bar_chart(f"Usage per day, {_months(days)}", bars, heading="Day", unit="Usage")
    return replace(chart, table=chart.table[: sum(day <= today for day in days)])  # days to come have no figures yet


def _months(days: list[date]) -> str:
    """Return "February 2027", or "January to February 2027"."""
    first, last = days[0], days[-1]
    return f"{last:%B %Y}" if (first.year, first.month) == (last.year, last.month) else f"{first:%B} to {last:%B %Y}"
