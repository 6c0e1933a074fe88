"""The door's rules, as tables of cases."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import stripe as stripe_sdk

from webhook_ingress import domain

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b'{"id": "evt_1"}'
TOLERANCE = timedelta(seconds=300)


def header(secret: str, body: bytes = BODY, at: datetime = NOW) -> str:
    """Sign the way Stripe's own SDK does."""
    return str(stripe_sdk.WebhookSignature.generate_signature_header(body.decode(), secret, int(at.timestamp())))


def check(value: str | None, body: bytes = BODY) -> None:
    domain.check_signature(body, value, ("whsec_old", "whsec_new"), now=NOW, tolerance=TOLERANCE)


@pytest.mark.parametrize("secret", ["whsec_old", "whsec_new"])
def test_a_signature_with_either_secret_is_good(secret: str) -> None:
    check(header(secret))


def test_one_good_signature_among_several_is_enough() -> None:
    second = header("whsec_new").partition(",")[2]
    check(f"{header('whsec_other')},{second},v0=00")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        ("nonsense", "not of the form"),
        ("t=1,v0=aa", "not of the form"),
        ("t=999999999999,v1=aa", "not of the form"),  # a year that no calendar here has
        (f"t=1,{header('whsec_old')}", "not of the form"),
        ("t=١٢,v1=aa", "not of the form"),
        (f"t={int(NOW.timestamp())},v1=é", "no signature matches"),
        (header("whsec_other"), "no signature matches"),
        (header("whsec_old", b'{"id":"evt_1"}'), "no signature matches"),
        (header("whsec_old", at=NOW - timedelta(seconds=301)), "too old"),
        (header("whsec_old", at=NOW + timedelta(seconds=301)), "too old or from the future"),
    ],
)
def test_anything_else_is_refused_with_a_reason(value: str | None, reason: str) -> None:
    with pytest.raises(domain.SignatureError, match=reason):
        check(value)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_edge_of_the_tolerance_is_inside(seconds: int) -> None:
    check(header("whsec_old", at=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize(
    ("kind", "subject", "about"),
    [
        ("customer.subscription.updated", {"id": "sub_1"}, ("subscription", "sub_1")),
        ("invoice.paid", {"id": "in_1"}, ("invoice", "in_1")),
        ("payment_method.attached", {"id": "pm_1", "customer": "cus_1"}, ("customer", "cus_1")),
        ("payment_method.attached", {"id": "pm_1", "customer": None}, (None, None)),
        ("customer.updated", {"id": "cus_1"}, ("customer", "cus_1")),
        ("checkout.session.expired", {"id": "cs_1"}, ("session", "cs_1")),
        ("invoice.paid", {"id": "../../x"}, (None, None)),
        ("charge.refunded", {"id": "ch_1"}, (None, None)),
    ],
)
def test_an_event_names_what_to_fetch(kind: str, subject: object, about: tuple[str | None, str | None]) -> None:
    event = domain.read_event(json.dumps({"id": "evt_1", "type": kind, "created": 1, "data": {"object": subject}}).encode())
    assert (event.kind, event.object_id) == about


def test_a_thin_event_is_kept() -> None:
    event = domain.read_event(
        b'{"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.x", "created": "2026-01-01T00:00:00Z"}'
    )
    assert (event.kind, event.created) == (None, NOW)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b"[" * 100_000, b'{"id": 1, "type": "a", "created": 1}', b'{"id": "evt_1", "type": "a\\u0000b", "created": 1}',
     b'{"id": "evt_1", "type": "a", "created": 1e999}', b'{"id": "evt_1", "type": "a"}',
     b'{"id": "evt_1", "type": "a", "created": "soon"}',
     b'{"id": "evt_1", "type": "a", "created": "0001-01-01T00:00:00+14:00"}'],
)  # fmt: skip
def test_what_is_not_an_event_is_refused(body: bytes) -> None:
    with pytest.raises(domain.MalformedEventError):
        domain.read_event(body)


def test_pauses_grow_to_a_minute() -> None:
    assert [domain.pause_seconds(tries) for tries in (0, 1, 3, 7, 1000)] == [0.5, 1, 4, 60, 60]


@pytest.mark.parametrize(("newest", "days"), [(None, 30), (NOW - timedelta(days=400), 30), (NOW - timedelta(days=2), 2.5), (NOW, 0.5)])
def test_recovery_asks_for_gapless_slices_from_the_oldest_on(newest: datetime | None, days: float) -> None:
    slices = domain.recovery_slices(newest=newest, now=NOW, overlap=timedelta(hours=12))
    assert slices[0][0] == NOW - timedelta(days=days)
    assert slices[-1][1] > NOW
    assert all(before[1] == after[0] for before, after in pairwise(slices))
    assert all(end - start <= timedelta(days=5, seconds=1) for start, end in slices)
