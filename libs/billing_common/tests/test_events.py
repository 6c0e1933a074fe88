"""Events name their subject, derive their id and say who publishes them."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from billing_common.events import ALL_EVENTS, AccountRegistered, Event, SubscriptionCreated, UsageCollected
from billing_common.topics import SERVICES, all_topics

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def registered(cause: str, account: str = "account-1") -> AccountRegistered:
    return AccountRegistered(cause_id=cause, occurred_at=NOON, account_id=account, user_id="user-1")


def test_the_same_cause_gives_the_same_event_id_and_another_cause_another() -> None:
    assert registered("request-1").event_id == registered("request-1").event_id
    assert registered("request-1").event_id != registered("request-2").event_id
    assert registered("request-1").event_id != registered("request-1", account="account-2").event_id


def test_an_event_survives_the_wire_with_its_id() -> None:
    event = registered("request-1")
    assert AccountRegistered.model_validate_json(event.model_dump_json()) == event


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        AccountRegistered(cause_id="x", occurred_at=datetime(2026, 1, 2), account_id="a", user_id="u")  # noqa: DTZ001 - the point of the test


def test_headers_are_the_cloudevents_attributes() -> None:
    event = registered("request-1")
    assert event.headers() == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": str(event.event_id),
        "ce_source": "/turnpike/delegation_gateway",
        "ce_type": "account.registered",
        "ce_subject": "account-1",
        "ce_time": "2026-01-02T12:00:00+00:00",
    }


def test_every_event_class_is_registered_once_with_a_known_publisher() -> None:
    def leaves(kind: type[Event]) -> set[type[Event]]:
        below = kind.__subclasses__()
        return {leaf for one in below for leaf in leaves(one)} if below else {kind}

    assert leaves(Event) == set(ALL_EVENTS)
    assert len({event.topic for event in ALL_EVENTS}) == len(ALL_EVENTS)
    assert {event.publisher for event in ALL_EVENTS} <= set(SERVICES)
    assert {event.topic for event in ALL_EVENTS} <= set(all_topics())


def test_unknown_fields_of_a_newer_publisher_are_ignored() -> None:
    body = registered("request-1").model_dump(mode="json") | {"added_later": 1}
    assert AccountRegistered.model_validate(body) == registered("request-1")


@pytest.mark.parametrize("event", [SubscriptionCreated, UsageCollected])
def test_a_revision_starts_at_one(event: type[Event]) -> None:
    with pytest.raises(ValidationError, match="revision"):
        event.model_validate({"revision": 0})
