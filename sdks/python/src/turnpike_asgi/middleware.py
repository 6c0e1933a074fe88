"""The ASGI middleware: sees an answer pass, and lets its end through once the event is durable."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from turnpike_asgi.events import Call, Scope
from turnpike_asgi.recorder import Recorder
from turnpike_asgi.templates import template_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")
BODILESS = frozenset({204, 205, 304})
BYPASSES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})  # ways of sending that would not pass by here
FAILED, LEFT = 500, 499


class TurnpikeMiddleware:
    """Counts every HTTP request of the app it wraps: `app.add_middleware(TurnpikeMiddleware, recorder=Recorder(Options(...)))`."""

    def __init__(self, app: App, recorder: Recorder) -> None:
        self.app = app
        self.recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, self._lifespan(send))
        else:
            await self.app(scope, receive, send)

    def _lifespan(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await asyncio.to_thread(self.recorder.start)
            elif message["type"].startswith("lifespan.shutdown."):
                await asyncio.to_thread(self.recorder.close)
            await send(message)

        return wrapped


class _Exchange:
    """One request and its answer."""

    def __init__(self, middleware: TurnpikeMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware, self._scope, self._receive, self._send = middleware, scope, receive, send
        self._app = scope.get("app") or middleware.app
        self._root_path = str(scope.get("root_path", ""))
        self._method = str(scope["method"])
        self._started = time.monotonic()
        self._request_length = _content_length(scope.get("headers", ()))
        self._request_bytes = 0
        self._response_bytes = 0
        self._response_length: int | None = None
        self._status: int | None = None
        self._recorded = False
        self._left = False

    async def run(self) -> None:
        extensions = self._scope.get("extensions")
        if extensions:
            self._scope["extensions"] = {name: value for name, value in extensions.items() if name not in BYPASSES}
        try:
            await self._middleware.app(self._scope, self._count_request, self._pass)
        except asyncio.CancelledError:
            await asyncio.shield(self._record(LEFT if self._status is None else self._status))
            raise
        except Exception:
            await self._record(self._status if self._left and self._status is not None else FAILED)
            raise
        if self._status is None:
            await self._record(FAILED)  # the server answers for an app that did not

    async def _count_request(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._request_bytes += len(message.get("body", b""))
        return message

    async def _pass(self, message: Message) -> None:
        """Let a part of the answer through; before what completes it the event is made durable."""
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
            self._response_length = _content_length(message.get("headers", ()))
            if self._method == "HEAD" or self._status in BODILESS or self._response_length == 0:
                await self._record(self._status)
        elif message["type"] == "http.response.body":
            self._response_bytes += len(message.get("body", b""))
            whole = self._response_length is not None and self._response_bytes >= self._response_length
            if whole or not message.get("more_body", False):
                await self._record(self._status or FAILED)
        try:
            await self._send(message)
        except OSError:  # how servers say that the client is gone
            self._left = True
            raise

    async def _record(self, status: int) -> None:
        if self._recorded:
            return
        self._recorded = True
        call = Call(
            scope=self._scope,
            method=self._method,
            template=template_of(self._scope, self._app, self._root_path),
            status=status,
            request_bytes=self._request_bytes if self._request_length is None else self._request_length,
            response_bytes=0 if self._method == "HEAD" else self._response_bytes,
            duration_ms=round((time.monotonic() - self._started) * 1000),
        )
        await self._middleware.recorder.record(call)


def _content_length(headers: Any) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None
