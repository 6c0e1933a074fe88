"""How a plan's cost runs with usage, exact where it bends or jumps, and which plan costs least from where to where. Pure."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_tiers import slices_of
from delegation_gateway.pricing import Cost, Question, capacity, ceiling, cheapest, cost_of, months_counted, products_for

STEPS_MAX = 100  # blocks that can still be told apart on a screen
EDGES_MAX = 300
LINES_MAX = 30_000  # of bills that are worked out for one curve or one list of ranges: about half a second


@dataclass(frozen=True)
class Curve:
    """Exact totals at every usage where the line bends, jumps or ends; between two of them it is straight."""

    product_id: str
    points: tuple[tuple[int, int], ...]  # (usage in a month, total in minor units)
    ends_early: bool = False  # the plan stops at the last point
    smoothed: int = 0  # size of blocks that are too small to draw: the line goes through the ends of some
    complete: bool = True  # every bend and jump is a point: between two points it is straight, and not only drawn so


@dataclass(frozen=True)
class Range:
    """From `first` to `last` this plan costs least; None where no plan serves."""

    first: int
    last: int
    cost_at_first: Cost | None
    cost_at_last: Cost | None

    @property
    def product(self) -> Product | None:
        return None if self.cost_at_first is None else self.cost_at_first.product


@dataclass(frozen=True)
class _Edges:
    """Units of a period after which the price goes another way; of blocks too small to draw, the ends of some."""

    exact: frozenset[int]
    ends: frozenset[int] = frozenset()
    smoothed: int = 0
    complete: bool = True


def curve(catalogue: Catalogue, product: Product, asked: Question, meter_id: str, end: int) -> Curve | None:
    """Return the line of one plan from 0 to `end` of a meter; None where the plan cannot be had at all."""

    @cache
    def cost(monthly: int) -> Cost:
        return cost_of(catalogue, product, asked.along(meter_id, monthly))

    if cost(0).total_minor is None:
        return None
    top = ceiling(product, meter_id)
    last = end if top is None else min(end, top)
    months = months_counted(catalogue.meters[meter_id], product.interval)
    edges = _edges(catalogue, product, asked.currency, meter_id, last * months, at_most=_affordable(catalogue, [product], asked.currency))
    places = {0, last, *(units // months for units in edges.ends)}
    places |= {place for units in edges.exact for place in (units // months, units // months + 1)}
    inside = sorted(place for place in places if 0 <= place <= last)
    for low, high in pairwise(list(inside)):
        inside += [place for edge in _changes(lambda x: _limits_met(cost(x)), low, high) for place in (edge, edge + 1)]
    points = tuple((place, cost(place).total_minor or 0) for place in sorted(set(inside)))
    return Curve(product.id, points, ends_early=last < end, smoothed=edges.smoothed, complete=edges.complete)


def _affordable(catalogue: Catalogue, products: Sequence[Product], currency: str) -> int:
    """Return at how many places these plans may be priced: a price with a thousand tiers takes a thousand lines each time."""
    prices = [price for product in products if (price := catalogue.price_of(product, currency)) is not None]
    lines = len(products) + sum(1 for price in prices for usage in price.usage for _ in slices_of(usage))
    return LINES_MAX // lines


def _edges(catalogue: Catalogue, product: Product, currency: str, meter_id: str, end: int, *, at_most: int) -> _Edges:
    price = catalogue.price_of(product, currency)
    exact: set[int] = set()
    ends: set[int] = set()
    smoothed = 0
    for first, size in _blocks(catalogue, product, currency, meter_id):
        steps = (end - first) // size + 1 if end >= first else 0
        if steps <= STEPS_MAX:
            exact.update(range(first, end + 1, size))
        else:
            stride = -(-steps // STEPS_MAX)
            ends.update(range(first, end + 1, size * stride))
            smoothed = max(smoothed, size)
    for usage in price.usage if price else ():
        if usage.meter == meter_id:
            exact.update(entry.up_to for entry in slices_of(usage) if entry.up_to is not None and entry.up_to <= end)
    kept = _apart(sorted(exact), end, min(EDGES_MAX, at_most))
    return _Edges(frozenset(kept), frozenset(ends), smoothed, complete=not smoothed and len(kept) == len(exact))


def _blocks(catalogue: Catalogue, product: Product, currency: str, meter_id: str) -> Iterator[tuple[int, int]]:
    """Yield (first edge, size) of each price that goes up in blocks."""
    price = catalogue.price_of(product, currency)
    if price is None:
        return
    for usage in price.usage:
        if usage.meter == meter_id and usage.rounding != "exact":
            yield usage.included + (usage.per - 1 if usage.rounding == "completed" else 0), usage.per
    if price.unit is not None and price.unit.meter == meter_id:
        yield 0, price.unit.size


def _apart(edges: Sequence[int], end: int, at_most: int) -> Sequence[int]:
    """Of more edges than a screen can show keep those that are far enough apart."""
    if len(edges) <= at_most:
        return edges
    kept = [edges[0]]
    for edge in edges[1:]:
        if (edge - kept[-1]) * at_most >= end:
            kept.append(edge)
    return kept


def _limits_met(cost: Cost) -> Hashable:
    """Tell which of minimum and maximum spend are on the bill: the line bends where one comes or goes."""
    return tuple(line.description for line in cost.lines if line.component in {"minimum", "maximum"})


def _changes(value: Callable[[int], Hashable], low: int, high: int) -> Iterator[int]:
    """Yield each place after which a value that changes seldom is another one."""
    while value(low) != value(high):
        before, after = low, high
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if value(middle) == value(low) else (before, middle)
        yield before
        low = after


def cheapest_ranges(catalogue: Catalogue, asked: Question, meter_id: str, end: int) -> list[Range]:
    """Return from where to where each plan costs least, from 0 to `end`.

    Nothing where that would take too long to find out, or where a plan has more blocks or tiers than can be looked at one by one.
    """
    products = products_for(catalogue, asked.interval)
    curves = [line for product in products if (line := curve(catalogue, product, asked, meter_id, end)) is not None]
    if not all(line.complete for line in curves):
        return []
    places = {0, end, *(place for line in curves for place, _ in line.points)}
    limits = [limit for product in products for limit in (ceiling(product, meter_id), capacity(catalogue, product, meter_id))]
    places |= {place for limit in limits if limit is not None for place in (limit, limit + 1) if place <= end}
    if len(places) > _affordable(catalogue, products, asked.currency):
        return []

    @cache
    def best(monthly: int, among: tuple[int, ...] = tuple(range(len(products)))) -> Cost | None:
        return cheapest(cost_of(catalogue, products[index], asked.along(meter_id, monthly)) for index in among)

    ordered = sorted(places)
    edges = [edge for low, high in pairwise(ordered) for edge in _crossings(best, products, low, high)]
    starts = [0, *(edge + 1 for edge in edges)]
    return [Range(first, last, best(first), best(last)) for first, last in zip(starts, [*edges, end], strict=True)]


def _crossings(best: Callable[..., Cost | None], products: Sequence[Product], low: int, high: int) -> Iterator[int]:
    """Yield each place after which another plan costs least: between two places all lines are straight, so two cross once at most."""
    ends = (_index(products, best(low)), _index(products, best(high)))
    if ends[0] == ends[1]:
        return
    pair = tuple(sorted(index for index in ends if index is not None))
    before, after = low, high
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _index(products, best(middle, pair)) == ends[0] else (before, middle)
    if before > low:
        yield from _crossings(best, products, low, before)
    if _index(products, best(before)) != _index(products, best(after)):
        yield before
    if after < high:
        yield from _crossings(best, products, after, high)


def _index(products: Sequence[Product], cost: Cost | None) -> int | None:
    return None if cost is None else products.index(cost.product)
