"""Where a period is heading: exact multiples of the pace so far, never beyond what stops, silent where nobody can tell."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_common.catalogue import Catalogue
from billing_common.projection import project
from billing_common.rating import Facts, period_at

CATALOGUE = Catalogue.parse((Path(__file__).parents[3] / "monetizationModels.json").read_text())
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


def at(product_id: str, used: int, now: datetime, started_at: datetime = JANUARY) -> tuple[int, int] | None:
    product = CATALOGUE.product(product_id)
    period = period_at(product, started_at=started_at, at=now)
    found = project(CATALOGUE, product, {"calls": used}, period=period, facts=Facts(started_at=started_at), now=now)
    return None if found is None else (found.usage["calls"], found.rated.total_minor)


@pytest.mark.parametrize(
    ("product", "used", "days", "expected"),
    [
        ("payg", 1_000, 1, (31_000, 4_650)),
        ("payg", 1_000, 31 / 2, (2_000, 300)),
        ("standard", 100_000, 15.5, (200_000, 8_995 + 10_000)),
        ("payg", 1_000, 0.2, None),  # too early to tell
        ("basic", 1_000, 10, None),  # nothing is priced by usage
    ],
)
def test_usage_is_stretched_to_the_whole_period_and_rated(product: str, used: int, days: float, expected: tuple[int, int] | None) -> None:
    assert at(product, used, JANUARY + timedelta(days=days)) == expected


def test_the_pace_begins_with_the_subscription() -> None:
    started = JANUARY + timedelta(days=21)
    assert at("payg", 1_000, started + timedelta(days=5), started) == (2_000, 300)
