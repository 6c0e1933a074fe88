"""The bill so far is the sum of its parts: plans that were left in the period, the present one, and usage of earlier periods."""

from datetime import UTC, datetime, timedelta
from typing import Any

from billing_common.bill_so_far import BillSoFar, Earlier, OnPlan, bill_so_far, earlier_of
from billing_common.catalogue import Catalogue
from billing_common.rating import Period

FEBRUARY, MARCH = datetime(2027, 2, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC)
PERIOD = Period(FEBRUARY, MARCH)
MIDDLE = FEBRUARY + timedelta(days=14)
NOW = FEBRUARY + timedelta(days=21)


def sold(amount: str, product_id: str = "team") -> Catalogue:
    """A catalogue of one product: 28.00 a month, 5.00 once, a price for each call."""
    price = {"base": "28", "setup": "5", "usage": [{"meter": "calls", "amount": amount}]}
    product = {"id": product_id, "name": product_id.capitalize(), "model": "Hybrid", "price": price}
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [product]})


def on(catalogue: Catalogue, since: datetime, until: datetime | None, calls: int, **fields: Any) -> OnPlan:
    return OnPlan(catalogue, catalogue.products[0], since, until, {"calls": calls, "foreign": 9}, **fields)


def rated(*stays: OnPlan, earlier: tuple[Earlier, ...] = ()) -> BillSoFar:
    return bill_so_far(stays, period=PERIOD, currency="usd", now=NOW, earlier=earlier)


def test_a_new_version_within_the_period_leaves_the_old_usage_at_its_old_price_and_charges_no_setup_again() -> None:
    bill = rated(on(sold("0.10"), FEBRUARY, MIDDLE, 100), on(sold("0.20"), MIDDLE, None, 50, is_new=False))
    (past,) = bill.past
    assert (past.product.name, past.until, past.rated.total_minor) == ("Team", MIDDLE, 14_00 + 5_00 + 10_00)
    assert bill.present.total_minor == 14_00 + 10_00
    assert bill.total_minor == sum(line.amount_minor for line in bill.lines) == 53_00
    assert bill.ahead_minor == 29_00 + 14_00 + 20_00  # twice the present plan's calls: half of its time is over


def test_another_product_has_a_setup_fee_of_its_own() -> None:
    assert rated(on(sold("0.10"), FEBRUARY, MIDDLE, 0), on(sold("0.20", "firm"), MIDDLE, None, 0)).total_minor == 28_00 + 2 * 5_00


def test_what_is_billed_with_the_period_of_earlier_ones_is_in_the_bill_and_in_its_projection() -> None:
    plan = on(sold("0.10"), FEBRUARY - timedelta(days=60), None, 30)
    earlier = (Earlier("Late usage", 60, "usd", alone=False), Earlier("Correction", -15, "usd", alone=True))
    without, bill = rated(plan), rated(plan, earlier=earlier)
    assert without.ahead_minor is not None
    assert (bill.total_minor, bill.ahead_minor) == (without.total_minor + 45, without.ahead_minor + 45)


def test_free_days_cost_nothing() -> None:
    trial = on(sold("0.10"), FEBRUARY, None, 0, free_until=MARCH)
    assert rated(trial).total_minor <= 5_00


def test_only_charges_since_the_period_began_are_billed_with_it() -> None:
    one = {"description": "Late usage", "currency": "usd", "amount_minor": 60, "placed": "next_invoice", "made_at": FEBRUARY.isoformat()}
    charges = [
        one,
        {**one, "placed": None},  # not at Stripe yet
        {**one, "placed": "own_invoice"},
        {**one, "placed": "draft"},  # that of the period it was used in
        {**one, "amount_minor": 0},
        {**one, "made_at": (FEBRUARY - timedelta(seconds=1)).isoformat()},  # billed by now
    ]
    assert earlier_of(FEBRUARY, charges) == [Earlier("Late usage", 60, "usd", alone=alone) for alone in (False, False, True)]
