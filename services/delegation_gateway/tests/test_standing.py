"""Where a subscription stands: the bill so far is what the invoice will be, in the first, partial period too."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_common.bill_so_far import Stay
from billing_common.catalogue import Catalogue, Product
from billing_common.rating import Period
from delegation_gateway.domain import Subscription
from delegation_gateway.read_models import Usage
from delegation_gateway.standing import Standing, on_plan, period_of, standing

MODELS = Path(__file__).parents[3] / "monetizationModels.json"
CATALOGUE = Catalogue.parse(MODELS.read_text())
BASIC = next(product for product in CATALOGUE.products if product.id == "basic")
START = datetime(2027, 2, 1, 9, tzinfo=UTC)
MARCH = datetime(2027, 3, 1, tzinfo=UTC)
FIRST_OF_FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC)
NEW = Subscription(
    subscription_id="a", account_id="b", product_id="basic", catalogue_version=1, display_name="Shop", requested_currency="usd",
    requested_at=START, request_state="done", request_reason=None, status="active", currency="usd", started_at=START,
    period_start=START, period_end=MARCH, cancel_at_period_end=False, cancel_at=None, ended_at=None, is_at_stripe=True,
    cancellation=None, access="granted", access_reason=None, sid="s",
)  # fmt: skip


def so_far(sold: tuple[Catalogue, Product], subscription: Subscription, used: Usage, *, period: Period, now: datetime) -> Standing:
    """Rate a subscription that has been on one plan."""
    stay = Stay(subscription.started_at or START, None, sold[1].id, 1, is_new=True)
    return standing([on_plan(sold, subscription, stay, used, period)], subscription, used, period=period, now=now)


def test_the_first_partial_period_costs_its_part_of_the_fee() -> None:
    now = START + timedelta(days=3)
    period = period_of(BASIC, NEW, now)
    assert period == Period(FIRST_OF_FEBRUARY, MARCH)
    found = so_far((CATALOGUE, BASIC), NEW, Usage({}, {now.date(): 1}, None), period=period, now=now)
    assert found.total_minor == 1475
    assert found.chart is not None
    assert found.chart.title == "Usage per day, February 2027"


@pytest.mark.parametrize("end", [datetime(2027, 3, 8, tzinfo=UTC), datetime(2027, 2, 20, tzinfo=UTC)])
def test_a_period_that_stripe_places_otherwise_is_taken_from_stripe(end: datetime) -> None:
    moved = replace(NEW, period_end=end)
    assert period_of(BASIC, moved, START + timedelta(days=3)) == Period(START, end)


def test_a_number_of_users_does_not_run_on_at_the_pace_so_far() -> None:
    meters = {name: {"name": name, "property": "user", "aggregation": how} for name, how in (("users", "unique"), ("tokens", "sum"))}
    price = {"usage": [{"meter": "users", "amount": "4"}, {"meter": "tokens", "amount": "1"}]}
    product = {"id": "team", "name": "Team", "model": "Hybrid", "source": "ingest", "price": price}
    catalogue = Catalogue.from_document({"version": 1, "meters": meters, "products": [product]})
    used = Usage({"users": 3, "tokens": 10}, {}, None)
    half = FIRST_OF_FEBRUARY + timedelta(days=14)
    begun = replace(NEW, started_at=FIRST_OF_FEBRUARY, requested_at=FIRST_OF_FEBRUARY)
    found = so_far((catalogue, catalogue.products[0]), begun, used, period=Period(FIRST_OF_FEBRUARY, MARCH), now=half)
    assert (found.total_minor, found.ahead_minor) == (22_00, 32_00)


def test_free_days_are_not_billed_while_they_run_and_the_fee_is_whole_after_them() -> None:
    catalogue = Catalogue.parse((MODELS.parent / "docs" / "examples" / "trial.json").read_text())
    pro = next(product for product in catalogue.products if product.id == "pro")
    ends = START + timedelta(days=14)
    trial = replace(NEW, product_id="pro", status="trialing", period_end=ends)
    used = Usage({"calls": 12_000}, {}, None)
    now = START + timedelta(days=3)
    found = so_far((catalogue, pro), trial, used, period=period_of(pro, trial, now), now=now)
    assert (found.total_minor, found.ahead_minor) == (0, 0)
    paid = replace(trial, status="active", period_start=ends, period_end=datetime(2027, 3, 15, 9, tzinfo=UTC))
    now = ends + timedelta(days=1)
    assert so_far((catalogue, pro), paid, used, period=period_of(pro, paid, now), now=now).total_minor == 33_00
