"""The doors every service has on its internal port: health, metrics, status, clock, dead letters."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from billing_common.clock import ClockError
from billing_common.dead_letters import DeadLetterNotFoundError
from billing_common.internal_auth import Caller, require_scope
from billing_common.messaging import forget_moved, held_events

if TYPE_CHECKING:
    from billing_common.service import Service

OFFSET_SECONDS_MAX = 100 * 366 * 86400  # beyond this a mistyped number would end the calendar, and no clock goes back


def install_doors(service: "Service") -> None:
    """Add them to the service's internal app; the public app gets the two health doors only."""
    for app in service.apps:
        _add_health(app, service)
    _add_metrics(service.internal)
    _add_clock(service.internal, service)
    _add_dead_letters(service.internal)


def _add_health(app: FastAPI, service: "Service") -> None:
    @app.get("/health/live", include_in_schema=False)
    async def live() -> PlainTextResponse:
        return PlainTextResponse("live\n")

    @app.get("/health/ready", include_in_schema=False)
    async def ready() -> JSONResponse:
        reasons = await service.readiness()
        inside = {"held": held_events(datetime.now(UTC))} if app is service.internal else {}
        return JSONResponse({"ready": not reasons, "reasons": reasons, **inside}, status_code=503 if reasons else 200)


def _add_metrics(app: FastAPI) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        forget_moved(datetime.now(UTC))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _add_clock(app: FastAPI, service: "Service") -> None:
    @app.get("/status", dependencies=[Depends(require_scope("status:read"))])
    async def status() -> dict[str, Any]:
        return await service.status()

    @app.put("/clock", dependencies=[Depends(require_scope("clock:write"))])
    async def move_clock(
        offset_seconds: Annotated[float, Body(embed=True, ge=0, le=OFFSET_SECONDS_MAX, allow_inf_nan=False)],
    ) -> dict[str, Any]:
        if not service.clock.offset_allowed:
            raise HTTPException(403, "this service runs on wall time: CLOCK_OFFSET_ALLOWED is off")
        try:
            service.clock.set_offset(timedelta(seconds=offset_seconds))
        except ClockError as error:
            raise HTTPException(409, str(error)) from None
        return {"offset_seconds": service.clock.offset.total_seconds(), "now": service.clock.now().isoformat()}


def _add_dead_letters(app: FastAPI) -> None:
    @app.get("/dead-letters", dependencies=[Depends(require_scope("dead_letters:read"))])
    async def list_dead_letters(
        request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[int | None, Query(ge=0)] = None
    ) -> dict[str, Any]:
        letters = await request.app.state.dead_letters.page(limit=limit, before=before)
        return {"dead_letters": [letter.summary() for letter in letters]}

    @app.get("/dead-letters/{letter_id}", dependencies=[Depends(require_scope("dead_letters:read"))])
    async def show_dead_letter(request: Request, letter_id: str) -> dict[str, Any]:
        try:
            letter = await request.app.state.dead_letters.get(letter_id)
        except DeadLetterNotFoundError:
            raise HTTPException(404, f"no dead letter {letter_id}") from None
        return {**letter.summary(), "headers": letter.headers, "value": letter.value.decode("utf-8", "replace")}

    @app.post("/dead-letters/{letter_id}/requeue")
    async def requeue(
        request: Request, letter_id: str, caller: Annotated[Caller, Depends(require_scope("dead_letters:write"))]
    ) -> dict[str, Any]:
        try:
            letter = await request.app.state.dead_letters.requeue(letter_id, by=caller.name)
        except DeadLetterNotFoundError:
            raise HTTPException(404, f"no dead letter {letter_id}") from None
        return {"requeued": letter_id, "topic": letter.topic}
