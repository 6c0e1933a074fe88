"""A difference is worth what the bill would be with the usage less what it is without."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from stripe_reporter.invoice_store import HourOfMeter
from stripe_reporter.reconciliation import Difference, combined, judge_events
from stripe_reporter.worth import worth

MARCH = datetime(2027, 3, 1, tzinfo=UTC)
DAY = MARCH + timedelta(days=4)
PRICES: dict[str, Any] = {
    "metered": {"usage": [{"meter": "calls", "included": 100, "amount": "0.20", "per": 100}]},
    "least": {"usage": [{"meter": "calls", "amount": "0.20", "per": 100}], "minimum": "1.00"},
    "blocks": {"unit": {"meter": "calls", "size": 1000, "amount": "10.00", "at_least": 1}},
    "traffic": {"usage": [{"meter": "bytes", "amount": "0.20", "per": 100}]},
}
MODELS = {"metered": "Freemium", "least": "Metered", "blocks": "Unit", "traffic": "Metered"}
DOCUMENT: dict[str, Any] = {
    "version": 1, "currency": "usd",
    "meters": {"calls": {"name": "API calls", "weight": 2}, "bytes": {"name": "Traffic", "property": "responseBytes"}},
    "products": [{"id": name, "name": name, "apis": ["orders"], "model": MODELS[name], "price": price} for name, price in PRICES.items()],
}  # fmt: skip


@pytest.fixture(scope="module")
def catalogues() -> dict[str, Catalogue]:
    return dict.fromkeys(PRICES, Catalogue.from_document(DOCUMENT))


def used(product: str, quantity: int, at: datetime = MARCH) -> list[HourOfMeter]:
    return [HourOfMeter("calls", product, 1, MARCH, at, at, quantity)]


def lost(calls: int) -> Difference:
    return Difference("gateway-events", "lost", DAY, -calls, "lost", units=calls)


@pytest.mark.parametrize(
    ("product", "already", "missing", "amount"),
    [
        ("metered", 0, 25, 0),  # 50 units, all of them included
        ("metered", 100, 25, -10),  # 50 units beyond what is included
        ("metered", 80, 25, -6),  # 30 of them beyond
        ("least", 0, 100, 0),  # the minimum is charged with them as without
        ("least", 500, 100, -40),
        ("blocks", 1_000, 1, -1_000),  # the next block begins
        ("blocks", 1_500, 1, 0),
        ("traffic", 0, 5, None),  # nobody knows how large they were
    ],
)
def test_events_that_are_missing_cost_the_difference_of_two_bills(
    catalogues: dict[str, Catalogue], product: str, already: int, missing: int, amount: int | None
) -> None:
    assert worth(lost(missing), used(product, already), catalogues, plan=product, currency="usd") == amount


def test_without_any_usage_the_present_plan_is_asked_and_without_a_plan_nobody_can_say(catalogues: dict[str, Catalogue]) -> None:
    assert worth(lost(100), [], catalogues, plan="metered", currency="usd") == -20
    assert worth(lost(100), [], catalogues, plan=None, currency="usd") is None
    assert worth(lost(100), [], {}, plan="metered", currency="usd") is None


def test_only_usage_of_the_same_month_and_the_product_of_that_day_count(catalogues: dict[str, Catalogue]) -> None:
    before = used("metered", 1_000, MARCH - timedelta(days=1))
    assert worth(lost(50), before, catalogues, plan="least", currency="usd") == 0
    changed = [*used("metered", 100), *used("least", 500, DAY + timedelta(days=1))]
    assert worth(lost(50), changed, catalogues, plan="least", currency="usd") == -20


def test_a_station_that_has_more_is_worth_more_and_what_failed_is_worth_nothing_said(catalogues: dict[str, Catalogue]) -> None:
    more = Difference("ledger-stripe", "manual_change_in_stripe", DAY, 100, "by hand", "metered", "calls")
    assert worth(more, used("metered", 100), catalogues, plan="metered", currency="usd") == 20
    failed = Difference("events-meters", "filter", DAY, -5, "filtered: failed", units=5)
    assert worth(failed, used("metered", 100), catalogues, plan="metered", currency="usd") is None


def test_held_events_are_worth_what_they_say_and_others_one_each() -> None:
    rows = [
        {"origin": "ingest", "outcome": "held", "reason": "late", "events": 2, "quantity": 700},
        {"origin": "stream", "outcome": "held", "reason": "late", "events": 3, "quantity": None},
    ]
    found = judge_events({"day": DAY.isoformat(), "gateway": None, "bins": rows, "duplicates": 0}, None)  # type: ignore[arg-type]
    (late,) = combined(found)
    assert (late.cause, late.quantity, late.units) == ("late", -5, 703)
