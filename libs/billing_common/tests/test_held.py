"""What is said of an event that holds its partition: where, since when and why, until it works or another process has it."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from billing_common.doors import _add_metrics
from billing_common.messaging import HELD_FORGOTTEN_AFTER, PauseOrPark, held_events
from billing_common.telemetry import RETRIES

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


async def test_a_partition_that_has_moved_to_another_process_is_not_said_to_be_held_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PauseOrPark, "budget_seconds", 0.0)

    async def handler(_: Any) -> None:
        raise LookupError("not there yet")

    for partition in (3, 4):
        message = SimpleNamespace(raw_message=SimpleNamespace(topic=AT[0], partition=partition, offset=17))
        with pytest.raises(LookupError):
            await PauseOrPark(None, context=None)._deliver(handler, message)
    PauseOrPark.held[AT].tried_at -= HELD_FORGOTTEN_AFTER
    app = FastAPI()
    _add_metrics(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inside") as client:
        scraped = (await client.get("/metrics")).text
    assert f'turnpike_event_retries{{partition="3",topic="{AT[0]}"}} 0.0' in scraped
    assert f'turnpike_event_retries{{partition="4",topic="{AT[0]}"}} 1.0' in scraped
    assert AT not in PauseOrPark.held
    PauseOrPark.held.clear()
    RETRIES.labels(AT[0], "4").set(0)
