"""Period boundaries, as tables."""

from datetime import UTC, datetime

import pytest

from sandbox_stripe.periods import anchor_from_config, boundary, last_boundary, next_boundary


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("anchor", "interval", "count", "after", "expected"),
    [
        ("2026-01-31T10:00:00", "month", 1, "2026-01-31T10:00:00", "2026-02-28T10:00:00"),
        ("2026-01-31T10:00:00", "month", 1, "2026-02-28T10:00:00", "2026-03-31T10:00:00"),
        ("2026-01-31T10:00:00", "month", 1, "2025-11-15T00:00:00", "2025-11-30T10:00:00"),
        ("2024-02-29T00:00:00", "year", 1, "2024-03-01T00:00:00", "2025-02-28T00:00:00"),
        ("2026-11-01T00:00:00", "month", 3, "2026-11-20T00:00:00", "2027-02-01T00:00:00"),
        ("2026-11-20T00:00:00", "week", 2, "2026-11-21T00:00:00", "2026-12-04T00:00:00"),
        ("2026-11-20T00:00:00", "day", 1, "2026-11-20T00:00:00", "2026-11-21T00:00:00"),
    ],
)
def test_the_next_boundary_keeps_the_day_of_the_anchor(anchor: str, interval: str, count: int, after: str, expected: str) -> None:
    assert next_boundary(at(anchor), interval, count, at(after)) == at(expected)


def test_a_wanted_day_of_month_comes_back_after_a_short_month() -> None:
    assert next_boundary(at("2026-02-28T00:00:00"), "month", 1, at("2026-03-01T00:00:00"), day=31) == at("2026-03-31T00:00:00")


def test_the_last_boundary_is_the_moment_itself_on_a_boundary() -> None:
    assert last_boundary(at("2026-11-01T00:00:00"), "month", 1, at("2026-12-01T00:00:00")) == at("2026-12-01T00:00:00")
    assert boundary(at("2026-12-01T00:00:00"), "month", 1, -1) == at("2026-11-01T00:00:00")


@pytest.mark.parametrize(
    ("config", "interval", "expected"),
    [
        ({"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}, "month", "2026-12-01T00:00:00"),
        ({"day_of_month": 21, "hour": 23, "minute": 0, "second": 0}, "month", "2026-11-21T23:00:00"),
        ({"day_of_month": 31}, "month", "2026-11-30T10:20:30"),
        ({"day_of_month": 1, "month": 3, "hour": 0, "minute": 0, "second": 0}, "year", "2027-03-01T00:00:00"),
    ],
)
def test_an_anchor_config_means_its_next_match(config: dict[str, int | None], interval: str, expected: str) -> None:
    assert anchor_from_config(config, at("2026-11-21T10:20:30"), interval) == at(expected)
