"""Calls as others write them: CloudEvents on Kafka, and any JSON by a mapping. Bad records are named by their place, with the reason."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from billing_common.events import derive_id
from billing_common.settings import load_settings
from usage_collector.call_mapping import decode_mapped, parse_mapping
from usage_collector.cloud_events import Limits
from usage_collector.kafka_cloud_events import decode_cloud_events
from usage_collector.properties import digest
from usage_collector.settings import Settings
from usage_collector.streams import ANY_TIME

NOON = datetime(2027, 1, 10, 12, tzinfo=UTC)
QUANTITY_MAX = 1000
MAPPING = {
    "id": "request.id",
    "time": "started_at",
    "sid": ["consumer", "x.key"],
    "method": "request.method",
    "template": "route.paths.0",
    "status": "response.status",
    "responseBytes": "response.size",
    "quantity": "usage.total",
    "meter": {"constant": "calls"},
    "source": {"constant": "/kong"},
    "properties": {"tokens": "usage.tokens", "user": "usage.user"},
}
LOGGED: dict[str, Any] = {
    "request": {"id": "r-1", "method": "GET"},
    "started_at": int(NOON.timestamp() * 1000),
    "consumer": {"x.key": "sub-1"},
    "route": {"paths": ["/orders/{id}", "/o"]},
    "response": {"status": "200", "size": 123},
    "usage": {"total": 3, "tokens": 9, "user": "ada@example.com", "other": "dropped"},
}


COUNTED = frozenset({"user"})  # whose different values some meter counts


def read(*records: bytes | dict[str, Any], mapping: dict[str, Any] = MAPPING) -> Any:
    values = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    return decode_mapped(values, parse_mapping(json.dumps(mapping)), QUANTITY_MAX, COUNTED)


def test_a_record_is_read_as_the_mapping_says() -> None:
    (seen,), bad = read(LOGGED)
    assert bad == []
    assert (seen.origin, seen.source, seen.external_id, seen.sid, seen.at) == ("stream", "/kong", "r-1", "sub-1", NOON)
    assert (seen.quantity, seen.stated_meter, seen.method, seen.template, seen.status) == (3, "calls", "GET", "/orders/{id}", 200)
    assert seen.properties == {"responseBytes": 123, "tokens": 9, "user": digest("user", "ada@example.com")}
    assert seen.id == derive_id("/kong", "r-1", "2027-01-10")


TIMES = [NOON.timestamp(), NOON.timestamp() * 1000, "2027-01-10T12:00:00Z", "2027-01-10T14:00:00+02:00"]


@pytest.mark.parametrize("time", TIMES)
def test_times_are_texts_or_seconds_or_milliseconds(time: float | str) -> None:
    (seen,), _ = read({**LOGGED, "started_at": time})
    assert seen.at == NOON


def test_what_a_record_does_not_say_is_left_out() -> None:
    few = {"id": 7, "time": NOON.isoformat(), "key": None, "status": 0}
    (seen,), bad = read(few, mapping={"id": "id", "time": "time", "sid": "key", "status": "status", "method": "no.where"})
    assert bad == []
    assert (seen.external_id, seen.sid, seen.status, seen.method, seen.quantity, seen.source) == ("7", "", None, None, 1, "calls")


BAD_RECORDS: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "empty": (b"", "not a usage event"),
    "no object": (b"[1]", "not a usage event"),
    "no UTF-8": (b'{"id": "\xff"}', "not a usage event"),
    "nested without end": (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not a usage event"),
    "no id": ({**LOGGED, "request": {}}, 'id (at "request.id"): a text of 1 to 256 characters is needed'),
    "an id that is an object": ({**LOGGED, "request": {"id": {}}}, 'id (at "request.id")'),
    "a key that is a list": ({**LOGGED, "consumer": {"x.key": []}}, 'sid (at "consumer.x.key")'),
    "a time without an offset": ({**LOGGED, "started_at": "2027-01-10T12:00:00"}, 'time (at "started_at"): RFC 3339 with an offset'),
    "a time outside of the calendar": ({**LOGGED, "started_at": 10**300}, 'time (at "started_at")'),
    "no time": ({**LOGGED, "started_at": None}, 'time (at "started_at")'),
    "a status in words": ({**LOGGED, "response": {"status": "fine"}}, 'status (at "response.status"): a whole number from 0'),
    "a status that is none": ({**LOGGED, "response": {"status": 1000}}, "`$.status`"),
    "a method that is a number": ({**LOGGED, "request": {"id": "r", "method": 1}}, "`$.method`"),
    "a negative quantity": ({**LOGGED, "usage": {"total": -1}}, 'quantity (at "usage.total")'),
    "a large quantity": ({**LOGGED, "usage": {"total": QUANTITY_MAX + 1}}, f"quantity must be at most {QUANTITY_MAX}"),
    "a huge property": ({**LOGGED, "usage": {"tokens": 10**30}}, 'properties.tokens (at "usage.tokens")'),
    "a negative property": ({**LOGGED, "usage": {"tokens": -1}}, 'properties.tokens (at "usage.tokens"): a whole number from 0'),
    "a long text whose values are counted": ({**LOGGED, "usage": {"user": "x" * 257}}, 'properties.user (at "usage.user"): a text of 1 to'),
    "an id of more digits than Python reads": (json.dumps(LOGGED).replace('"r-1"', "9" * 4301).encode(), "not a usage event"),
    "a time of more digits than Python reads": (
        json.dumps({**LOGGED, "started_at": 7}).replace("7", "9" * 4301).encode(),
        "not a usage event",
    ),
    "an id of as many digits as Python reads": (json.dumps(LOGGED).replace('"r-1"', "9" * 4300).encode(), "id (at"),
    "a quantity in more digits than Python reads": ({**LOGGED, "usage": {"total": "9" * 4301}}, 'quantity (at "usage.total")'),
    "NUL in a text": ({**LOGGED, "request": {"id": "r\x00"}}, "NUL"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_named_with_its_reason_and_its_neighbours_pass(name: str) -> None:
    record, reason = BAD_RECORDS[name]
    before, after = ({**LOGGED, "request": {"id": name}} for name in ("before", "after"))
    seen, bad = read(before, record, after)
    assert [one.external_id for one in seen] == ["before", "after"]
    assert [place for place, _ in bad] == [1]
    assert reason in str(bad[0][1])


PROPERTIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what a record says -> what goes on
    "a number": ({"tokens": 9, "user": 9}, {"tokens": 9, "user": 9}),
    "digits": ({"tokens": "9", "user": "9"}, {"tokens": 9, "user": digest("user", "9")}),
    "more digits than a number may have": ({"user": str(10**15)}, {"user": digest("user", str(10**15))}),
    "the same where nobody counts the values": ({"tokens": str(10**15)}, {"tokens": digest("tokens", str(10**15))}),
    "more digits than Python reads": ({"tokens": "9" * 4301, "user": "ada"}, {"user": digest("user", "ada")}),
    "leading zeros": ({"tokens": "007", "user": "007"}, {"tokens": digest("tokens", "007"), "user": digest("user", "007")}),
    "digits of another script": ({"user": "\u0661\u0662"}, {"user": digest("user", "\u0661\u0662")}),
    "the empty text": ({"tokens": "", "user": ""}, {}),
    "yes or no": ({"tokens": True, "user": False}, {}),
    "an object and a list": ({"tokens": {}, "user": []}, {}),
    "a fraction": ({"tokens": 9.5}, {}),
    "a whole number written as a fraction": ({"tokens": 9.0}, {"tokens": 9}),
    "a long text that nobody counts": ({"tokens": "x" * 257}, {}),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_of_another_kind_keeps_no_call_from_being_counted(name: str) -> None:
    said, kept = PROPERTIES[name]
    (seen,), bad = read({**LOGGED, "usage": said, "response": {"status": 200}})
    assert bad == []
    assert (seen.properties or {}) == kept


@pytest.mark.parametrize("value", [9, "9", "007", "\u0661", str(10**15), "ada", True, 9.5, {}, None])
def test_a_counted_property_is_the_same_in_a_mapped_record_and_in_a_cloud_event(value: Any) -> None:
    (mapped,), _ = read({**LOGGED, "usage": {"user": value}, "response": {"status": 200}})
    (event,), _ = read_events(structured({**EVENT, "data": {"user": value}}))
    assert mapped.properties == event.properties


def test_nobody_speaks_for_turnpike_itself() -> None:
    _, bad = read({**LOGGED, "from": "turnpike/x"}, mapping={**MAPPING, "source": "from"})
    assert 'source (at "from"): turnpike and all below it' in str(bad[0][1])


WRONG_MAPPINGS: dict[str, tuple[Any, str]] = {
    "empty": ("", "it must be a JSON object"),
    "no JSON": ("{id: x}", "it must be a JSON object"),
    "an unknown field": ({**MAPPING, "url": "x"}, '"url" is no field: use id, time, sid, '),
    "a field is missing": ({"id": "a", "time": "b"}, '"sid" is missing: add a path ("request.id"'),
    "no path": ({**MAPPING, "method": 5}, '"method" has no place: give a path'),
    "an empty step": ({**MAPPING, "method": "a..b"}, '"method" has no place'),
    "another object": ({**MAPPING, "method": {"const": "GET"}}, '{"constant": value}'),
    "a constant id": ({**MAPPING, "id": {"constant": "x"}}, '"id" must be a path'),
    "a constant of the wrong kind": ({**MAPPING, "status": {"constant": "ok"}}, "a constant is wrong: status (a constant)"),
    "a constant status that is none": ({**MAPPING, "status": {"constant": 5}}, "a constant is wrong: data"),
    "our own source": ({**MAPPING, "source": {"constant": "turnpike"}}, "a constant is wrong: source"),
    "properties that are no object": ({**MAPPING, "properties": ["tokens"]}, '"properties" must be an object'),
    "a property named like a field": ({**MAPPING, "properties": {"status": "x"}}, '"properties.status": a name has'),
    "NUL in a name": ({**MAPPING, "properties": {"to\x00kens": "x"}}, "must not hold the character NUL"),
    "a property without a place": ({**MAPPING, "properties": {"tokens": 1}}, '"properties.tokens" has no place'),
}


@pytest.mark.parametrize("name", WRONG_MAPPINGS)
def test_a_wrong_mapping_is_refused_at_start_with_key_and_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping, message = WRONG_MAPPINGS[name]
    environment = {"DATABASE_URL": "postgresql://x", "KAFKA_BOOTSTRAP_SERVERS": "x:1", "INTERNAL_TOKEN_KEYS": "k" * 32}
    environment |= {"CALLS_FORMAT": "mapped", "CALLS_MAPPING": mapping if isinstance(mapping, str) else json.dumps(mapping)}
    for variable, value in environment.items():
        monkeypatch.setenv(f"USAGE_COLLECTOR_{variable}", value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    said = capsys.readouterr().err
    assert said.startswith("setting USAGE_COLLECTOR_CALLS_MAPPING is wrong")
    assert message in said


def test_a_mapping_without_its_format_is_refused() -> None:
    with pytest.raises(ValidationError, match="it is read only with CALLS_FORMAT=mapped"):
        Settings(
            database_url=SecretStr("x"),
            kafka_bootstrap_servers="x",
            internal_token_keys=SecretStr("k" * 32),
            calls_mapping=json.dumps(MAPPING),
        )


# --- CloudEvents -----------------------------------------------------------------------------------------------------------

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/gw",
    "type": "turnpike.usage",
    "subject": "sub-1",
    "time": NOON.isoformat(),
    "data": {"quantity": 3, "meter": "calls", "status": 200, "method": "GET", "template": "/a", "tokens": 9, "user": "ada", "other": "x"},
}


@dataclass
class Record:
    """A record as the Kafka client hands it over."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def structured(event: Any, kind: str = SINGLE) -> Record:
    return Record(json.dumps(event).encode(), (("content-type", kind.encode()),))


def binary(event: dict[str, Any], *more: tuple[str, bytes]) -> Record:
    headers = [(f"ce_{name}", str(value).encode()) for name, value in event.items() if name != "data"]
    return Record(json.dumps(event["data"]).encode(), [*headers, *more])


def read_events(*records: Record) -> Any:
    return decode_cloud_events(records, Limits(*ANY_TIME, QUANTITY_MAX, frozenset(), frozenset({"user"})), 50)


def digits(kind: str, many: int) -> Record:
    """Return an event whose quantity has so many digits."""
    text = json.dumps([EVENT] if kind == BATCH else EVENT).replace('"quantity": 3', f'"quantity": {"9" * many}')
    return Record(text.encode(), (("content-type", kind.encode()),))


FORMS = {
    "structured": structured(EVENT, f"{SINGLE}; charset=UTF-8"),
    "batch": structured([EVENT], BATCH),
    "binary": binary(EVENT, ("content-type", b"application/json")),
    "binary without a content type": binary(EVENT),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_say_the_same(form: str) -> None:
    (seen,), bad = read_events(FORMS[form])
    assert bad == []
    assert (seen.origin, seen.source, seen.external_id, seen.sid, seen.at) == ("stream", "/gw", "e1", "sub-1", NOON)
    assert (seen.quantity, seen.stated_meter, seen.method, seen.template, seen.status) == (3, "calls", "GET", "/a", 200)
    assert seen.properties == {"tokens": 9, "user": digest("user", "ada")}
    assert seen.id == derive_id("/gw", "e1", "2027-01-10")


def test_texts_in_headers_are_taken_as_they_are() -> None:
    name = '"\u00e9\u6f22%41"'
    seen, bad = read_events(binary({**EVENT, "id": name}), structured({**EVENT, "id": name}))
    assert bad == []
    assert [one.external_id for one in seen] == [name, name]


BAD_EVENTS: dict[str, tuple[Record, str]] = {
    "empty": (Record(None, ()), "no CloudEvent: send the header content-type"),
    "the fixed JSON": (Record(b'{"v": 1}', ()), "no CloudEvent"),
    "cut off": (Record(b'{"id": "e', (("content-type", SINGLE.encode()),)), "the body is not JSON"),
    "another type": (
        structured({**EVENT, "type": "order.made"}),
        "event e1: unknown_type: specversion must be 1.0 and type turnpike.usage",
    ),
    "no id": (structured({**EVENT, "id": ""}), "invalid_attribute: id, source and subject need"),
    "no subject": (structured({key: value for key, value in EVENT.items() if key != "subject"}), "`subject`"),
    "no time in binary mode": (binary({key: value for key, value in EVENT.items() if key != "time"}), "`time`"),
    "a time outside of the calendar": (structured({**EVENT, "time": "0001-01-01T00:00:00+14:00"}), "outside of the calendar"),
    "a quantity in words": (structured({**EVENT, "data": {"quantity": "3"}}), "invalid_quantity: data.quantity must be a whole number"),
    "a large quantity": (structured({**EVENT, "data": {"quantity": QUANTITY_MAX + 1}}), "invalid_quantity"),
    "a batch with one bad event": (structured([EVENT, {**EVENT, "id": "e2", "time": 5}], BATCH), "event e2: "),
    "a batch of too many": (structured([EVENT] * 51, BATCH), "at most 50 events"),
    "a header that is not UTF-8": (binary(EVENT, ("ce_id", b"\xff")), "a header is not UTF-8"),
    "another kind of data": (binary(EVENT, ("content-type", b"text/plain")), "in binary mode"),
    "our own source": (structured({**EVENT, "source": "turnpike"}), "Turnpike's own"),
    "a quantity of more digits than Python reads": (digits(BATCH, 4301), "event e1: Integer value out of range"),
    "a quantity of as many digits as Python reads": (digits(SINGLE, 4300), "invalid_quantity"),
    "NUL in a header": (binary({**EVENT, "id": "e\x00"}), "NUL"),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_named_with_its_reason_and_the_next_ones_pass(name: str) -> None:
    record, reason = BAD_EVENTS[name]
    seen, bad = read_events(binary({**EVENT, "id": "before"}), record, structured({**EVENT, "id": "after"}))
    assert [one.external_id for one in seen] == ["before", "after"]
    assert [place for place, _ in bad] == [1]
    assert reason in str(bad[0][1])


def test_the_example_of_the_guide_holds() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "read-another-topic.md").read_text()
    record, mapping = [block.partition("```")[0] for block in guide.split("```json\n")[1:]]
    (seen,), bad = decode_mapped([record.encode()], parse_mapping(mapping), QUANTITY_MAX, frozenset())
    assert bad == []
    assert (seen.source, seen.external_id, seen.sid, seen.status, seen.template) == ("/kong", "7f9c0d0e", "5f0c1c0e", 200, "/orders/{id}")
    assert seen.properties == {"responseBytes": 5120, "tokens": 812}
