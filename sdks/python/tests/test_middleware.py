"""What passes the middleware: order, shapes of answers, and that nothing in it harms the app."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from turnpike_asgi import Call, ConfigurationError, Options, Recorder, TurnpikeMiddleware, Usage
from turnpike_asgi.spool import Spool

from .conftest import MakeRecorder

Asgi = Callable[..., Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": []}


def scope_of(method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": "/raw/path", "headers": [(b"x-subject", b"sub-1")], "root_path": "", **more}


def events(recorder: Recorder) -> list[dict[str, Any]]:
    spool = Spool(recorder.options.folder)
    found = [json.loads(stored.body) for stored in spool.read(1000, 1 << 30)]
    spool.close()
    return found


async def run(recorder: Recorder, app: Asgi, scope: dict[str, Any] | None = None) -> list[tuple[dict[str, Any], int]]:
    """Return what the server gets, each part with the number of events that were durable by then."""
    passed: list[tuple[dict[str, Any], int]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"12345", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        passed.append((message, len(events(recorder))))

    await TurnpikeMiddleware(app, recorder)(scope or scope_of(), receive, send)  # type: ignore[arg-type]
    return passed


def answering(*messages: dict[str, Any]) -> Asgi:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def test_the_event_is_durable_before_the_last_part_leaves(make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()
    passed = await run(recorder, answering(START, body(b"abc", more=True), body(b"de")))
    assert [durable for _, durable in passed] == [0, 0, 1]
    data = events(recorder)[0]["data"]
    assert (data["requestBytes"], data["responseBytes"], data["status"], data["method"]) == (5, 5, 200, "GET")


async def test_a_stated_length_says_which_part_is_the_last(make_recorder: MakeRecorder) -> None:
    start = {**START, "headers": [(b"content-length", b"5")]}
    passed = await run(make_recorder(), answering(start, body(b"abc", more=True), body(b"de", more=True), body(b"")))
    assert [durable for _, durable in passed] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("method", "start"),
    [
        ("HEAD", {**START, "headers": [(b"content-length", b"900")]}),
        ("GET", {**START, "status": 204}),
        ("GET", {**START, "status": 304}),
        ("GET", {**START, "headers": [(b"Content-Length", b"0")]}),
    ],
)
async def test_an_answer_without_a_body_is_complete_with_its_head(make_recorder: MakeRecorder, method: str, start: dict[str, Any]) -> None:
    recorder = make_recorder()
    passed = await run(recorder, answering(start, body(b"")), scope_of(method))
    assert [durable for _, durable in passed] == [1, 1]
    assert events(recorder)[0]["data"]["responseBytes"] == 0


async def test_what_fails_is_recorded_as_500_and_raised(make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()

    async def breaks(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"ab", more=True))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await run(recorder, breaks)
    await run(recorder, answering())
    assert [event["data"]["status"] for event in events(recorder)] == [500, 500]


async def test_a_client_that_left_is_counted_as_answered_or_as_499(make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()

    async def waits(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(30)

    waiting = asyncio.create_task(run(recorder, waits))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def gone(_: Any) -> None:
        raise OSError("client is gone")

    with pytest.raises(OSError, match="gone"):
        await TurnpikeMiddleware(answering(START, body(b"ab", more=True)), recorder)(scope_of(), _nothing, gone)
    assert [event["data"]["status"] for event in events(recorder)] == [499, 200]


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_errors_of_the_apps_own_functions_never_reach_the_answer(make_recorder: MakeRecorder) -> None:
    told: list[str] = []

    def raises(*_: Any) -> Any:
        raise KeyError("no such tenant")

    for options in ({"subject": raises}, {"usage": raises}, {"template": raises}, {"clock": raises}):
        passed = await run(make_recorder(**options, on_error=lambda kind, _: told.append(kind)), answering(START, body(b"ok")))
        assert len(passed) == 2
    passed = await run(make_recorder(usage=lambda _: Usage(quantity=-1), on_error=raises), answering(START, body(b"ok")))
    assert len(passed) == 2
    assert told == ["record"] * 4


async def test_who_is_not_named_is_not_counted_but_seen(make_recorder: MakeRecorder) -> None:
    async def nobody(_: Any) -> None:
        return None

    recorder = make_recorder(subject=nobody)
    await run(recorder, answering(START, body(b"ok")))
    assert (events(recorder), recorder.stats().unattributed) == ([], 1)
    recorder = make_recorder(usage=lambda _: None)
    await run(recorder, answering(START, body(b"ok")))
    assert events(recorder) == []


async def test_ways_of_sending_that_would_pass_by_are_taken_from_the_app(make_recorder: MakeRecorder) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["extensions"])
        await answering(START, body(b"ok"))(scope, receive, send)

    extensions = {"http.response.pathsend": {}, "http.response.debug": {}}
    await run(make_recorder(), app, scope_of(extensions=extensions))
    assert set(seen) == {"http.response.debug"}


async def test_other_kinds_of_connections_pass_untouched(make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()
    passed = await run(recorder, answering({"type": "websocket.close"}), {"type": "websocket"})
    assert (passed[0][0]["type"], events(recorder)) == ("websocket.close", [])


async def test_templates_of_mounts_and_included_routers_never_hold_a_raw_path(make_recorder: MakeRecorder) -> None:
    async def page(_: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    fast, inner = FastAPI(), APIRouter(prefix="/inner/{t}")
    inner.get("/orders/{id}")(lambda: "ok")
    fast.include_router(inner, prefix="/v1")
    fast.mount("/tenants/{tenant}", Starlette(routes=[Route("/things/{thing}", page), Mount("/deep", routes=[Route("/{x:path}", page)])]))
    recorder = make_recorder()
    fast.add_middleware(TurnpikeMiddleware, recorder=recorder)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=fast), base_url="http://app") as client:
        for path in ("/v1/inner/jane/orders/3", "/tenants/acme/things/9", "/tenants/acme/deep/a/b", "/none"):
            await client.get(path, headers={"x-subject": "sub-1"})
    assert [event["data"].get("template") for event in events(recorder)] == [
        "/v1/inner/{t}/orders/{id}",
        "/tenants/{tenant}/things/{thing}",
        "/tenants/{tenant}/deep/{x}",
        None,
    ]


async def test_a_call_counts_as_the_app_says(make_recorder: MakeRecorder) -> None:
    def usage(call: Call) -> Usage:
        return Usage(quantity=call.response_bytes, meter="bytes")

    recorder = make_recorder(usage=usage, template=lambda scope: "/mine")
    await run(recorder, answering(START, body(b"four")))
    data = events(recorder)[0]["data"]
    assert (data["quantity"], data["meter"], data["template"]) == (4, "bytes", "/mine")


GOOD: dict[str, Any] = {"url": "https://usage.example.com", "key": "tps_x", "source": "/a", "subject": lambda _: None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "usage.example.com"),
        ("url", "ftp://usage.example.com"),
        ("key", " "),
        ("key", "tps_ä"),
        ("source", ""),
        ("source", "a b"),
        ("subject", None),
        ("spool_bytes_max", 10),
        ("batch_events_max", 1001),
        ("when_full", "wait"),
        ("durability", "none"),
    ],
)
def test_a_wrong_option_is_named_at_the_start(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Options(**{**GOOD, name: value})


def test_a_spool_that_cannot_be_made_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="spool_folder"):
        Recorder(Options(**GOOD, spool_folder=tmp_path / "file" / "spool"))


def test_the_address_is_the_collectors_with_or_without_the_path() -> None:
    assert Options(**GOOD).address == "https://usage.example.com/v1/events"
    assert Options(**{**GOOD, "url": "http://127.0.0.1:4500/v1/events"}).address == "http://127.0.0.1:4500/v1/events"
