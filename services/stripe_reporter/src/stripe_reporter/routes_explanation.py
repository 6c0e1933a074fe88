"""Requests in, on the internal port: why an invoice says what it says, as a tree that adds up and as CSV."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from stripe_reporter import explaining, explanation_csv
from stripe_reporter.collector_gateway import CollectorRefusedError, CollectorUnavailableError, CollectorUnknownError
from stripe_reporter.explaining import Day, InvoiceExplained, Known, UnknownInvoiceError, UnknownUsageError

router = APIRouter(prefix="/v1/explanations/{invoice}", dependencies=[Depends(require_scope("reports:read"))])


class EventQuery(BaseModel):
    """Which events of one hour of a usage; names as the day's answer has them."""

    usage: str = Field(description="`key` of the usage")
    hour: Moment
    meter_id: str | None = None
    outcome: str | None = None
    reason: str | None = None
    origin: str | None = None
    method: str | None = None
    template: str | None = None
    status: int | None = Field(default=None, ge=0, le=999)
    after: str | None = Field(default=None, max_length=100, description="`next` of the page before")
    limit: int = Field(default=100, ge=1, le=1000)


class EventRow(BaseModel):
    """One event as it was received, and what it counted for the meter."""

    id: str
    source: str
    day: str
    at: datetime
    origin: str
    method: str | None
    template: str | None
    status: int | None
    outcome: str
    reason: str | None
    quantity: int
    counted: int


class Events(BaseModel):
    events: list[EventRow]
    next: str | None


async def known_invoice(request: Request, invoice: str) -> Known:
    return await explaining.load(request.app.state.pool, invoice)


Found = Annotated[Known, Depends(known_invoice)]


@router.get("")
async def explain(request: Request, known: Found) -> InvoiceExplained:
    """Explain all lines of an invoice (Stripe's id or its number), usage down to days, and what did not count."""
    return await explaining.explain(known, request.app.state.collector)


@router.get("/day")
async def explain_day(request: Request, known: Found, usage: Annotated[str, Query(max_length=300)], day: Moment) -> Day:
    """Show the hours of one day of a usage, with what each endpoint added and what did not count."""
    return await explaining.explain_day(known, usage, day, request.app.state.collector)


@router.get("/events")
async def events(request: Request, known: Found, asked: Annotated[EventQuery, Query()]) -> Events:
    """Return the events behind one hour, page by page."""
    wanted: dict[str, Any] = asked.model_dump(mode="json", exclude={"usage"})
    return Events(**await explaining.events(known, asked.usage, wanted, request.app.state.collector))


@router.get("/csv", response_class=StreamingResponse)
async def as_csv(request: Request, known: Found, level: Literal["endpoints", "events"] = "endpoints") -> StreamingResponse:
    """Stream all of it as CSV: by hour and endpoint, or event by event."""
    rows = explanation_csv.as_csv(known, request.app.state.collector, with_events=level == "events")
    return StreamingResponse(rows, media_type="text/csv; charset=utf-8")


def install_errors(app: FastAPI) -> None:
    """Say what is not known, and what to do when the collector does not answer."""

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, UnknownInvoiceError):
            return JSONResponse({"detail": "no such invoice is known: give Stripe's id (in_...) or the invoice's number"}, 404)
        return JSONResponse({"detail": "the invoice has no such usage, or not at this time"}, 404)

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    async def away(_: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the usage collector does not answer: try again in a few seconds"}, 503, {"Retry-After": "5"})

    for kind in (UnknownInvoiceError, UnknownUsageError, CollectorUnknownError):
        app.add_exception_handler(kind, unknown)
    app.add_exception_handler(CollectorRefusedError, refused)
    app.add_exception_handler(CollectorUnavailableError, away)
