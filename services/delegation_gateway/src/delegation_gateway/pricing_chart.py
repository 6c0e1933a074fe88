"""The chart of cost against usage: which lines are drawn, to which height, with the same figures as a table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from delegation_gateway.price_book import Sheet
from delegation_gateway.pricing import Cost
from delegation_gateway.pricing_curves import Curve
from delegation_gateway.pricing_questions import parameter
from turnpike_ui.charts import LineChart, Series, line_chart
from turnpike_ui.formats import count, money, plural, short_money

DRAWN_MAX = 8


@dataclass(frozen=True)
class Drawing:
    """A chart, and what it does not show."""

    chart: LineChart
    notes: Sequence[str]
    field: str  # the parameter whose usage runs along it


def draw(sheet: Sheet, here: int, costs: Sequence[Cost], least: Cost | None) -> Drawing:
    """Draw the lines of a sheet that has some; the plan that costs least stands out."""
    meter, currency = sheet.catalogue.meters[sheet.meter_id], sheet.asked.currency
    totals = {cost.product.id: cost.total_minor for cost in costs}
    names = {cost.product.id: cost.product.name for cost in costs}
    drawn = drawn_curves(sheet.curves, totals)
    best = least.product.id if least else None
    served = [f"{names[one.product_id]} {money(total, currency)}" for one in drawn if (total := totals[one.product_id]) is not None]
    top = top_for(sheet.curves, least)
    chart = line_chart(
        f"Cost a {sheet.asked.interval} by {meter.unit}s a month",
        [_series(sheet, one, names, totals, best) for one in drawn],
        across=sheet.across,
        top=top,
        y_step_min=1,
        description=f"At {plural(here, meter.unit)} a month: {', '.join(served) or 'no plan serves'}. All figures are in the table below.",
        headings=[f"{meter.name} a month", *(names[one.product_id] for one in drawn)],
        table=_figures(sheet, drawn, here),
        y_text=lambda value: short_money(value, currency, top),
        here=here,
    )
    return Drawing(chart, _notes(chart, sheet, drawn, names), parameter(sheet.meter_id))


def _series(sheet: Sheet, one: Curve, names: Mapping[str, str], totals: Mapping[str, int | None], best: str | None) -> Series:
    place = next(index for index, product in enumerate(sheet.catalogue.products) if product.id == one.product_id)
    return Series(
        names[one.product_id],
        one.points,
        place=place,
        accent=one.product_id == best,
        ends_early=one.ends_early,
        here=totals[one.product_id],
    )


def drawn_curves(curves: Sequence[Curve], totals: Mapping[str, int | None]) -> list[Curve]:
    """Return as many lines as can be told apart, those that cost least here first, in the order of the file."""

    def cost_here(one: Curve) -> tuple[bool, int]:
        total = totals[one.product_id]
        return (total is None, one.points[-1][1] if total is None else total)

    chosen = {one.product_id for one in sorted(curves, key=cost_here)[:DRAWN_MAX]}
    return [one for one in curves if one.product_id in chosen]


def top_for(curves: Sequence[Curve], least: Cost | None) -> int:
    """Return the highest amount to show: that of plans up to four times as dear as the cheapest, and of three plans at least."""
    ends = sorted(one.points[-1][1] for one in curves if not one.ends_early) or sorted(one.points[-1][1] for one in curves)
    limit = max(4 * ends[0], ends[min(2, len(ends) - 1)])
    highest = max(end for end in ends if end <= limit)
    return max(highest + highest // 20, (least.total_minor or 0) if least else 0, 1)


def _figures(sheet: Sheet, drawn: Sequence[Curve], here: int) -> list[list[str]]:
    """Return the chart as a table, with a row for the place that is talked about."""
    product_ids = tuple(one.product_id for one in drawn)
    rows = {**sheet.figures(product_ids), here: sheet.row(product_ids, here)}
    return [[count(place), *rows[place]] for place in sorted(rows)]


def _notes(chart: LineChart, sheet: Sheet, drawn: Sequence[Curve], names: Mapping[str, str]) -> list[str]:
    notes, unit = [], sheet.catalogue.meters[sheet.meter_id].unit
    too_dear = [line.name for line in chart.lines if not line.path]
    if too_dear:
        notes.append(f"Not drawn, because it costs more than the scale shows: {', '.join(too_dear)}.")
    left_out = [names[one.product_id] for one in sheet.curves if one not in drawn]
    if left_out:
        notes.append(f"Not drawn, to keep the lines apart: {', '.join(left_out)}.")
    if any(line.stop for line in chart.lines):
        notes.append("A line that ends in a ring stops there: the plan serves no more.")
    smoothed = [one for one in drawn if one.smoothed]
    notes += [
        f"{names[one.product_id]} goes up in blocks of {plural(one.smoothed, unit)}: too small to see, so its line is straight."
        for one in smoothed
    ]
    return notes
