"""Where a subscription stands in its period: what was used, what it costs so far, where it is heading. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from billing_common import rating
from billing_common.bill_so_far import Earlier, OnPlan, Stay, bill_so_far
from billing_common.catalogue import Catalogue, Product
from billing_common.rating import Line, Period
from delegation_gateway.allowances import Allowance
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
class PlanLines:
    """A plan that the subscription was on earlier in the period."""

    name: str
    until: datetime
    lines: Sequence[Line]


@dataclass(frozen=True)
class Standing:
    period: Period
    currency: str
    meters: Sequence[MeterStanding]
    lines: Sequence[Line]
    total_minor: int
    ahead_minor: int | None
    chart: BarChart | None
    updated_at: datetime | None
    past: Sequence[PlanLines]
    earlier: Sequence[Earlier] | None  # None: nobody could say


def period_of(product: Product, subscription: Subscription, now: datetime) -> Period:
    """Return the period that is running: Stripe's where it names one, the catalogue's otherwise.

    Stripe's first period begins with the subscription; what its fee is a part of is the whole period, which ends with it.
    """
    whole = rating.period_at(product, started_at=subscription.started_at or subscription.requested_at, at=now)
    start, end = subscription.period_start, subscription.period_end
    if start is not None and end is not None and start <= now < end != whole.end:
        return Period(start, end)
    return whole


def on_plan(sold: tuple[Catalogue, Product], subscription: Subscription, stay: Stay, usage: Usage, period: Period) -> OnPlan:
    """Put a stretch of time on one plan as it is rated; free days that Stripe grants last to the end of its period."""
    began = subscription.started_at or subscription.requested_at
    free_until = period.end if subscription.status == "trialing" and stay.until is None else rating.trial_end(sold[1], began)
    return OnPlan(*sold, stay.since, stay.until, usage.by_meter, stay.is_new, free_until)


def standing(
    stays: Sequence[OnPlan],
    subscription: Subscription,
    whole: Usage,
    *,
    period: Period,
    now: datetime,
    earlier: Sequence[Earlier] | None = (),
    allowance: Allowance | None = None,
) -> Standing:
    """Rate what was collected so far; `whole` is the usage of the whole period, which is drawn.

    `allowance` is there where a quota stops calls: it may have a window of its own.
    """
    present = stays[-1]
    currency = subscription.currency or subscription.requested_currency
    bill = bill_so_far(stays, period=period, currency=currency, now=now, earlier=earlier or ())
    return Standing(
        period=period,
        currency=bill.present.currency,
        meters=[_meter(present.catalogue, present.product, meter, used, allowance) for meter, used in present.counted().items()],
        lines=_shown(bill.present.lines),
        total_minor=bill.total_minor,
        ahead_minor=bill.ahead_minor,
        chart=_chart(whole.by_day, period, now),
        updated_at=whole.updated_at,
        past=[PlanLines(one.product.name, one.until, _shown(one.rated.lines)) for one in bill.past],
        earlier=earlier,
    )


def _shown(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.amount_minor or line.quantity]


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
