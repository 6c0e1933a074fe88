"""The prices as JSON, for the pages and programs of others."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from billing_common.catalogue import Catalogue, PricingModel, Product
from billing_common.catalogue_model import Interval, Quota, RateLimit
from billing_common.money import plain
from delegation_gateway.price_book import PriceBook, Sheet
from delegation_gateway.pricing import Cost
from delegation_gateway.pricing_curves import Curve, Range
from delegation_gateway.pricing_page import PlanShown, Prices
from delegation_gateway.pricing_questions import parameter


class LineAnswer(BaseModel):
    description: str
    quantity: int
    unit_amount_decimal: str = Field(description="price of one unit in minor units, exact")
    amount_minor: int = Field(description="what is charged: rounded once, halves up")
    component: str


class RefusalAnswer(BaseModel):
    code: Literal["quota", "currency"]
    message: str


class QuoteAnswer(BaseModel):
    """A full period at the usage that was asked for."""

    total_minor: int | None = Field(description="null where the plan does not serve this usage: see refusal")
    exact_minor: str | None = Field(description="the total before rounding")
    setup_minor: int = Field(description="charged once, on the first invoice; not part of the total")
    refusal: RefusalAnswer | None
    warning: str = Field(description="the rate limit is too slow for this usage; empty otherwise")
    lines: list[LineAnswer]


class PlanAnswer(BaseModel):
    product: str
    name: str
    description: str
    model: PricingModel
    interval: Interval
    currencies: list[str]
    price: str = Field(description="the price in words")
    includes: list[str] = Field(description="allowances, limits and features in words")
    terms: list[str]
    trial_days: int
    keys: int
    rate_limit: RateLimit | None
    quota: Quota | None
    subscribe_url: str
    quote: QuoteAnswer


class MeterAnswer(BaseModel):
    meter: str
    name: str
    unit: str
    parameter: str = Field(description="the query parameter that says how much of it is used in a month")


class RangeAnswer(BaseModel):
    """From `first` to `last` units a month this plan costs least."""

    first: int
    last: int
    product: str | None
    total_minor_at_first: int | None
    total_minor_at_last: int | None


class CurveAnswer(BaseModel):
    product: str
    points: list[tuple[int, int]] = Field(description="(units a month, total in minor units): straight between two points, exact at each")
    ends_early: bool = Field(description="the plan stops at the last point")
    smoothed: int = Field(description="size of blocks that are too small for this scale: the points are ends of some; 0 otherwise")


class PricesAnswer(BaseModel):
    """Every plan that is on sale, priced for one usage."""

    catalogue_version: int
    currency: str
    interval: Interval
    currencies: list[str]
    intervals: list[Interval]
    meters: list[MeterAnswer]
    usage: dict[str, int] = Field(description="meter -> units in a month")
    cheapest: str | None
    plans: list[PlanAnswer]
    along: str | None = Field(description="the meter that ranges and curves follow; the other usage stays as asked")
    ranges: list[RangeAnswer]
    curves: list[CurveAnswer]


def answer_of(book: PriceBook, prices: Prices, site: str) -> PricesAnswer:
    """Return the same prices as the page shows."""
    catalogue, question = book.catalogue, prices.reading.question
    ranges: Sequence[Range] = []
    curves: Sequence[Curve] = []
    if prices.by is not None:
        ranges = book.range_sheet(question, prices.by).ranges
        sheet: Sheet = book.chart_sheet(question, prices.by)
        curves = sheet.curves
    plans = [plan for plan in prices.plans if prices.reading.product_id in {None, plan.cost.product.id}]
    return PricesAnswer(
        catalogue_version=book.version,
        currency=question.currency,
        interval=question.interval,
        currencies=list(prices.currencies),
        intervals=list(prices.intervals),
        meters=[_meter(catalogue, meter_id) for meter_id, _ in prices.meters],
        usage=question.by_meter,
        cheapest=prices.best.cost.product.id if prices.best else None,
        plans=[_plan(catalogue, plan, site) for plan in plans],
        along=prices.by,
        ranges=[_range(one) for one in ranges],
        curves=[
            CurveAnswer(product=one.product_id, points=list(one.points), ends_early=one.ends_early, smoothed=one.smoothed) for one in curves
        ],
    )


def _meter(catalogue: Catalogue, meter_id: str) -> MeterAnswer:
    meter = catalogue.meters[meter_id]
    return MeterAnswer(meter=meter_id, name=meter.name, unit=meter.unit, parameter=parameter(meter_id))


def _plan(catalogue: Catalogue, shown: PlanShown, site: str) -> PlanAnswer:
    product: Product = shown.cost.product
    return PlanAnswer(
        product=product.id,
        name=product.name,
        description=product.description,
        model=product.model,
        interval=product.interval,
        currencies=[] if product.is_free else [catalogue.currency_of(product), *product.currencies],
        price=shown.plan.summary,
        includes=list(shown.plan.lines),
        terms=list(shown.plan.terms),
        trial_days=product.trial_days,
        keys=product.keys,
        rate_limit=product.rate_limit,
        quota=product.quota,
        subscribe_url=f"{site}/subscribe/{product.id}",
        quote=_quote(shown.cost),
    )


def _quote(cost: Cost) -> QuoteAnswer:
    return QuoteAnswer(
        total_minor=cost.total_minor,
        exact_minor=None if cost.total_minor is None else plain(cost.exact_minor),
        setup_minor=cost.setup_minor,
        refusal=RefusalAnswer(code=cost.refusal.code, message=cost.refusal.text) if cost.refusal else None,
        warning=cost.warning,
        lines=[
            LineAnswer(
                description=line.description,
                quantity=line.quantity,
                unit_amount_decimal=plain(line.unit_amount_decimal),
                amount_minor=line.amount_minor,
                component=line.component,
            )
            for line in cost.lines
        ],
    )


def _range(one: Range) -> RangeAnswer:
    first, last = one.cost_at_first, one.cost_at_last
    return RangeAnswer(
        first=one.first,
        last=one.last,
        product=first.product.id if first else None,
        total_minor_at_first=first.total_minor if first else None,
        total_minor_at_last=last.total_minor if last else None,
    )
