"""What the pricing page shows, made from costs and curves: cards, rows with their lines, the chart, the ranges. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from billing_common.catalogue import Catalogue
from billing_common.rating import Line
from delegation_gateway.plans import Plan, plan_of
from delegation_gateway.price_book import PriceBook, Sheet
from delegation_gateway.pricing import MONTHS, Cost, cheapest, costs_of, currencies_of, exact_of, intervals_of, meters_for
from delegation_gateway.pricing_chart import Drawing, draw
from delegation_gateway.pricing_curves import Range
from delegation_gateway.pricing_questions import Address, Reading, default_usage, first_digit, parameter, slider_top
from turnpike_ui.formats import count, money, plural, rate, short_count

LINES_SHOWN_MAX = 30
RANGES_SHOWN_MAX = 24
SLIDER_DECADES_MAX = 5
SLIDER_PLACES = 24  # for each power of ten, as in turnpike.js


@dataclass(frozen=True)
class UsageField:
    """One number to fill in, with its slider and its quick choices."""

    name: str
    label: str
    value: str
    error: str
    slider_low: int
    slider_high: int
    scale: Sequence[tuple[float, str]]  # place in percent and words below the slider
    presets: Sequence[tuple[int, str, bool]]  # usage, query, whether it is chosen


@dataclass(frozen=True)
class LineShown:
    """A line of the breakdown. `exact` is empty where the amount was not rounded."""

    description: str
    quantity: str
    unit_amount: str
    amount: str
    exact: str


@dataclass(frozen=True)
class PlanShown:
    """One plan: its card, and its row with the breakdown."""

    plan: Plan
    cost: Cost
    lines: Sequence[LineShown]
    lines_left_out: int
    more_minor: int | None  # how much more than the cheapest plan
    monthly_minor: int | None  # of a yearly total
    not_counted: str  # which of the usage this plan does not look at
    is_cheapest: bool
    is_asked_for: bool


@dataclass(frozen=True)
class RangeShown:
    name: str
    first: str
    last: str
    cost_at_first: str
    cost_at_last: str
    holds_here: bool


@dataclass(frozen=True)
class Otherwise:
    """What costs least for the same usage when billed in the other interval."""

    name: str
    interval: str
    total_minor: int
    saved_minor: int  # in a year; negative where it costs more
    query: str


@dataclass(frozen=True)
class Prices:
    """Everything the page, its embedded form and its live part show for one reading of the address."""

    version: int
    currency: str
    interval: str
    currencies: Sequence[str]
    intervals: Sequence[str]
    meters: Sequence[tuple[str, str]]  # id and name of what a chart can be drawn along
    by: str | None
    fields: Sequence[UsageField]
    usage: str  # in words
    counts_calls: bool  # and nothing else
    plans: Sequence[PlanShown]
    best: PlanShown | None
    asked_for: PlanShown | None
    otherwise: Otherwise | None
    drawing: Drawing | None
    ranges: Sequence[RangeShown]
    ranges_end: str
    reading: Reading
    query: str


def prices_of(book: PriceBook, reading: Reading) -> Prices:
    """Price every plan for what was asked and lay it out."""
    catalogue, question = book.catalogue, reading.question
    costs = costs_of(catalogue, question)
    least = None if reading.errors else cheapest(costs)  # what was asked is not known: nothing is called the cheapest
    plans = [_plan(catalogue, cost, least, reading) for cost in costs]
    address = Address(catalogue, reading)
    sheet = book.chart_sheet(question, reading.by) if reading.by else None
    drawing = draw(sheet, question.by_meter[sheet.meter_id], costs, least) if sheet and sheet.curves else None
    ranges = book.range_sheet(question, reading.by) if reading.by else None
    return Prices(
        version=book.version,
        currency=question.currency,
        interval=question.interval,
        currencies=currencies_of(catalogue),
        intervals=intervals_of(catalogue),
        meters=[(meter_id, catalogue.meters[meter_id].name) for meter_id in meters_for(catalogue, question.interval)],
        by=reading.by,
        fields=[_field(catalogue, reading, address, meter_id) for meter_id, _ in question.usage],
        usage=usage_in_words(catalogue, reading),
        counts_calls=all(catalogue.meters[meter_id].unit == "call" for meter_id, _ in question.usage),
        plans=plans,
        best=next((plan for plan in plans if plan.is_cheapest), None),
        asked_for=next((plan for plan in plans if plan.is_asked_for), None),
        otherwise=_otherwise(catalogue, address, least) if least else None,
        drawing=drawing,
        ranges=_ranges(ranges, question.by_meter[reading.by]) if ranges and reading.by else [],
        ranges_end=count(ranges.across) if ranges else "",
        reading=reading,
        query=address.query(),
    )


def _otherwise(catalogue: Catalogue, address: Address, least: Cost) -> Otherwise | None:
    question = address.reading.question
    other = next((interval for interval in intervals_of(catalogue) if interval != question.interval), None)
    best = None if other is None else cheapest(costs_of(catalogue, replace(question, interval=other)))
    if best is None or other is None or best.product.is_free or least.product.is_free:
        return None
    in_a_year = {one: (cost.total_minor or 0) * 12 // MONTHS[one] for one, cost in ((question.interval, least), (other, best))}
    saved_minor = in_a_year[question.interval] - in_a_year[other]
    return Otherwise(best.product.name, other, best.total_minor or 0, saved_minor, address.query({"interval": other, "product": ""}))


def usage_in_words(catalogue: Catalogue, reading: Reading) -> str:
    """Return "24,000 calls and 6,000 tokens"."""
    parts = [plural(units, catalogue.meters[meter_id].unit) for meter_id, units in reading.question.usage]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _field(catalogue: Catalogue, reading: Reading, address: Address, meter_id: str) -> UsageField:
    question = reading.question
    units, name = question.by_meter[meter_id], parameter(meter_id)
    top = slider_top(catalogue, meter_id, question.interval)
    low = max(1, top // 10**SLIDER_DECADES_MAX)
    middle = first_digit(default_usage(catalogue, meter_id, question.interval))
    presets = [preset for preset in (middle // 10, middle, middle * 10) if 0 < preset <= top]
    return UsageField(
        name=name,
        label=f"{catalogue.meters[meter_id].name} a month",
        value=reading.typed.get(meter_id, count(units)),
        error=reading.errors.get(name, ""),
        slider_low=low,
        slider_high=top,
        scale=_scale(low, top),
        presets=[(preset, address.with_usage(meter_id, preset), preset == units) for preset in presets],
    )


def _scale(low: int, top: int) -> list[tuple[float, str]]:
    """Name the powers of ten: the slider's first place is 0, the next is the lowest of them, from there they are equally far apart."""
    decades = len(str(top)) - len(str(low))
    return [
        (round((1 + SLIDER_PLACES * index) / (1 + SLIDER_PLACES * decades) * 100, 2), short_count(int(f"{low}{'0' * index}")))
        for index in range(decades + 1)
    ]


def _plan(catalogue: Catalogue, cost: Cost, least: Cost | None, reading: Reading) -> PlanShown:
    product, total = cost.product, cost.total_minor
    sold = cost.refusal is None or cost.refusal.code != "currency"
    is_least = least is not None and product.id == least.product.id
    return PlanShown(
        plan=plan_of(catalogue, product, cost.currency if sold else None),
        cost=cost,
        lines=[_line(catalogue, cost, line) for line in cost.lines[:LINES_SHOWN_MAX]],
        lines_left_out=max(0, len(cost.lines) - LINES_SHOWN_MAX),
        more_minor=None if total is None or least is None or is_least else total - (least.total_minor or 0),
        monthly_minor=round(Decimal(total) / 12) if total and product.interval == "year" and not product.is_free else None,
        not_counted=", ".join(catalogue.meters[meter].name for meter, _ in reading.question.usage if meter not in product.meter_ids()),
        is_cheapest=is_least,
        is_asked_for=product.id == reading.product_id,
    )


def _line(catalogue: Catalogue, cost: Cost, line: Line) -> LineShown:
    exact = exact_of(line)
    _, _, meter_id = line.component.partition(":")
    unit = f" per {catalogue.meters[meter_id].unit}" if meter_id and "per " not in line.description else ""
    return LineShown(
        description=line.description,
        quantity=count(line.quantity),
        unit_amount=rate(line.unit_amount_decimal, cost.currency) + unit,
        amount=money(line.amount_minor, cost.currency),
        exact="" if exact == line.amount_minor else rate(exact, cost.currency),
    )


def _ranges(sheet: Sheet, here: int) -> list[RangeShown]:
    return [_range(one, here) for one in sheet.ranges[:RANGES_SHOWN_MAX]]


def _range(one: Range, here: int) -> RangeShown:
    first, last = one.cost_at_first, one.cost_at_last
    return RangeShown(
        name=first.product.name if first else "No plan serves this usage",
        first=count(one.first),
        last=count(one.last),
        cost_at_first=money(first.total_minor or 0, first.currency) if first else "",
        cost_at_last=money(last.total_minor or 0, last.currency) if last else "",
        holds_here=one.first <= here <= one.last,
    )
