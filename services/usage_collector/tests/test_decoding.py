"""Bytes of the streams: good records pass whatever stands beside them, poison is named by its place."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from billing_common.events import derive_id
from usage_collector.decoding import decode_calls, decode_recorded


def record(**more: Any) -> bytes:
    values = {"v": 1, "id": "r-1", "time": "2027-01-10T23:59:59.9999999Z", "sid": "sub-1", "product": "payg", "api": "orders"}
    values |= {"operation": "get", "method": "GET", "template": "/orders/{id}", "status": 200, "requestBytes": 0, "responseBytes": 123}
    return json.dumps(values | more).encode()


POISON = {
    "empty": b"",
    "cut off": record()[:-5],
    "no id": json.dumps({"v": 1, "time": "2027-01-10T12:00:00Z"}).encode(),
    "another version": record(v=2),
    "a time without a zone": record(time="2027-01-10T12:00:00"),
    "a time outside of the calendar": record(time="0001-01-01T00:00:00+14:00"),
    "a status that is text": record(status="200"),
    "NUL in a text": record(template="/a\x00"),
    "an endless text": record(sid="x" * 600),
    "two objects": record() + b"," + record(),
    "nested without end": b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no UTF-8": b'{"id": "\xff"}',
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_named_and_its_neighbours_pass(name: str) -> None:
    seen, bad = decode_calls([record(id="before"), POISON[name], record(id="after")])
    assert [one.external_id for one in seen] == ["before", "after"]
    assert [place for place, _ in bad] == [1]


def test_a_call_becomes_an_observation() -> None:
    (seen,), _ = decode_calls([record(time="2027-01-11T01:00:00+02:00")])
    assert (seen.at, seen.day.isoformat(), seen.sid, seen.status) == (datetime(2027, 1, 10, 23, tzinfo=UTC), "2027-01-10", "sub-1", 200)
    assert (seen.method, seen.template, seen.properties) == ("GET", "/orders/{id}", {"responseBytes": 123})
    assert seen.id == derive_id("apim", "r-1", "2027-01-10")


def test_a_call_without_subscription_or_status_is_still_an_event() -> None:
    (seen,), bad = decode_calls([record(sid=None, status=None, template=None, method=None)])
    assert (seen.sid, seen.status, bad) == ("", None, [])


def test_one_bad_event_makes_its_whole_record_poison_and_no_other() -> None:
    good = {"id": "1", "source": "/gw", "subject": "s", "time": "2027-01-10T12:00:00Z", "data": {"quantity": 5, "tokens": 9}}
    values = [json.dumps([good]).encode(), json.dumps([good, {**good, "data": {"quantity": -1}}]).encode()]
    seen, bad = decode_recorded(values)
    assert [(one.quantity, one.properties) for one in seen] == [(5, {"tokens": 9})]
    assert [place for place, _ in bad] == [1]
