"""Lines are exact at every bend, straight between bends, and the ranges name the plan that costs least everywhere."""

import random
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from billing_common.catalogue import Catalogue, Product
from delegation_gateway.pricing import Question, cheapest, cost_of, costs_of, currencies_of, intervals_of, meters_for, products_for
from delegation_gateway.pricing_curves import Curve, cheapest_ranges, curve
from delegation_gateway.pricing_questions import default_usage

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "docs" / "examples").glob("*.json"))
ENDS = (1_000, 250_000, 20_000_000)


def line(catalogue: Catalogue, product_id: str, end: int, currency: str = "usd") -> Curve:
    product = catalogue.product(product_id)
    found = curve(catalogue, product, Question((("calls", 0),), currency, product.interval), "calls", end)
    assert found is not None
    return found


def example(name: str) -> Catalogue:
    return Catalogue.parse((ROOT / "docs" / "examples" / f"{name}.json").read_text())


def test_the_line_bends_right_after_what_is_included(catalogue: Catalogue) -> None:
    assert line(catalogue, "standard", 250_000).points == ((0, 8_995), (100_000, 8_995), (100_001, 8_995), (250_000, 23_995))


def test_packages_are_steps_with_both_sides(catalogue: Catalogue) -> None:
    points = line(catalogue, "enterprise", 4_000_000).points
    assert points == (
        (0, 74_995),
        (1, 74_995),
        (1_500_000, 74_995),
        (1_500_001, 149_990),
        (3_000_000, 149_990),
        (3_000_001, 224_985),
        (4_000_000, 224_985),
    )


def test_a_plan_that_stops_has_a_line_that_ends(catalogue: Catalogue) -> None:
    found = line(catalogue, "basic", 250_000)
    assert (found.points, found.ends_early) == (((0, 1_495), (50_000, 1_495)), True)
    assert not line(catalogue, "basic", 50_000).ends_early


def test_volume_pricing_falls_where_a_tier_begins() -> None:
    catalogue = example("volume")
    product = catalogue.products[0]
    assert product.price is not None
    boundary = product.price.usage[0].tiers[0].up_to
    points = dict(line(catalogue, product.id, 10 * (boundary or 0)).points)
    assert points[boundary] > points[(boundary or 0) + 1]


def test_minimum_and_maximum_spend_bend_the_line_to_the_call() -> None:
    points = line(example("setup-and-limits"), "partner", 1_000_000).points
    assert points == ((0, 10_000), (9_999, 10_000), (10_000, 10_000), (200_000, 200_000), (200_001, 200_000), (1_000_000, 200_000))


def test_a_year_s_bend_stands_at_a_month_s_usage() -> None:
    points = dict(line(example("yearly"), "yearly", 20_000).points)
    assert (points[10_000], points[10_001]) == (49_000, 49_006)


def test_blocks_too_small_to_see_become_a_line_through_their_ends() -> None:
    catalogue = example("blocks")
    small, large = line(catalogue, "started", 1_000_000), line(catalogue, "started", 1_000)
    assert (small.smoothed, large.smoothed) == (100, 0)
    assert len(small.points) <= 110
    assert dict(large.points)[100] == 15
    assert dict(large.points)[101] == 30


def test_a_thousand_tiers_give_a_line_that_can_be_sent() -> None:
    tiers = [{"up_to": 1_000 * (index + 1), "amount": f"0.{9999 - index}"} for index in range(999)] + [{"up_to": None, "amount": "0.1"}]
    document = example("graduated").document()
    document["products"] = [document["products"][0] | {"price": {"usage": [{"meter": "calls", "tiers": tiers}]}}]
    document["meters"] = {"calls": {"name": "Calls"}}
    catalogue = Catalogue.from_document(document)
    points = line(catalogue, catalogue.products[0].id, 1_000_000).points
    assert 40 <= len(points) <= 80


def questions() -> Iterator[tuple[Catalogue, Question, str]]:
    for file in FILES:
        catalogue = Catalogue.parse(file.read_text())
        for interval in intervals_of(catalogue):
            meters = meters_for(catalogue, interval)
            for currency in currencies_of(catalogue):
                usage = tuple((meter, default_usage(catalogue, meter, interval)) for meter in meters)
                yield from ((catalogue, Question(usage, currency, interval), meter) for meter in meters)


def straight(points: tuple[tuple[int, int], ...], place: int) -> float:
    """Read a line between its points."""
    after = min(bisect_right(points, place, key=lambda point: point[0]), len(points) - 1)
    (x1, y1), (x2, y2) = points[after - 1], points[after]
    return y1 + (y2 - y1) * (place - x1) / (x2 - x1)


def test_between_two_points_every_line_of_every_example_is_straight() -> None:
    chance, compared = random.Random(4), 0
    for catalogue, asked, meter in questions():
        for product in products_for(catalogue, asked.interval):
            for end in ENDS:
                found = curve(catalogue, product, asked, meter, end)
                if found is None or found.smoothed:
                    continue
                for place in _places(chance, found):
                    exact = cost_of(catalogue, product, asked.along(meter, place)).total_minor
                    assert exact is not None
                    assert abs(exact - straight(found.points, place)) <= 1.5, (product.id, asked, meter, place)
                    compared += 1
    assert compared > 1_000


def _places(chance: random.Random, found: Curve) -> list[int]:
    last = found.points[-1][0]
    near = [place + step for place, _ in found.points for step in (-1, 0, 1)]
    drawn = chance.sample([place for place in near if 0 <= place <= last], 3) + [chance.randint(0, last) for _ in range(6)]
    return drawn if len(found.points) > 1 else []


def test_the_ranges_name_the_cheapest_plan_everywhere(catalogue: Catalogue) -> None:
    chance = random.Random(5)
    asked = Question((("calls", 0),), "usd")
    ranges = cheapest_ranges(catalogue, asked, "calls", 10_000_000)
    assert [(one.product.id, one.first, one.last) for one in ranges[:6] if one.product] == [
        ("free", 0, 100),
        ("developer", 101, 400),
        ("payg", 401, 9_966),
        ("basic", 9_967, 50_000),
        ("payg", 50_001, 59_966),
        ("standard", 59_967, 460_000),
    ]
    assert (ranges[0].first, ranges[-1].last) == (0, 10_000_000)
    assert all(earlier.last + 1 == later.first for earlier, later in pairwise(ranges))
    for one in ranges:
        for place in (one.first, one.last, chance.randint(one.first, one.last)):
            assert _best(catalogue, asked.along("calls", place)) is one.product


def _best(catalogue: Catalogue, asked: Question) -> Product | None:
    best = cheapest(costs_of(catalogue, asked))
    return best.product if best else None


def test_where_no_plan_serves_the_range_says_so() -> None:
    catalogue = example("free")
    ranges = cheapest_ranges(catalogue, Question((("calls", 0),), "usd"), "calls", 10_000_000)
    assert ranges[-1].product is None
    assert ranges[-1].last == 10_000_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_ranges_of_every_example_hold_where_they_begin_and_end(file: Path) -> None:
    catalogue = Catalogue.parse(file.read_text())
    for interval in intervals_of(catalogue):
        meters = meters_for(catalogue, interval)
        asked = Question(tuple((meter, 0) for meter in meters), currencies_of(catalogue)[0], interval)
        for one in cheapest_ranges(catalogue, asked, meters[0], 1_000_000):
            assert _best(catalogue, asked.along(meters[0], one.first)) is one.product
            assert _best(catalogue, asked.along(meters[0], one.last)) is one.product


@pytest.mark.parametrize("end", [100_000_000, 150_000_000, 200_000_000, 2_000_000_000_000])
def test_no_range_is_told_that_is_not_true_at_each_of_its_packages(catalogue: Catalogue, end: int) -> None:
    """With more packages than are looked at one by one there are no ranges, instead of ranges between some of their ends."""
    asked = Question((("calls", 0),), "usd")
    ranges = cheapest_ranges(catalogue, asked, "calls", end)
    assert bool(ranges) == (end <= 100_000_000)
    for one in ranges:
        first_package = -(-one.first // 1_500_000) * 1_500_000
        for place in (one.first, one.last, *range(first_package, one.last, 1_500_000)):
            costs = [cost_of(catalogue, product, asked.along("calls", place)) for product in catalogue.products]
            best = cheapest(costs)
            assert best is not None
            assert best.product == one.product, place
