"""Requests in, on the internal port: usage that came after its segment was closed, and a person's word on it."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from usage_collector import late_store

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/late")


class Sums(BaseModel):
    quantity: int
    events: int


class LateUsage(BaseModel):
    """Of one closed segment. `disposition` null: not looked at yet; `decided_by` null: as the plan says."""

    subscription_id: str
    product_id: str
    catalogue_version: int
    segment_start: datetime
    segment_end: datetime
    disposition: Literal["bill", "waive", "keep"] | None
    decided_by: str | None
    pending: bool
    billed: dict[str, Sums] = Field(description="meter id -> what went to the next invoice")
    waived: dict[str, Sums] = Field(description="meter id -> what is not charged")
    held_events: int = Field(description="kept for a person, or too old to bill")


class Decision(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subscription_id: str = Field(min_length=1, max_length=256)
    segment_start: Moment
    disposition: Literal["bill", "waive"]
    by: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00]*\S[^\x00]*$", description="who answers for it; kept here")


@router.get("", dependencies=[Depends(require_scope("usage:read"))])
async def list_late(
    request: Request, subscription_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[LateUsage]:
    """Return closed segments with late usage, the newest first."""
    return [_shown(row) for row in await late_store.listed(request.app.state.pool, subscription_id, limit)]


@router.post("/decisions", status_code=202, dependencies=[Depends(require_scope("usage:write"))])
async def decide(request: Request, body: Decision) -> None:
    """Bill or waive what is kept of a segment, and what still comes of it."""
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        segment_id = await late_store.segment_of(connection, body.subscription_id, body.segment_start)
        if segment_id is None or not await late_store.decide(connection, segment_id, body.disposition, body.by):
            raise HTTPException(404, "no usage came late for this subscription and segment: GET /v1/late lists what did")
    log.warning("late usage decided", subscription_id=body.subscription_id, disposition=body.disposition)


def _shown(row: dict[str, Any]) -> LateUsage:
    sums: dict[str, dict[str, Sums]] = {"billed": {}, "waived": {}}
    for key, (quantity, events) in json.loads(row["sums"]).items():
        disposition, meter_id = key.split(":", 1)
        sums[disposition][meter_id] = Sums(quantity=quantity, events=events)
    return LateUsage(
        subscription_id=row["subscription_id"],
        product_id=row["product_id"],
        catalogue_version=row["catalogue_version"],
        segment_start=row["started_at"],
        segment_end=row["ended_at"],
        disposition=row["disposition"],
        decided_by=row["decided_by"],
        pending=row["pending"],
        held_events=row["held"],
        **sums,
    )
