"""Billing periods: which one holds an instant, by the calendar and from the day of subscribing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.catalogue_model import Product
from billing_common.rating import Period, period_at


def plan(**fields: Any) -> Product:
    price = {"usage": [{"meter": "calls", "amount": "1"}]}
    entry = {"id": "it", "name": "It", "model": "Metered", "price": price, **fields}
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [entry]}).product("it")


def test_periods_of_an_anniversary_come_back_to_the_31st() -> None:
    product = plan(billing_anchor="anniversary")
    started = datetime(2026, 1, 31, 12, tzinfo=UTC)
    february = period_at(product, started_at=started, at=datetime(2026, 3, 1, tzinfo=UTC))
    assert (february.start, february.end) == (datetime(2026, 2, 28, 12, tzinfo=UTC), datetime(2026, 3, 31, 12, tzinfo=UTC))


def test_a_calendar_month_is_that_of_utc() -> None:
    at = datetime.fromisoformat("2026-12-01T01:30:00+02:00")
    assert period_at(plan(), started_at=at, at=at) == Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize("interval", ["month", "year"])
@pytest.mark.parametrize("anchor", ["calendar", "anniversary"])
@pytest.mark.parametrize("started", ["2026-01-31T10:00:00+00:00", "2028-02-29T23:59:59+00:00", "2026-12-01T00:00:00+00:00"])
def test_a_period_ends_where_the_next_begins_and_holds_its_start_and_not_its_end(started: str, anchor: str, interval: str) -> None:
    product, begin = plan(billing_anchor=anchor, interval=interval), datetime.fromisoformat(started)
    period = period_at(product, started_at=begin, at=begin)
    assert period.start <= begin < period.end
    for _ in range(14):
        following = period_at(product, started_at=begin, at=period.end)
        assert following.start == period.end
        assert period_at(product, started_at=begin, at=period.end - timedelta(microseconds=1)) == period
        period = following
