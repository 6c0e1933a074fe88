"""A quote: full period without a start, the first one with it; free days are free; what makes no sense is named."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from billing_common.catalogue import Catalogue
from billing_common.quoting import QUANTITY_MAX, Question, QuoteError, quote
from billing_common.rating import Facts, period_at, rate

ROOT = Path(__file__).resolve().parents[3]
TRIAL = Catalogue.parse((ROOT / "docs" / "examples" / "trial.json").read_text())
SEVEN = Catalogue.parse((ROOT / "monetizationModels.json").read_text())
NOW = datetime(2026, 11, 28, 18, 23, 28, 123456, tzinfo=UTC)
START = datetime(2026, 11, 10, tzinfo=UTC)


def test_a_trial_is_no_part_of_the_period_that_is_quoted_by_itself() -> None:
    answer = quote(TRIAL, Question("pro", {}, 12_000), now=NOW)
    period = answer.rated.lines[0].period
    assert (answer.rated.total_minor, answer.trial_end) == (29_00 + 4_00, None)
    assert (period.start, period.end) == (datetime(2026, 11, 28, 18, 23, 28, tzinfo=UTC), datetime(2026, 12, 28, 18, 23, 28, tzinfo=UTC))


def test_a_subscription_that_begins_with_free_days_owes_nothing_for_them() -> None:
    answer = quote(TRIAL, Question("pro", {}, 12_000, start=START), now=NOW).public()
    assert (answer["total_minor"], answer["trial_end"]) == (0, "2026-11-24T00:00:00+00:00")
    assert [(line["component"], line["amount_minor"]) for line in answer["lines"]] == [("trial", 0)]


def test_a_trial_that_is_cancelled_is_free_until_then() -> None:
    end = START + timedelta(days=5)
    answer = quote(TRIAL, Question("pro", {}, 12_000, start=START, end=end), now=NOW)
    assert (answer.rated.total_minor, answer.trial_end) == (0, end)


def test_an_end_within_the_period_shortens_the_usage_and_gives_no_fee_back() -> None:
    whole, cut = (quote(SEVEN, Question("standard", {}, 128_000, START, end), now=NOW).rated for end in (None, START + timedelta(days=3)))
    assert whole.total_minor == cut.total_minor
    assert {line.period.end for line in cut.lines if line.component == "usage:calls"} == {START + timedelta(days=3)}


BAD = [
    (Question("standrad", {}), "unknown_product", 'Did you mean "standard"?'),
    (Question("standard", {"calls": 1}, 2), "which_meter", "given twice"),
    (Question("standard", {}, QUANTITY_MAX + 1), "too_much", "1,000,000,000,000,000"),
    (Question("standard", {"pages": 1}), "cannot_be_priced", "pages"),
    (Question("standard", {}, currency="xxx"), "cannot_be_priced", "XXX"),
    (Question("standard", {}, 1, START, START), "outside_period", '"to" must lie after 2026-11-10 and not after 2026-12-01'),
    (Question("standard", {}, 1, START, datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC)), "outside_period", "2026-12-01"),
]


@pytest.mark.parametrize(("asked", "code", "text"), BAD)
def test_a_question_without_an_answer_says_what_to_change(asked: Question, code: str, text: str) -> None:
    with pytest.raises(QuoteError, match=r".") as refused:
        quote(SEVEN, asked, now=NOW)
    assert refused.value.code == code
    assert text in str(refused.value)


def test_calls_go_to_the_only_meter_and_are_refused_where_there_are_several() -> None:
    product = {"id": "p", "name": "P", "model": "Metered", "price": {"usage": [{"meter": "pages", "amount": "0.01"}]}}
    meters = {"pages": {"name": "Pages", "unit": "page"}, "bytes": {"name": "Bytes", "unit": "byte"}}
    one = Catalogue.parse(json.dumps({"version": 1, "meters": {"pages": meters["pages"]}, "products": [product]}))
    assert quote(one, Question("p", {}, 100), now=NOW).rated.total_minor == 100
    prices = {"usage": [{"meter": name, "amount": "0.01"} for name in meters]}
    two = Catalogue.parse(json.dumps({"version": 1, "meters": meters, "products": [product | {"model": "Hybrid", "price": prices}]}))
    with pytest.raises(QuoteError, match="pages, bytes"):
        quote(two, Question("p", {}, 100), now=NOW)


def test_every_quote_with_a_start_is_the_rating_of_the_first_period() -> None:
    random = Random(4)
    for _ in range(300):
        catalogue = random.choice([TRIAL, SEVEN])
        product = random.choice(catalogue.products)
        start = START + timedelta(seconds=random.randrange(10**8))
        usage = {meter: random.randrange(10 ** random.randrange(1, 15)) for meter in product.meter_ids()}
        period = period_at(product, started_at=start, at=start)
        free_until = start + timedelta(days=product.trial_days) if product.trial_days else None
        expected = rate(catalogue, product, period=period, usage=usage, facts=Facts(start, trial_end=free_until))
        assert quote(catalogue, Question(product.id, usage, start=start), now=NOW).rated == expected
