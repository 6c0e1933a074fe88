"""A small API whose calls are billed: keys name subscriptions, and the middleware counts what was answered.

TURNPIKE_URL=https://usage.example.com TURNPIKE_KEY=tps_... TURNPIKE_SOURCE=/gateways/one EXAMPLE_KEYS=keys.json python app.py
"""

import hashlib
import json
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from turnpike_asgi import Options, Recorder, TurnpikeMiddleware

# SHA-256 of each consumer's key -> subscription id
KEYS: dict[str, str] = json.loads(Path(os.environ["EXAMPLE_KEYS"]).read_text())
# Only against the sandbox, whose business clock runs ahead of the wall clock.
AHEAD = timedelta(seconds=float(os.environ.get("CLOCK_OFFSET_SECONDS", "0")))


class Authentication:
    """Lets consumers in, and notes whose call it is where the middleware finds it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            key = dict(scope["headers"]).get(b"x-api-key", b"")
            scope["subscription"] = KEYS.get(hashlib.sha256(key).hexdigest())
            if scope["subscription"] is None:
                await JSONResponse({"error": "send a valid key in X-Api-Key"}, 401)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def orders(_: Request) -> Response:
    return JSONResponse([{"id": 1, "total": 12}])


async def order(request: Request) -> Response:
    return JSONResponse({"id": request.path_params["id"], "total": 12})


recorder = Recorder(
    Options(
        url=os.environ["TURNPIKE_URL"],
        key=os.environ["TURNPIKE_KEY"],
        source=os.environ["TURNPIKE_SOURCE"],
        subject=lambda scope: scope.get("subscription"),
        clock=lambda: datetime.now(UTC) + AHEAD,
    )
)
app = Starlette(
    routes=[Route("/orders", orders), Route("/orders/{id:int}", order)],
    middleware=[Middleware(TurnpikeMiddleware, recorder=recorder), Middleware(Authentication)],  # outermost first
)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    print(f"listening {listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
