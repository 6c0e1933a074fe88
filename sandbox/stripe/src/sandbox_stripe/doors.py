"""Doors beside the API: clock, status, faults, webhooks, health and metrics. No page of Stripe's has them."""

from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox_stripe.errors import Json, StripeError, invalid
from sandbox_stripe.events import roll_secret
from sandbox_stripe.faults import read_fault
from sandbox_stripe.metrics import WAITING
from sandbox_stripe.service import Sandbox
from sandbox_stripe.webhooks import Mode

BODY_BYTES_MAX = 65_536
LOG_ROWS_MAX = 500
DELIVERY_COLUMNS = "id, event, event_type, object, endpoint, state, attempts, last_status, last_error, delivered_wall"


def sandbox_of(request: Request) -> Sandbox:
    found: Sandbox = request.app.state.sandbox
    return found


async def read_json(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise StripeError(413, "The request is too large.")
    try:
        return orjson.loads(bytes(body) or b"{}")
    except orjson.JSONDecodeError:
        raise invalid("Expected JSON.") from None


async def get_clock(request: Request) -> Response:
    return JSONResponse(sandbox_of(request).clock())


async def put_clock(request: Request) -> Response:
    sandbox = sandbox_of(request)
    given = await read_json(request)
    offset = given.get("offset_seconds") if isinstance(given, dict) else None
    if not isinstance(offset, int | float) or isinstance(offset, bool) or not 0 <= offset <= sandbox.settings.clock_offset_max_seconds:
        raise invalid(f"`offset_seconds` must be a number from 0 to {sandbox.settings.clock_offset_max_seconds}.", "offset_seconds")
    if not sandbox.set_offset(offset):
        raise StripeError(409, f"The business clock only moves forward; its offset is {sandbox.world.offset()} s.")
    return JSONResponse(sandbox.clock())


async def get_status(request: Request) -> Response:
    return JSONResponse(sandbox_of(request).status())


async def get_faults(request: Request) -> Response:
    return JSONResponse({"data": sandbox_of(request).faults.shown()})


async def post_fault(request: Request) -> Response:
    fault = read_fault(await read_json(request))
    sandbox_of(request).faults.active.append(fault)
    return JSONResponse({"id": fault.id}, 201)


async def delete_faults(request: Request) -> Response:
    """Remove one fault (`?id=`), or all."""
    faults, id_ = sandbox_of(request).faults, request.query_params.get("id")
    before = len(faults.active)
    faults.active = [fault for fault in faults.active if id_ and fault.id != id_]
    return JSONResponse({"removed": before - len(faults.active)})


async def get_webhooks(request: Request) -> Response:
    """Answer the newest deliveries, newest first, and the mode."""
    sandbox = sandbox_of(request)
    sql = f"SELECT {DELIVERY_COLUMNS} FROM deliveries ORDER BY id DESC LIMIT ?"  # noqa: S608 - the columns are a constant
    names = DELIVERY_COLUMNS.split(", ")
    rows = [dict(zip(names, row, strict=True)) for row in sandbox.world.store.execute(sql, LOG_ROWS_MAX)]
    return JSONResponse({"mode": vars(sandbox.sender.mode), "data": rows})


async def post_webhooks(request: Request) -> Response:
    """Set how webhooks misbehave: `{"mode": {"duplicate", "reverse", "hold", "drop"}}`."""
    sandbox = sandbox_of(request)
    given = await read_json(request)
    found = given.get("mode") if isinstance(given, dict) else None
    mode: Json = found if isinstance(found, dict) else {}
    if set(mode) - {"duplicate", "reverse", "hold", "drop"} or not all(isinstance(value, int) for value in mode.values()):
        raise invalid("`mode` takes `duplicate`, `reverse`, `hold` (true or false) and `drop` (a number).", "mode")
    sandbox.sender.set_mode(Mode(bool(mode.get("duplicate")), bool(mode.get("reverse")), bool(mode.get("hold")), int(mode.get("drop", 0))))
    return JSONResponse({"mode": vars(sandbox.sender.mode)})


async def release_webhooks(request: Request) -> Response:
    return JSONResponse({"released": sandbox_of(request).sender.release()})


async def roll(request: Request) -> Response:
    sandbox = sandbox_of(request)
    with sandbox.world.store.transaction():
        secret = roll_secret(sandbox.world, sandbox.world.get("webhook_endpoint", request.path_params["id"]))
    return JSONResponse({"secret": secret})


async def live(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    sandbox = sandbox_of(request)
    sandbox.world.store.execute("SELECT 1").fetchone()
    return JSONResponse(
        {"status": "ready" if not sandbox.problems else "not ready", "reasons": sandbox.problems}, 503 if sandbox.problems else 200
    )


async def metrics(request: Request) -> Response:
    WAITING.set(sandbox_of(request).sender.waiting())
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def on_stripe_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StripeError)
    return JSONResponse(error.body(), error.status)


ROUTES = [
    Route("/_sandbox/clock", get_clock, methods=["GET"]),
    Route("/_sandbox/clock", put_clock, methods=["PUT"]),
    Route("/_sandbox/status", get_status, methods=["GET"]),
    Route("/_sandbox/faults", get_faults, methods=["GET"]),
    Route("/_sandbox/faults", post_fault, methods=["POST"]),
    Route("/_sandbox/faults", delete_faults, methods=["DELETE"]),
    Route("/_sandbox/webhooks", get_webhooks, methods=["GET"]),
    Route("/_sandbox/webhooks", post_webhooks, methods=["POST"]),
    Route("/_sandbox/webhooks/release", release_webhooks, methods=["POST"]),
    Route("/_sandbox/webhooks/{id}/roll", roll, methods=["POST"]),
    Route("/health/live", live),
    Route("/health/ready", ready),
    Route("/metrics", metrics),
]
