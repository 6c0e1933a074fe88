"""The app the conformance scenarios call: the routes of shapes.json on Starlette, under uvicorn."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from turnpike_asgi import Call, Options, Recorder, TurnpikeMiddleware, Usage
from turnpike_asgi.events import Scope

told: list[list[str]] = []
OK = b'{"ok": true}\n'


def subject(scope: Scope) -> str | None:
    if scope["path"] == "/_stats":
        return None
    return dict(scope["headers"]).get(b"x-subject", b"").decode() or None


def usage(call: Call) -> Usage | None:
    if call.template == "/free":
        return None
    tokens = call.scope.get("state", {}).get("tokens")
    return Usage() if tokens is None else Usage(tokens, meter="tokens", properties={"tokens": tokens})


def make_recorder() -> Recorder:
    return Recorder(
        Options(
            url=os.environ["TURNPIKE_URL"],
            key=os.environ["TURNPIKE_KEY"],
            source=os.environ["TURNPIKE_SOURCE"],
            subject=subject,
            usage=usage,
            on_rejected=lambda event, reason, _: told.append([event["subject"], reason]),
            **json.loads(os.environ.get("TURNPIKE_OPTIONS", "{}")),
        )
    )


async def order(_: Request) -> Response:
    return Response(OK, media_type="application/json")


async def new_order(request: Request) -> Response:
    await request.body()
    return Response(OK, 201, media_type="application/json")


async def delete_order(_: Request) -> Response:
    return Response(status_code=204)


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        await asyncio.sleep(0)
        yield b"x" * 5000


async def stream(_: Request) -> Response:
    return StreamingResponse(_pieces())


async def parts(_: Request) -> Response:
    return StreamingResponse(_pieces(), headers={"content-length": "50000"})


async def fail(_: Request) -> Response:
    raise RuntimeError("as the test wants")


async def tokens(request: Request) -> Response:
    request.state.tokens = int(request.path_params["count"])
    return Response(OK)


def application(recorder: Recorder) -> Starlette:
    async def stats(_: Request) -> Response:
        return JSONResponse({**asdict(recorder.stats()), "told": told})

    routes: list[Any] = [
        Route("/orders/{id}", order, methods=["GET", "HEAD"]),
        Route("/orders/{id}", delete_order, methods=["DELETE"]),
        Route("/orders", new_order, methods=["POST"]),
        Route("/stream", stream),
        Route("/parts", parts),
        Route("/fail", fail),
        Route("/free", order),
        Route("/tokens/{count:int}", tokens, methods=["POST"]),
        Route("/_stats", stats),
    ]
    bare = "TURNPIKE_OFF" in os.environ  # for overhead.py
    return Starlette(routes=routes, middleware=[] if bare else [Middleware(TurnpikeMiddleware, recorder=recorder)])


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    config = uvicorn.Config(application(make_recorder()), log_level="critical", access_log=False)
    print(f"listening {listener.getsockname()[1]}", flush=True)  # noqa: T201 - the driver reads it
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
