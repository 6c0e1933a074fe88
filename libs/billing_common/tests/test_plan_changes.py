"""Which plans can follow each other, and what a change costs to the second."""

from datetime import UTC, datetime
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.plan_changes import ChangeRefusedError, Sold, costs_the_same, lines_of_change, refuse_change
from billing_common.rating import Facts, period_at, rate

USAGE = {"meter": "calls", "amount": "0.10", "per": 100, "included": 1000}
METERS = [f"m{number}" for number in range(12)]
SMALL: dict[str, Any] = {"id": "small", "name": "Small", "model": "TierWithOverage", "price": {"base": "31.00", "usage": [USAGE]}}
LARGE: dict[str, Any] = {"id": "large", "name": "Large", "model": "Hybrid", "price": {"base": "93.00", "setup": "10", "usage": [USAGE]}}
START, HALF = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 16, 12, tzinfo=UTC)


def sold(product: dict[str, Any], **changes: Any) -> Sold:
    document = {
        "version": 1,
        "meters": {name: {"name": name} for name in ("calls", *METERS)},
        "products": [product | changes, {"id": "used", "name": "Used", "model": "Hybrid", "price": {"usage": [
            {"meter": name, "amount": "1"} for name in ("calls", *METERS)]}}],
    }  # fmt: skip
    catalogue = Catalogue.from_document(document)
    return Sold(catalogue, catalogue.products[0])


MANY = {"base": "1", "usage": [{"meter": name, "amount": "1"} for name in METERS]}
REFUSED = [
    ({"model": "Free", "price": None}, "now", "free_product"),
    ({"currency": "eur"}, "period_end", "other_currency"),
    ({"interval": "year"}, "period_end", "other_interval"),
    ({"billing_anchor": "anniversary"}, "period_end", "other_anchor"),
    ({"billing_anchor": "anniversary", "trial_days": 14}, "now", "other_anchor"),
    ({"policies": {"proration": "none"}}, "now", "whole_periods"),
]


@pytest.mark.parametrize(("changes", "when", "code"), REFUSED)
def test_plans_that_cannot_follow_each_other_are_refused_in_both_directions(changes: dict[str, Any], when: Any, code: str) -> None:
    other = sold({key: value for key, value in (LARGE | changes).items() if value is not None})
    for old, new, currency in ((sold(SMALL), other, "usd"), (other, sold(SMALL), other.catalogue.currency_of(other.product))):
        with pytest.raises(ChangeRefusedError) as refused:
            refuse_change(old, new, currency=currency, when=when)
        assert refused.value.code == code
        assert str(refused.value).endswith(".")


def test_what_is_refused_now_may_be_possible_at_the_end_of_the_period() -> None:
    whole = sold(LARGE, policies={"proration": "none"})
    refuse_change(sold(SMALL), whole, currency="usd", when="period_end")
    many, more = sold(LARGE, id="many", price=MANY), sold(LARGE, price=MANY)
    with pytest.raises(ChangeRefusedError, match="more prices") as refused:
        refuse_change(many, more, currency="usd", when="now")
    assert refused.value.code == "too_many_prices"
    refuse_change(many, more, currency="usd", when="period_end")
    refuse_change(sold(SMALL), many, currency="usd", when="now")


def test_a_change_gives_back_the_rest_of_the_old_fee_and_charges_the_rest_of_the_new_one() -> None:
    lines = lines_of_change(sold(SMALL), sold(LARGE), at=HALF, started_at=START, plan_since=START, currency="usd")
    assert [(line.component, line.amount_minor) for line in lines] == [("base", -1550), ("setup", 1000), ("base", 4650)]


def test_a_new_version_of_the_same_product_charges_no_setup_fee_again() -> None:
    dearer = sold(LARGE, price={"base": "124.00", "setup": "10", "usage": [USAGE]})
    lines = lines_of_change(sold(LARGE), dearer, at=HALF, started_at=START, plan_since=START, currency="usd")
    assert [line.amount_minor for line in lines] == [-4650, 6200]


def test_the_lines_of_a_change_are_those_that_both_plans_have_when_rated_on_their_own() -> None:
    old, new, at = sold(SMALL), sold(LARGE), datetime(2027, 1, 9, 7, 13, 59, tzinfo=UTC)
    began = datetime(2027, 1, 3, 11, 0, 1, tzinfo=UTC)
    period = period_at(old.product, started_at=began, at=at)
    ended = Facts(started_at=began, ended_at=at, end_reason="change")
    whole = rate(old.catalogue, old.product, period=period, usage={"calls": 1005}, facts=ended).total_minor
    whole += rate(new.catalogue, new.product, period=period, usage={"calls": 2000}, facts=Facts(started_at=at)).total_minor
    first_fee = rate(old.catalogue, old.product, period=period, usage={}, facts=Facts(started_at=began)).total_minor
    change = lines_of_change(old, new, at=at, started_at=began, plan_since=began, currency="usd")
    assert first_fee + sum(line.amount_minor for line in change) + 1 + 100 == whole


def test_a_plan_without_a_fee_is_changed_for_nothing() -> None:
    old, new = sold(SMALL, model="Metered", price={"usage": [USAGE | {"included": 0}]}), sold(LARGE, price={"usage": [USAGE]})
    assert lines_of_change(old, new, at=HALF, started_at=START, plan_since=START, currency="usd") == []


SAME = [
    ({}, True),
    ({"description": "Better words", "rate_limit": {"calls": 5}}, True),
    ({"price": {"base": "31.01", "usage": [USAGE]}}, False),
    ({"price": {"base": "31.00", "usage": [USAGE | {"included": 1001}]}}, False),
    ({"price": {"base": "31.00", "usage": [USAGE | {"rounding": "started"}]}}, False),
    ({"model": "Hybrid", "price": {"base": "31.00", "usage": [USAGE], "minimum": "40"}}, False),
]


@pytest.mark.parametrize(("changes", "same"), SAME)
def test_only_what_is_charged_makes_a_price_another(changes: dict[str, Any], *, same: bool) -> None:
    assert costs_the_same(sold(SMALL), sold(SMALL, **changes), "usd") is same
