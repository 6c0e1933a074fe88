"""The window of a quota: as the gateway counts it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.quotas import THIRTY_DAYS, window_at
from billing_common.rating import Period

START = datetime(2027, 1, 11, 9, 20, tzinfo=UTC)
DAY_ONE = datetime(1, 1, 1, tzinfo=UTC)


def window(quota: dict[str, Any], at: datetime, keys: int = 1) -> Period:
    product = {"id": "p", "name": "P", "model": "Hybrid", "price": {"base": "5"}, "keys": keys, "quota": {"calls": 10} | quota}
    catalogue = Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [product]})
    found = catalogue.products[0]
    assert found.quota is not None
    return window_at(found, found.quota, started_at=START, at=at)


@pytest.mark.parametrize("days", [0, 29, 30, 59, 60, 400])
def test_thirty_days_of_one_key_are_counted_from_the_start_of_the_subscription(days: int) -> None:
    begin = START + days // 30 * THIRTY_DAYS
    for at in (START + timedelta(days=days), begin, begin + THIRTY_DAYS - timedelta(microseconds=1)):
        assert window({"window": "30_days"}, at) == Period(begin, begin + THIRTY_DAYS)


def test_what_was_used_before_the_start_is_known_belongs_to_the_first_window() -> None:
    assert window({"window": "30_days"}, START - timedelta(minutes=20)) == Period(START, START + THIRTY_DAYS)


def test_thirty_days_of_several_keys_are_counted_as_quota_by_key_does_unless_nothing_stops() -> None:
    found = window({"window": "30_days"}, START, keys=2)
    assert (found.start - DAY_ONE) % THIRTY_DAYS == timedelta(0)
    assert found.start <= START < found.end == found.start + THIRTY_DAYS
    assert window({"window": "30_days", "beyond": "overage"}, START, keys=2).start == START


@pytest.mark.parametrize("keys", [1, 2])
def test_a_calendar_month_is_one_for_everybody(keys: int) -> None:
    january = Period(datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC))
    assert window({}, START, keys) == window({}, january.end - timedelta(seconds=1), keys) == january
    assert window({}, january.end, keys) == Period(january.end, datetime(2027, 3, 1, tzinfo=UTC))
