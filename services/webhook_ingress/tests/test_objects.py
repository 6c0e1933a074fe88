"""Stripe's objects in, Turnpike's facts out."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing_common.events import InvoicePaid, PaymentMethodChanged, SubscriptionCreated
from webhook_ingress import objects

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_subscription_carries_its_whole_state(samples: Any) -> None:
    facts = objects.subscription_facts(samples.subscription(cancel_at=1767225600))
    event = objects.build(SubscriptionCreated, facts, cause_id="evt_1", occurred_at=AT, revision=4)
    assert isinstance(event, SubscriptionCreated)
    assert (event.key, event.revision, event.catalogue_version, event.status) == ("s-1", 4, 3, "active")
    assert (event.current_period_start, event.current_period_end) == (datetime(2025, 12, 1, tzinfo=UTC), AT)
    assert [(item.price_id, item.quantity) for item in event.items] == [("price_1", 2), ("price_2", None)]
    assert (event.cancel_at, event.ended_at, event.latest_invoice_id) == (AT, None, "in_1")


@pytest.mark.parametrize(
    ("text", "since"), [("2026-01-01T00:00:00+00:00", AT), (None, None), ("yesterday", None), ("2026-01-01T00:00:00", None)]
)
def test_since_when_the_plan_is_in_force_is_read_from_the_metadata(samples: Any, text: str | None, since: datetime | None) -> None:
    more = {} if text is None else {"turnpike_plan_since": text}
    facts = objects.subscription_facts(samples.subscription(metadata={**samples.metadata, **more}))
    assert facts["plan_since"] == since


@pytest.mark.parametrize(("ends", "cancel_at"), [(False, None), (True, AT)])
def test_the_end_of_a_schedules_phase_is_no_end_of_the_subscription(samples: Any, cancel_at: datetime | None, *, ends: bool) -> None:
    managed = samples.subscription(cancel_at=1767225600, schedule="sub_sched_1", cancel_at_period_end=ends)
    assert objects.subscription_facts(managed)["cancel_at"] == cancel_at


def test_a_price_that_was_added_within_the_period_does_not_begin_a_new_one(samples: Any) -> None:
    subscription = samples.subscription()
    subscription["items"]["data"][0]["current_period_start"] += 86_400
    assert objects.subscription_facts(subscription)["current_period_start"] == datetime(2025, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("metadata", [{}, {"turnpike_subscription_id": "s-1"}, None])
def test_a_subscription_without_our_metadata_is_not_ours(samples: Any, metadata: object) -> None:
    with pytest.raises(objects.NotOursError):
        objects.subscription_facts(samples.subscription(metadata=metadata))


def test_a_catalogue_version_that_is_no_number_is_not_ours(samples: Any) -> None:
    with pytest.raises(objects.NotOursError, match="catalogue_version"):
        objects.subscription_facts(samples.subscription(metadata={**samples.metadata, "turnpike_catalogue_version": "²"}))


def test_an_invoice_carries_exact_lines(samples: Any) -> None:
    facts = objects.invoice_facts(samples.invoice(), objects.Owner("s-1", "a-1"))
    event = objects.build(InvoicePaid, facts, cause_id="evt_1", occurred_at=AT, revision=1)
    assert isinstance(event, InvoicePaid)
    (line,) = event.lines
    assert (line.amount_minor, line.quantity, line.unit_amount_decimal, line.price_id) == (1852, 12345, Decimal("0.15"), "price_2")
    assert (event.total_minor, event.stripe_subscription_id, event.period_end) == (1852, "sub_1", AT)


@pytest.mark.parametrize("parent", [None, {"type": "quote_details", "quote_details": {"quote": "qt_1"}}])
def test_an_invoice_without_a_subscription_is_not_ours(samples: Any, parent: object) -> None:
    with pytest.raises(objects.NotOursError):
        objects.invoice_details(samples.invoice(parent=parent))


def test_an_invoice_after_the_end_says_itself_whose_it_is(samples: Any) -> None:
    owner = {"turnpike_subscription_id": "s-1", "turnpike_account_id": "a-1", "turnpike_stripe_subscription_id": "sub_1"}
    details = objects.invoice_details(samples.invoice(parent=None, metadata=owner))
    assert (details["subscription"], objects.owner_of(details["metadata"])) == ("sub_1", objects.Owner("s-1", "a-1"))
    with pytest.raises(objects.NotOursError):
        objects.invoice_details(samples.invoice(parent=None, metadata={**owner, "turnpike_stripe_subscription_id": ""}))


@pytest.mark.parametrize(("text", "known"), [("6f1f9d43-8d0f-5f0c-9c0e-6b1a5e4f7a10", True), ("by hand", False), (None, False)])
def test_a_line_that_turnpike_added_says_what_it_is_for(samples: Any, text: str | None, known: bool) -> None:
    invoice = samples.invoice()
    invoice["lines"]["data"][0]["metadata"] = {"turnpike_component": "correction", "turnpike_correction_id": text}
    event = objects.build(
        InvoicePaid, objects.invoice_facts(invoice, objects.Owner("s-1", "a-1")), cause_id="evt_1", occurred_at=AT, revision=1
    )
    assert isinstance(event, InvoicePaid)
    assert event.lines[0].component == "correction"
    assert str(event.lines[0].correction_id) == str(text if known else None)


def test_a_customer_tells_the_card_but_nothing_personal(samples: Any) -> None:
    facts = objects.customer_facts(samples.customer(email="somebody@example.org", name="Somebody"))
    event = objects.build(PaymentMethodChanged, facts, cause_id="evt_1", occurred_at=AT, revision=1)
    assert isinstance(event, PaymentMethodChanged)
    assert (event.key, event.default_payment_method_id, event.card_last4) == ("a-1", "pm_1", "4242")
    assert "omebody" not in event.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({}, ("s-1", "a-1")),
        ({"subscription": None}, None),
        ({"subscription": None, "client_reference_id": "s-9"}, ("s-9", "a-1")),
        ({"subscription": None, "metadata": {"turnpike_subscription_id": "s-7", "turnpike_account_id": "a-7"}}, ("s-7", "a-7")),
    ],
)
def test_a_session_belongs_to_whom_it_names_or_to_what_it_made(samples: Any, changes: Any, owner: tuple[str, str] | None) -> None:
    assert objects.session_owner(samples.session(**changes)) == (objects.Owner(*owner) if owner else None)
