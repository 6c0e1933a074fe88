"""Prices at their boundaries, facts of a subscription, and questions without sense."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import desired_products
from billing_common.money import display, exponent, plain, round_half_up
from billing_common.rating import Facts, Period, QuantityChange, RatingError, as_quote, period_at, rate

CATALOGUE = Catalogue.parse((Path(__file__).parents[3] / "monetizationModels.json").read_text())
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
FIRST = Facts(started_at=NOVEMBER.start)


def one_price(model: str, price: dict[str, Any], **product: Any) -> Catalogue:
    entry = {"id": "it", "name": "It", "model": model, "price": price, **product}
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [entry]})


def usage(**fields: Any) -> dict[str, Any]:
    return {"usage": [{"meter": "calls", **fields}]}


def total(catalogue: Catalogue, calls: int, product_id: str = "it", facts: Facts = FIRST) -> int:
    return rate(catalogue, catalogue.product(product_id), period=NOVEMBER, usage={"calls": calls}, facts=facts).total_minor


SEVEN = [
    ("free", {0: 0, 100: 0, 1_000_000: 0}),
    ("developer", {0: 0, 100: 0, 101: 0, 103: 1, 250: 30, 15_100: 3000}),
    ("payg", {0: 0, 1: 0, 3: 0, 4: 1, 100: 15, 101: 15, 250: 38, 12_345: 1852, 100_000_000_000: 15_000_000_000}),
    ("basic", {0: 1495, 50_000: 1495}),
    ("standard", {0: 8995, 100_000: 8995, 100_004: 8995, 100_005: 8996, 100_150: 9010, 250_000: 23_995}),
    ("pro", {0: 44_995, 500_000: 44_995, 500_009: 44_996, 1_000_000: 74_995}),
    ("enterprise", {0: 74_995, 1: 74_995, 1_500_000: 74_995, 1_500_001: 149_990, 2_000_000: 149_990, 4_500_001: 299_980}),
]


@pytest.mark.parametrize(("product_id", "calls", "expected"), [(name, q, cents) for name, table in SEVEN for q, cents in table.items()])
def test_the_seven_products_at_their_boundaries(product_id: str, calls: int, expected: int) -> None:
    assert total(CATALOGUE, calls, product_id) == expected


TIERS = [{"up_to": 10_000, "amount": "0.01"}, {"up_to": 100_000, "amount": "0.005"}, {"up_to": None, "amount": "0.0025"}]
VOLUME = [{"up_to": 10_000, "amount": "0.01"}, {"up_to": 100_000, "amount": "0.008"}, {"up_to": None, "amount": "0.005"}]
PERCENT = [{"up_to": 100_000, "percent": 0}, {"up_to": 1_000_000, "percent": 20}, {"up_to": None, "percent": 40}]
QUERIES = [{"up_to": 100, "amount": "5"}, {"up_to": 1000, "amount": "3"}, {"up_to": None, "amount": "2"}]
MODELS = [
    ("Metered", usage(amount="0.15", per=100, rounding="started"), {0: 0, 1: 15, 100: 15, 101: 30, 250: 45, 12_345: 1860}),
    ("Metered", usage(amount="0.15", per=100, rounding="completed"), {0: 0, 99: 0, 100: 15, 199: 15, 250: 30}),
    ("Freemium", usage(amount="0.20", per=100, included=10_000), {10_000: 0, 10_001: 0, 10_003: 1, 10_150: 30, 25_000: 3000}),
    ("Graduated", usage(tiers=TIERS), {5000: 5000, 10_000: 10_000, 10_001: 10_001, 150_000: 67_500}),
    ("Graduated", usage(tiers=QUERIES), {100: 50_000, 101: 50_300, 1000: 320_000, 1001: 320_200}),
    ("Volume", usage(tiers=VOLUME, mode="volume"), {10_000: 10_000, 10_001: 8001, 100_000: 80_000, 150_000: 75_000}),
    ("Graduated", usage(amount="0.001", discounts=PERCENT), {100_000: 10_000, 1_000_000: 82_000, 2_000_000: 142_000}),
    ("TierWithOverage", {"base": "49", **usage(amount="0.005", included=10_000)}, {10_000: 4900, 10_001: 4901, 20_000: 9900}),
    ("TierWithOverage", {"base": "49", **usage(amount="0.001", included=50_000)}, {128_000: 12_700}),
    ("Hybrid", {"minimum": "10", "maximum": "20", **usage(amount="0.01")}, {0: 1000, 1000: 1000, 1500: 1500, 2000: 2000, 9999: 2000}),
]


@pytest.mark.parametrize(
    ("model", "price", "calls", "expected"), [(m, p, q, cents) for m, p, table in MODELS for q, cents in table.items()]
)
def test_each_model_at_its_boundaries(model: str, price: dict[str, Any], calls: int, expected: int) -> None:
    assert total(one_price(model, price), calls) == expected


@pytest.mark.parametrize(
    ("currency", "amount", "per", "calls", "minor"),
    [("jpy", "3", 2, 3, 5), ("inr", "0.01", 1, 7, 7), ("kwd", "0.0005", 1, 3, 2), ("usd", "0.00095", 1, 1000, 95)],
)
def test_currencies_with_no_two_and_three_decimals(currency: str, amount: str, per: int, calls: int, minor: int) -> None:
    assert total(one_price("Metered", usage(amount=amount, per=per), currency=currency), calls) == minor


@pytest.mark.parametrize(("day", "hour", "cents"), [(1, 0, 8995), (16, 0, 4498), (21, 12, 2848), (30, 23, 12)])
def test_a_start_in_mid_month_pays_for_the_seconds_that_are_left(day: int, hour: int, cents: int) -> None:
    started = datetime(2026, 11, day, hour, tzinfo=UTC)
    rated = rate(CATALOGUE, CATALOGUE.product("standard"), period=NOVEMBER, usage={"calls": 100_000}, facts=Facts(started_at=started))
    assert [line.amount_minor for line in rated.lines] == [cents, 0]
    assert rated.lines[0].period == Period(started, NOVEMBER.end)


def test_without_proration_the_days_before_the_first_full_period_have_no_base_fee() -> None:
    catalogue = one_price("TierWithOverage", {"base": "49", **usage(amount="0.005", included=10)}, policies={"proration": "none"})
    assert total(catalogue, 30, facts=Facts(started_at=NOVEMBER.start + timedelta(seconds=1))) == 10
    assert total(catalogue, 30, facts=FIRST) == 4910


def test_what_is_included_is_not_prorated() -> None:
    late = Facts(started_at=NOVEMBER.end - timedelta(seconds=1))
    assert total(CATALOGUE, 100, "developer", late) == 0


MIDDLE = datetime(2026, 11, 16, tzinfo=UTC)
PARTS = [
    (FIRST, 1000, 1000),
    (Facts(started_at=MIDDLE), 500, 0),
    (Facts(started_at=NOVEMBER.start, ended_at=MIDDLE, end_reason="change"), 500, 1000),
    (Facts(started_at=NOVEMBER.start, ended_at=MIDDLE), 1000, 1000),  # cancelled: what was bought in advance is not given back
    (Facts(started_at=NOVEMBER.start, trial_end=MIDDLE), 500, 0),
    (Facts(started_at=MIDDLE, ended_at=MIDDLE, end_reason="change"), 0, 0),
]


@pytest.mark.parametrize(("facts", "share", "whole_only"), PARTS)
def test_of_a_part_of_a_period_the_least_spend_is_its_share(facts: Facts, share: int, whole_only: int) -> None:
    price = {"minimum": "10", **usage(amount="0.01")}
    assert total(one_price("Hybrid", price), 0, facts=facts) == share
    assert total(one_price("Hybrid", price, policies={"proration": "none"}), 0, facts=facts) == whole_only


def test_lines_stand_in_the_order_of_the_invoice_and_add_up() -> None:
    rated = rate(CATALOGUE, CATALOGUE.product("standard"), period=NOVEMBER, usage={"calls": 250_000}, facts=FIRST)
    assert [(line.component, line.quantity, line.amount_minor) for line in rated.lines] == [
        ("base", 1, 8995),
        ("usage:calls", 100_000, 0),
        ("usage:calls", 150_000, 15_000),
    ]
    quote = as_quote(rated)
    assert quote["total_minor"] == 23_995
    assert json.loads(json.dumps(quote))["lines"][2]["unit_amount_decimal"] == "0.1"


def test_a_trial_costs_nothing_and_the_period_after_it_all() -> None:
    catalogue = one_price(
        "TierWithOverage", {"base": "49", **usage(amount="0.005", included=10)}, trial_days=14, billing_anchor="anniversary"
    )
    product, started = catalogue.product("it"), datetime(2026, 11, 20, 9, tzinfo=UTC)
    trial = period_at(product, started_at=started, at=started)
    assert trial.end == started + timedelta(days=14)
    facts = Facts(started_at=started, trial_end=trial.end)
    free = rate(catalogue, product, period=trial, usage={"calls": 5000}, facts=facts)
    assert [(line.component, line.amount_minor) for line in free.lines] == [("trial", 0)]
    after = period_at(product, started_at=started, at=trial.end)
    assert rate(catalogue, product, period=after, usage={"calls": 10}, facts=facts).total_minor == 4900


def test_a_change_gives_the_unused_time_back_and_a_cancellation_does_not() -> None:
    middle = datetime(2026, 11, 16, tzinfo=UTC)
    assert total(CATALOGUE, 0, "basic", Facts(started_at=NOVEMBER.start, ended_at=middle, end_reason="change")) == 1495 - 748
    assert total(CATALOGUE, 0, "basic", Facts(started_at=NOVEMBER.start, ended_at=middle)) == 1495


def test_a_part_of_a_second_is_not_paid_for_twice_nor_lost() -> None:
    minute = Period(NOVEMBER.start, NOVEMBER.start + timedelta(minutes=1))
    for instant in (0, 1, 500_000, 999_999):
        assert minute.part(Decimal(60), since=NOVEMBER.start + timedelta(seconds=20, microseconds=instant)) == 40


@pytest.mark.parametrize(
    ("asked", "facts", "words"),
    [
        ({"cals": 1}, FIRST, "has no meter"),
        ({"calls": -1}, FIRST, "never negative"),
        ({}, Facts(started_at=NOVEMBER.start, quantity=0), "never negative"),
        ({}, Facts(started_at=NOVEMBER.start, quantity_changes=(QuantityChange(NOVEMBER.start, 0),)), "never negative"),
    ],
)
def test_questions_without_sense_are_refused(asked: dict[str, int], facts: Facts, words: str) -> None:
    with pytest.raises(RatingError, match=words):
        rate(CATALOGUE, CATALOGUE.product("payg"), period=NOVEMBER, usage=asked, facts=facts)


def test_a_currency_the_product_is_not_sold_in_is_refused() -> None:
    with pytest.raises(RatingError, match="not sold in EUR"):
        total(CATALOGUE, 1, "payg", Facts(started_at=NOVEMBER.start, currency="eur"))


def test_money_is_shown_with_the_decimals_of_its_currency() -> None:
    assert [display(149_990, "usd"), display(5, "jpy"), display(1234, "kwd")] == ["USD 1,499.90", "JPY 5", "KWD 1.234"]
    assert (exponent("isk"), plain(Decimal("1E-7")), round_half_up(Decimal("2.5"))) == (2, "0.0000001", 3)


@settings(max_examples=60, deadline=None)
@given(product=st.sampled_from([product.id for product in CATALOGUE.products]), calls=st.integers(0, 10**12), more=st.integers(0, 10**9))
def test_more_usage_never_costs_less(product: str, calls: int, more: int) -> None:
    assert 0 <= total(CATALOGUE, calls, product) <= total(CATALOGUE, calls + more, product)


def test_a_change_of_quantity_gives_back_and_charges_the_rest_of_the_period_the_newest_first() -> None:
    middle, later = datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
    changes = (QuantityChange(middle, 3), QuantityChange(later, 2))
    facts = Facts(started_at=NOVEMBER.start, quantity_changes=changes)
    rated = rate(CATALOGUE, CATALOGUE.product("basic"), period=NOVEMBER, usage={}, facts=facts)
    assert [(line.quantity, line.amount_minor) for line in rated.lines] == [(1, 1495), (3, -1495), (2, 997), (1, -748), (3, 2243)]
    december = Period(NOVEMBER.end, datetime(2027, 1, 1, tzinfo=UTC))
    assert rate(CATALOGUE, CATALOGUE.product("basic"), period=december, usage={}, facts=facts).total_minor == 2 * 1495


def test_a_change_at_the_very_start_of_a_period_comes_after_its_fee_was_drawn() -> None:
    facts = Facts(started_at=datetime(2026, 10, 1, tzinfo=UTC), quantity=2, quantity_changes=(QuantityChange(NOVEMBER.start, 1),))
    rated = rate(CATALOGUE, CATALOGUE.product("basic"), period=NOVEMBER, usage={}, facts=facts)
    assert [(line.quantity, line.amount_minor) for line in rated.lines] == [(2, 2990), (2, -2990), (1, 1495)]
    october = Period(facts.started_at, NOVEMBER.start)
    assert rate(CATALOGUE, CATALOGUE.product("basic"), period=october, usage={}, facts=facts).total_minor == 2990


def test_each_line_names_the_time_it_is_for() -> None:
    catalogue = one_price("TierWithOverage", {"base": "49", "setup": "5", **usage(amount="0.005", included=10)})
    began, ended = datetime(2026, 11, 11, 7, 0, 0, 999, tzinfo=UTC), datetime(2026, 11, 21, 9, tzinfo=UTC)
    facts = Facts(started_at=began, ended_at=ended, end_reason="change", quantity_changes=(QuantityChange(NOVEMBER.start, 2),))
    rated = rate(catalogue, catalogue.product("it"), period=NOVEMBER, usage={"calls": 30}, facts=facts)
    begin = began.replace(microsecond=0)
    assert [(line.component, line.period.start, line.period.end) for line in rated.lines] == [
        ("setup", begin, begin),
        ("base", begin, NOVEMBER.end),
        ("base", ended, NOVEMBER.end),
        ("usage:calls", begin, ended),
        ("usage:calls", begin, ended),
    ]
    assert [line.proration for line in rated.lines] == [False, True, True, False, False]


def test_a_trial_without_a_base_fee_has_no_line() -> None:
    catalogue = one_price("Metered", usage(amount="1"), trial_days=14, billing_anchor="anniversary")
    trial = period_at(catalogue.product("it"), started_at=NOVEMBER.start, at=NOVEMBER.start)
    facts = Facts(started_at=NOVEMBER.start, trial_end=trial.end)
    assert rate(catalogue, catalogue.product("it"), period=trial, usage={"calls": 7}, facts=facts).lines == ()


def test_credit_pays_at_most_the_total_and_is_no_line() -> None:
    rated = [
        rate(CATALOGUE, CATALOGUE.product("basic"), period=NOVEMBER, usage={}, facts=Facts(started_at=NOVEMBER.start, credit_minor=credit))
        for credit in (0, 1000, 5000)
    ]
    assert [(one.total_minor, one.due_minor) for one in rated] == [(1495, 1495), (1495, 495), (1495, 0)]
    assert len({one.lines for one in rated}) == 1


@settings(max_examples=60, deadline=None)
@given(second=st.integers(0, 30 * 86_400 - 1))
def test_the_prorated_fee_is_the_nearest_cent_of_its_share(second: int) -> None:
    started = NOVEMBER.start + timedelta(seconds=second)
    share = Fraction(1495) * (30 * 86_400 - second) / (30 * 86_400)
    expected = (2 * share.numerator + share.denominator) // (2 * share.denominator)
    assert total(CATALOGUE, 0, "basic", Facts(started_at=started)) == expected


@settings(max_examples=60, deadline=None)
@given(calls=st.integers(10**11, 10**17), thousandths=st.integers(1, 10**6), included=st.integers(0, 10**12))
def test_more_than_a_hundred_thousand_million_calls_are_exact(calls: int, thousandths: int, included: int) -> None:
    amount = f"{thousandths // 1000}.{thousandths % 1000:03}"  # for 100 calls, in dollars: a thousandth of it is a call in cents
    expected = (2 * thousandths * max(calls - included, 0) + 1000) // 2000
    assert total(one_price("Hybrid", usage(amount=amount, per=100, included=included)), calls) == expected


@pytest.mark.parametrize(
    ("calls", "added"),
    [(999, [("minimum", 1)]), (1000, []), (1001, []), (2000, []), (2001, [("maximum", -1)])],
)
def test_least_and_most_spend_have_a_line_only_where_they_change_something(calls: int, added: list[tuple[str, int]]) -> None:
    catalogue = one_price("Hybrid", {"minimum": "10", "maximum": "20", **usage(amount="0.01")})
    rated = rate(catalogue, catalogue.product("it"), period=NOVEMBER, usage={"calls": calls}, facts=FIRST)
    assert [(line.component, line.amount_minor) for line in rated.lines if not line.component.startswith("usage")] == added


def test_a_discount_that_ends_where_the_allowance_ends_leaves_no_empty_slice() -> None:
    discounts = [{"up_to": 100, "percent": 0}, {"up_to": None, "percent": 50}]
    catalogue = one_price("Hybrid", usage(amount="0.01", included=100, discounts=discounts))
    rated = rate(catalogue, catalogue.product("it"), period=NOVEMBER, usage={"calls": 150}, facts=FIRST)
    assert [(line.quantity, line.amount_minor) for line in rated.lines] == [(100, 0), (50, 25)]
    (price,) = desired_products(catalogue)[0].prices
    assert [tier["up_to"] for tier in price.amounts["tiers"]] == [100, "inf"]


@pytest.mark.parametrize(
    "text", ["0-100 standard, above 50 % off", "0\u2013100 standard, above 50 % off", "0 - 100: standard, over 100 50%"]
)
def test_discounts_as_people_write_them_down(text: str) -> None:
    assert total(one_price("VolumeDiscount", usage(amount="0.01", discounts=text)), 150) == 125
