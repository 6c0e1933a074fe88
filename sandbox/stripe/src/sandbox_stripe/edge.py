"""The API's way in: reads the request, applies faults and limits, and writes the answer to the wire."""

import asyncio
import time
from typing import Any

import structlog
from starlette.types import Message, Receive, Scope, Send

from sandbox_stripe import contract
from sandbox_stripe.api import Answer, Incoming, answer, error_answer
from sandbox_stripe.errors import StripeError
from sandbox_stripe.faults import Fault, status_error
from sandbox_stripe.metrics import FAULTS, REQUESTS, SECONDS
from sandbox_stripe.service import Sandbox
from sandbox_stripe.world import draw

log = structlog.get_logger()


async def serve(sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one API request."""
    started = time.monotonic()
    body = await _read(receive, sandbox.settings.body_bytes_max)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    incoming = Incoming(scope["method"].lower(), scope["path"], scope["query_string"].decode("latin-1"), body or b"", headers)
    if body is None:
        done = error_answer(StripeError(413, "The request is too large."), f"req_{draw(14)}")
    else:
        fault = sandbox.faults.take(incoming.method, incoming.path)
        done = await _answer(sandbox, incoming, fault, started)
        if fault and fault.kind in {"drop", "drop_after_commit"}:
            await _abort(send)
            return
    _observe(incoming, done, time.monotonic() - started)
    await _write(send, done)


async def _answer(sandbox: Sandbox, incoming: Incoming, fault: Fault | None, started: float) -> Answer:
    key = incoming.headers.get("idempotency-key") if incoming.method == "post" else None
    request_id = f"req_{draw(14)}"
    try:
        sandbox.rate_limit.check(incoming.path, started)
        _check_free(sandbox, key)
        if fault:
            FAULTS.labels(fault.kind).inc()
            return await _with_fault(sandbox, incoming, fault, key)
        return _execute(sandbox, incoming)
    except StripeError as error:
        return error_answer(error, request_id)


def _check_free(sandbox: Sandbox, key: str | None) -> None:
    if key and key in sandbox.busy_keys:
        message = "There is currently another in-progress request using this Idempotency Key."
        raise StripeError(409, message, type_="idempotency_error", code="idempotency_key_in_use")


async def _with_fault(sandbox: Sandbox, incoming: Incoming, fault: Fault, key: str | None) -> Answer:
    if fault.kind == "status":
        raise status_error(fault)
    if key:
        sandbox.busy_keys.add(key)
    try:
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
        return Answer(500, b"") if fault.kind == "drop" else _execute(sandbox, incoming)
    finally:
        sandbox.busy_keys.discard(key or "")


def _execute(sandbox: Sandbox, incoming: Incoming) -> Answer:
    """Run the request and let what it caused begin. A fault of our own is a 500 with nothing done."""
    try:
        done = answer(sandbox.world, incoming)
    except Exception:
        log.exception("request_failed", method=incoming.method, path=incoming.path)
        raise StripeError(500, "The sandbox failed to answer this request; its log says why.", type_="api_error") from None
    if incoming.method != "get":
        sandbox.changed()
    return done


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _write(send: Send, done: Answer) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(done.body)).encode())]
    headers += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in done.headers.items()]
    start: Message = {"type": "http.response.start", "status": done.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": done.body})


async def _abort(send: Send) -> None:
    """Cut the connection without an answer, as a network does. Works under uvicorn, whose `send` knows its transport."""
    cycle: Any = getattr(send, "__self__", None)
    cycle.transport.abort()
    await asyncio.sleep(0.01)  # let the server notice that the connection is gone before this request ends


def _observe(incoming: Incoming, done: Answer, seconds: float) -> None:
    operation = contract.find_operation(incoming.method, incoming.path)
    REQUESTS.labels(incoming.method, operation.template if operation else "unknown", str(done.status)).inc()
    SECONDS.observe(seconds)
    log.debug("request", method=incoming.method, path=incoming.path, status=done.status, milliseconds=round(seconds * 1000, 2))
