"""Money, counts and times as people read them."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from turnpike_ui import formats


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (10995, "usd", "$109.95"),
        (0, "usd", "$0.00"),
        (-500, "usd", "-$5.00"),
        (123456789, "eur", "€1,234,567.89"),
        (500, "jpy", "¥500"),
        (1500, "kwd", "KWD\xa01.500"),
        (99900, "inr", "₹999.00"),
    ],
)
def test_money_has_the_decimals_of_its_currency(amount_minor: int, currency: str, text: str) -> None:
    assert formats.money(amount_minor, currency) == text


@pytest.mark.parametrize(
    ("amount_minor", "currency", "per", "text"),
    [
        (Decimal("0.15"), "usd", 100, "$0.15"),
        (Decimal("0.15"), "usd", 1, "$0.0015"),
        (Decimal("0.095"), "usd", 1, "$0.00095"),
        (Decimal(500), "usd", 1, "$5.00"),
        (Decimal("0.5"), "jpy", 1, "¥0.5"),
    ],
)
def test_a_rate_keeps_every_digit(amount_minor: Decimal, currency: str, per: int, text: str) -> None:
    assert formats.rate(amount_minor, currency, per) == text


def test_counts_are_written_in_full_and_short_only_on_axes() -> None:
    assert formats.count(1500000) == "1,500,000"
    assert formats.count(Decimal("0.125")) == "0.125"
    assert [formats.short_count(value) for value in (0, 999, 1000, 2500, 1_500_000, 3e9)] == ["0", "999", "1K", "2.5K", "1.5M", "3B"]
    assert (formats.plural(1, "call"), formats.plural(2000, "call")) == ("1 call", "2,000 calls")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (0, "usd", "$0"),
        (20_000, "usd", "$200"),
        (250, "usd", "$2.50"),
        (999_900, "usd", "$9,999"),
        (1_250_000, "usd", "$12.5K"),
        (700_000, "jpy", "¥700K"),
        (1_500, "kwd", "KWD\xa01.500"),
        (20_000_000, "kwd", "KWD\xa020K"),
    ],
)
def test_amounts_are_short_on_axes(amount_minor: float, currency: str, text: str) -> None:
    assert formats.short_money(amount_minor, currency) == text


def test_amounts_of_one_axis_are_written_alike() -> None:
    assert [formats.short_money(value, "usd", 1_250_000) for value in (0, 750_000, 1_250_000)] == ["$0", "$7.5K", "$12.5K"]


def test_days_and_moments_are_in_utc_and_readable_by_machines() -> None:
    late = datetime(2026, 11, 30, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert formats.day(late) == '<time datetime="2026-12-01">1 December 2026</time>'
    assert formats.moment(late) == '<time datetime="2026-12-01T04:30:00Z">1 December 2026, 04:30 UTC</time>'
    assert formats.month(datetime(2026, 11, 1, tzinfo=UTC)) == "November 2026"


def test_a_period_is_written_by_its_first_and_last_day() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    assert formats.span(start, datetime(2026, 12, 1, tzinfo=UTC)) == "1 \N{EN DASH} 30 Nov"
    assert formats.span(start, datetime(2026, 12, 1, 12, tzinfo=UTC)) == "1 Nov \N{EN DASH} 1 Dec"
