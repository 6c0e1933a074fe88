"""What is said of an event that holds its partition: where, since when and why, until it works or another process has it."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from billing_common.messaging import PauseOrPark, held_events

AT = ("usage.collected", 3, 17)
MESSAGE = SimpleNamespace(raw_message=SimpleNamespace(topic=AT[0], partition=AT[1], offset=AT[2]))


def seen(later: float) -> list[dict[str, Any]]:
    return [one for one in held_events(datetime.now(UTC) + timedelta(seconds=later)) if one["topic"] == AT[0]]


async def test_an_event_that_is_tried_again_is_named_until_it_works() -> None:
    named = []

    async def handler(_: Any) -> str:
        named.append((seen(0), seen(30), seen(90)))
        if len(named) < 3:
            raise LookupError("not there yet")
        return "done"

    started = datetime.now(UTC)
    assert await PauseOrPark(None, context=None)._deliver(handler, MESSAGE) == "done"
    assert [young for young, _, _ in named] == [[], [], []], "what works again in a moment is nobody's matter"
    assert [[(one["partition"], one["tries"], one["error"]) for one in held] for _, held, _ in named] == [
        [],
        [(3, 1, "LookupError")],
        [(3, 2, "LookupError")],
    ]
    assert [gone for _, _, gone in named] == [[], [], []], "another process may have it by now"
    assert timedelta(0) <= datetime.fromisoformat(named[2][1][0]["since"]) - started < timedelta(seconds=1)
    assert seen(30) == []


async def test_since_when_outlives_a_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PauseOrPark, "budget_seconds", 0.0)

    async def handler(_: Any) -> None:
        raise LookupError("not there yet")

    for tries in (1, 2):
        with pytest.raises(LookupError):
            await PauseOrPark(None, context=None)._deliver(handler, MESSAGE)
        assert [one["tries"] for one in seen(30)] == [tries]
    PauseOrPark.held.pop(AT)
