"""The curves of one catalogue version, kept for the next visitor: a version never changes, so its prices never do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from billing_common.catalogue import Catalogue
from delegation_gateway.pricing import Question, cost_of, products_for
from delegation_gateway.pricing_curves import Curve, Range, cheapest_ranges, curve
from delegation_gateway.pricing_questions import SLIDER_TOP_MIN, UNITS_MAX, first_digit
from turnpike_ui.charts import scale
from turnpike_ui.formats import money

SHEETS_MAX = 64
ACROSS_MIN = 1_000
FIGURES_MAX = 40
FIGURES_KEPT_MAX = 8

Row = Sequence[str]


@dataclass(frozen=True)
class Sheet:
    """What all plans cost along one meter, the others unchanged. Worked out when it is first asked for."""

    catalogue: Catalogue
    asked: Question  # with nothing used of the meter itself
    meter_id: str
    across: int

    @cached_property
    def curves(self) -> Sequence[Curve]:
        products = products_for(self.catalogue, self.asked.interval)
        drawn = (curve(self.catalogue, product, self.asked, self.meter_id, self.across) for product in products)
        return [line for line in drawn if line is not None]

    @cached_property
    def ranges(self) -> Sequence[Range]:
        return cheapest_ranges(self.catalogue, self.asked, self.meter_id, self.across)

    @cached_property
    def figures(self) -> Callable[[tuple[str, ...]], Mapping[int, Row]]:
        """Return a function that gives rows for some plans: at round numbers, and on both sides of the bends of their lines."""
        return lru_cache(maxsize=FIGURES_KEPT_MAX)(self._figures)

    def _figures(self, product_ids: tuple[str, ...]) -> Mapping[int, Row]:
        bends = sorted({place for one in self.curves if one.product_id in product_ids for place, _ in one.points})
        places = {*bends[:: -(-len(bends) // FIGURES_MAX)], *(int(value) for value in scale(self.across))}
        return {place: self.row(product_ids, place) for place in places}

    def row(self, product_ids: Sequence[str], monthly: int) -> Row:
        """Return what plans cost at a usage, in words; nothing where one does not serve it."""
        asked = self.asked.along(self.meter_id, monthly)
        totals = [cost_of(self.catalogue, self.catalogue.product(product_id), asked).total_minor for product_id in product_ids]
        return ["" if total is None else money(total, asked.currency) for total in totals]


class PriceBook:
    """One version of the catalogue and the sheets that were asked for last."""

    def __init__(self, version: int, catalogue: Catalogue) -> None:
        self.version = version
        self.catalogue = catalogue
        self._sheet = lru_cache(maxsize=SHEETS_MAX)(self._make_sheet)

    def _make_sheet(self, asked: Question, meter_id: str, across: int) -> Sheet:
        return Sheet(self.catalogue, asked, meter_id, across)

    def chart_sheet(self, asked: Question, meter_id: str) -> Sheet:
        """Return the sheet whose scale shows this usage near its middle."""
        return self._sheet(asked.along(meter_id, 0), meter_id, across_for(asked.by_meter[meter_id]))

    def range_sheet(self, asked: Question, meter_id: str) -> Sheet:
        """Return the sheet that reaches from nothing to ten million or to where the chart ends."""
        return self._sheet(asked.along(meter_id, 0), meter_id, max(SLIDER_TOP_MIN, across_for(asked.by_meter[meter_id])))


def across_for(monthly: int) -> int:
    """Return where the chart ends: the next round number above twice the usage."""
    wanted = max(2 * monthly, ACROSS_MIN)
    unit = first_digit(wanted)
    return min(next(step for step in (unit, 2 * unit, 5 * unit // 2, 5 * unit, 10 * unit) if step >= wanted), 2 * UNITS_MAX)
