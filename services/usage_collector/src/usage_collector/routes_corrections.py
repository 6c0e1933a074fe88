"""Requests in, on the internal port: corrections of usage, and the list of them."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from usage_collector import correction_store, corrections
from usage_collector.correction_store import Correction
from usage_collector.corrections import Adjustment, CorrectionRefusedError, Deletion, Made
from usage_collector.metering import COUNTED_MAX

router = APIRouter(prefix="/v1/corrections")
SHOWN = timedelta(days=90)
Id = Annotated[str, Field(min_length=1, max_length=256)]
Words = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*\S[^\x00]*$")]
Author = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*\S[^\x00]*$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subscription_id: Id
    reason: Words = Field(description="why; kept here and shown in the list, never published")
    by: Author = Field(description="who; as for the reason")
    dry_run: bool = Field(default=False, description="say what it would change, and change nothing")


class AdjustmentRequest(Body):
    meter: Id
    quantity: int = Field(ge=-COUNTED_MAX, le=COUNTED_MAX, description="what is added, negative to take away; never 0")
    at: Moment = Field(description="the time of the usage: decides the hour and the period")
    correction_id: UUID | None = Field(default=None, description="absent: derived from all other fields")


class DeletionRequest(Body):
    source: Id
    id: Id = Field(description="the sender's id of the event")
    day: date = Field(description="UTC day of the event's time")


class Segment(BaseModel):
    start: datetime
    end: datetime | None
    product_id: str
    catalogue_version: int
    closed: bool


class CorrectionAnswer(BaseModel):
    """`state`: made now, known (made before: nothing was changed) or tried (dry run). Totals are those of the segment."""

    correction_id: UUID
    state: Literal["made", "known", "tried"]
    kind: str
    place: Literal["window", "invoice"] = Field(description="window: the running totals follow; invoice: the period was closed before")
    amounts: dict[str, int]
    at: datetime
    hour: datetime
    hour_before: dict[str, int]
    segment: Segment
    totals_before: dict[str, int]
    totals_after: dict[str, int]


class Listed(BaseModel):
    correction_id: UUID
    kind: str
    subscription_id: str
    place: Literal["window", "invoice"]
    amounts: dict[str, int]
    at: datetime
    source: str | None
    id: str | None
    reason: str
    by: str
    made_at: datetime


@router.post("/adjustments", dependencies=[Depends(require_scope("usage:write"))])
async def adjust(request: Request, body: AdjustmentRequest) -> CorrectionAnswer:
    """Add a signed quantity to a meter. Asked again with the same words it changes nothing."""
    if body.quantity == 0:
        raise HTTPException(422, "`quantity` is 0: nothing would change")
    state = request.app.state
    wanted = Adjustment(body.subscription_id, body.meter, body.quantity, body.at, body.reason, body.by, body.correction_id)
    try:
        return _answer(await corrections.adjust(state.collector, wanted, now=state.clock.now(), dry_run=body.dry_run))
    except CorrectionRefusedError as error:
        raise HTTPException(error.status, str(error)) from None


@router.post("/deletions", dependencies=[Depends(require_scope("usage:write"))])
async def delete(request: Request, body: DeletionRequest) -> CorrectionAnswer:
    """Take one event out of what was counted. Asked again it changes nothing."""
    state = request.app.state
    wanted = Deletion(body.subscription_id, body.source, body.id, body.day, body.reason, body.by)
    try:
        return _answer(await corrections.delete(state.collector, wanted, now=state.clock.now(), dry_run=body.dry_run))
    except CorrectionRefusedError as error:
        raise HTTPException(error.status, str(error)) from None


@router.get("", dependencies=[Depends(require_scope("usage:read"))])
async def list_corrections(
    request: Request,
    subscription_id: str | None = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    to: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Listed]:
    """Return corrections by when they were made, newest first; of 90 days unless said otherwise."""
    state = request.app.state
    until = to or state.clock.now() + timedelta(seconds=1)
    found = await correction_store.listed(state.pool, subscription_id, since or until - SHOWN, until, limit)
    return [_listed(one) for one in found]


def _place(correction: Correction) -> Literal["window", "invoice"]:
    return "invoice" if correction.after_close else "window"


def _answer(made: Made) -> CorrectionAnswer:
    correction, place = made.correction, made.place
    return CorrectionAnswer(
        correction_id=correction.correction_id,
        state=made.state,
        kind=correction.kind,
        place=_place(correction),
        amounts=correction.amounts,
        at=correction.at.astimezone(UTC),
        hour=correction.hour,
        hour_before=made.hour_before,
        segment=Segment(
            start=place.started_at,
            end=place.ended_at,
            product_id=place.product_id,
            catalogue_version=place.catalogue_version,
            closed=place.closed,
        ),
        totals_before=made.totals_before,
        totals_after=made.totals_after,
    )


def _listed(correction: Correction) -> Listed:
    return Listed(
        correction_id=correction.correction_id,
        kind=correction.kind,
        subscription_id=correction.subscription_id,
        place=_place(correction),
        amounts=correction.amounts,
        at=correction.at,
        source=correction.source,
        id=correction.external_id,
        reason=correction.reason,
        by=correction.author,
        made_at=correction.made_at,
    )
