"""The real SDK against a Stripe of a few lines: what each answer is read as."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from stripe_reporter.domain import Kind, MeterEvent
from stripe_reporter.stripe_gateway import StripeUnavailableError, full_minutes

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
EVENT = MeterEvent(uuid4(), uuid4(), "cus_1", "calls", "mtr_calls", NOON, 1, 7)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [("", "ACKNOWLEDGED"), ("429", "TOO_FAST"), ("401", "KEY_REFUSED"), ("500", "FAILED_ANSWER"), ("silent", "NO_ANSWER")],
)
async def test_an_answer_is_read_for_what_it_means(failure: str, kind: str, gateway: Any, stripe: Any) -> None:
    stripe.failures = [failure]
    assert (await gateway.send(EVENT)).kind is Kind[kind]
    assert len(stripe.calls) == 1, "the ledger repeats, not the SDK"


async def test_an_event_that_stripe_has_already_is_delivered(gateway: Any, stripe: Any) -> None:
    for _ in range(2):
        assert (await gateway.send(EVENT)).kind is Kind.ACKNOWLEDGED
    assert stripe.events == {str(EVENT.identifier): ("calls", "cus_1", 7, int(NOON.timestamp()))}


@pytest.mark.parametrize(("code", "kind"), [("archived_meter", Kind.REJECTED), ("timestamp_in_future", Kind.TOO_EARLY)])
async def test_a_refusal_carries_its_code(code: str, kind: Kind, gateway: Any, stripe: Any) -> None:
    stripe.refused["cus_1"] = code
    answer = await gateway.send(EVENT)
    assert (answer.kind, answer.code) == (kind, code)


async def test_a_sum_is_read_or_said_to_be_unavailable(gateway: Any, stripe: Any) -> None:
    await gateway.send(EVENT)
    asked = {"stripe_meter_id": "mtr_calls", "stripe_customer_id": "cus_1", "start": NOON, "end": NOON + timedelta(hours=1)}
    assert await gateway.sum(**asked) == 7
    stripe.failures = ["401"]
    with pytest.raises(StripeUnavailableError):
        await gateway.sum(**asked)


def test_a_range_is_widened_to_full_minutes() -> None:
    start, end = full_minutes(NOON + timedelta(seconds=59), NOON + timedelta(seconds=61))
    assert (start, end) == (NOON, NOON + timedelta(minutes=2))
    assert full_minutes(NOON, NOON + timedelta(minutes=1)) == (NOON, NOON + timedelta(minutes=1))
