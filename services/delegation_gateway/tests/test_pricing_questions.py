"""The address is read with an answer for every mistake and written so that it leads to the same page."""

from pathlib import Path

import pytest

from billing_common.catalogue import Catalogue
from delegation_gateway.pricing_questions import Address, AddressTooLongError, default_usage, parameter, read, read_number, slider_top

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("120,000", 120_000),
        ("120 000", 120_000),
        ("120\u202f000", 120_000),
        ("1.200.000", 1_200_000),
        ("12,34,567", 1_234_567),
        (" 120000 ", 120_000),
        ("0", 0),
        ("100000000000", 100_000_000_000),
        ("1,000,000,000,000", 10**12),
        ("1,000,000,000,001", None),
        ("1" * 5000, None),
        ("1.5", None),
        ("1,5", None),
        ("1,", None),
        ("-1", None),
        ("+1", None),
        ("1e99", None),
        ("NaN", None),
        ("0x10", None),
        ("", None),
        ("١٢٣", None),
        ("\N{FULLWIDTH DIGIT ONE}2", None),
        ("1\n2", None),
        ("<b>1</b>", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: int | None) -> None:
    assert read_number(text) == number


def test_an_empty_address_asks_for_something_that_shows_how_plans_differ(catalogue: Catalogue) -> None:
    reading = read([], catalogue)
    assert (reading.question.by_meter, reading.question.currency, reading.question.interval) == ({"calls": 120_000}, "usd", "month")
    assert (reading.by, reading.errors) == ("calls", {})


@pytest.mark.parametrize(
    ("pairs", "name", "message"),
    [
        ([("calls", "-1")], "calls", "Enter API calls a month as a whole number from 0 to 1,000,000,000,000, for example 120,000"),
        ([("currency", "doubloon")], "currency", 'Choose one of usd for "currency"'),
        ([("interval", "week")], "interval", 'Choose one of month for "interval"'),
        ([("by", "bytes")], "by", 'Choose one of calls for "by"'),
        ([("theme", "neon")], "theme", 'Choose one of system, light, dark for "theme"'),
        ([("calls", "1"), ("calls", "2")], "calls", '"calls" is given 2 times: give it once'),
        (
            [("product", "standart")],
            "product",
            'Choose one of free, developer, payg, basic, standard, pro, enterprise for "product". Did you mean "standard"?',
        ),
    ],
)
def test_a_mistake_names_the_parameter_and_what_to_write(
    catalogue: Catalogue, pairs: list[tuple[str, str]], name: str, message: str
) -> None:
    assert read(pairs, catalogue).errors == {name: message}


def test_all_mistakes_are_told_at_once_and_what_was_typed_is_kept_short(catalogue: Catalogue) -> None:
    reading = read([("calls", "x" * 3000), ("currency", "EU"), ("utm_source", "letter")], catalogue)
    assert set(reading.errors) == {"calls", "currency"}
    assert reading.typed == {"calls": "x" * 40}


def test_an_address_that_is_too_long_is_refused_unread(catalogue: Catalogue) -> None:
    with pytest.raises(AddressTooLongError):
        read([("calls", "9" * 5000)], catalogue)


def test_a_meter_with_one_of_our_names_has_a_parameter_of_its_own() -> None:
    assert (parameter("calls"), parameter("currency")) == ("calls", "meter.currency")


def test_the_address_of_a_reading_leads_to_the_same_reading() -> None:
    catalogue = Catalogue.parse((EXAMPLES / "hybrid.json").read_text())
    pairs = [("calls", "5"), ("bytes", "7000000000"), ("tokens", "0"), ("by", "bytes"), ("product", "team")]
    reading = read(pairs, catalogue)
    query = Address(catalogue, reading).query()
    assert query == "calls=5&bytes=7000000000&tokens=0&product=team&by=bytes"
    assert Address(catalogue, reading).with_usage("calls", 9).startswith("calls=9&bytes=7000000000&")


def test_defaults_and_sliders_follow_what_is_sold(catalogue: Catalogue) -> None:
    hybrid = Catalogue.parse((EXAMPLES / "hybrid.json").read_text())
    assert default_usage(hybrid, "bytes", "month") == 6_000_000_000
    assert (slider_top(catalogue, "calls", "month"), slider_top(hybrid, "bytes", "month")) == (10_000_000, 10**12)
    yearly = Catalogue.parse((EXAMPLES / "yearly.json").read_text())
    assert (default_usage(yearly, "calls", "month"), default_usage(yearly, "calls", "year")) == (12_000, 12_000)
