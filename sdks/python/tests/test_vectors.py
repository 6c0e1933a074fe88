"""The pure parts say what the vectors say that all SDKs share."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from turnpike_asgi.answers import ahead_pause, backoff, judge
from turnpike_asgi.events import Call, Usage, UsageError, build, instant

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "conformance" / "vectors.json").read_text())
NOW = datetime.fromisoformat(VECTORS["now"])
CALL = VECTORS["events"][0]["call"]


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["says"])
def test_an_event(vector: dict[str, Any]) -> None:
    call = Call(scope={}, **vector.get("call", CALL))
    subject = vector["subject"] if "subject" in vector else "x" * vector["subject_of"]
    usage = Usage(**vector["usage"])
    if vector.get("error"):
        with pytest.raises(UsageError):
            build(call, usage, source="/s", subject=subject, event_id="1", now=NOW)
        return
    event = json.loads(build(call, usage, source="/s", subject=subject, event_id="1", now=NOW))
    assert event.pop("data") == vector["data"]
    fixed = {"specversion": "1.0", "id": "1", "source": "/s", "type": "turnpike.usage", "time": "2027-01-10T12:30:00.000Z"}
    assert event == {**fixed, "subject": subject}


def test_times() -> None:
    for vector in VECTORS["times"]:
        assert instant(datetime.fromtimestamp(vector["milliseconds"] / 1000, UTC)) == vector["text"]


@pytest.mark.parametrize("vector", VECTORS["answers"], ids=lambda vector: vector["says"])
def test_an_answer(vector: dict[str, Any]) -> None:
    given = {"retry-after": "retry_after", "date": "date"}
    headers = {name: vector[field] for name, field in given.items() if field in vector}
    body = vector["text"].encode() if "text" in vector else json.dumps(vector["body"]).encode()
    verdict = judge(vector["status"], headers, body, events=vector["events"], now=NOW)
    assert verdict.action == vector["action"]
    assert [[one.place, one.reason, one.message] for one in verdict.refusals] == vector.get("refusals", [])
    assert [one.place for one in verdict.ahead] == vector.get("ahead", [])
    if "answered_at" in vector:
        assert verdict.answered_at == datetime.fromisoformat(vector["answered_at"])
    assert verdict.wait_seconds == vector.get("wait_seconds", 0)
    assert verdict.problem == vector.get("problem", verdict.problem)


@pytest.mark.parametrize("vector", VECTORS["ahead"], ids=lambda vector: vector["time"])
def test_a_pause_of_what_is_ahead(vector: dict[str, Any]) -> None:
    assert ahead_pause(datetime.fromisoformat(vector["time"]), NOW, timedelta(days=34)) == vector["seconds"]


@pytest.mark.parametrize("vector", VECTORS["backoff"])
def test_a_pause(vector: dict[str, Any]) -> None:
    pause = backoff(vector["attempt"], first_seconds=vector["first"], longest_seconds=vector["longest"], random=vector["random"])
    assert pause == pytest.approx(vector["seconds"])
