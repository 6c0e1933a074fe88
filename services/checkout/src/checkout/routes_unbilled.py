"""Requests in, on the internal port: usage that a final invoice does not bill, what became of it, and a person's word on it."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from checkout import correction_store, unbilled

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/unbilled")


class Unbilled(BaseModel):
    """Usage of one meter and service period. `disposition` keep: it waits for a person; `state` is that of the call to Stripe."""

    unbilled_id: str
    subscription_id: str
    of_invoice: str = Field(description="the final invoice that does not bill it: its number, or Stripe's id")
    period_start: datetime
    period_end: datetime
    meter_id: str
    billed: int
    counted: int
    amount_minor: int
    currency: str
    description: str
    disposition: Literal["bill", "waive", "keep"]
    decided_by: str | None = Field(description="null: as the plan says")
    made_at: datetime
    placed: str | None
    invoice_id: str | None
    state: str
    error: str | None


class Decision(BaseModel):
    model_config = ConfigDict(extra="forbid")

    unbilled_id: UUID
    disposition: Literal["bill", "waive"]
    by: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00]*\S[^\x00]*$", description="who answers for it; kept here")


@router.get("", dependencies=[Depends(require_scope("quotes:read"))])
async def list_unbilled(
    request: Request, subscription_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[Unbilled]:
    """Return usage that final invoices did not bill, newest first."""
    return [_shown(row) for row in await correction_store.unbilled(request.app.state.pool, subscription_id, limit)]


@router.post("/decisions", status_code=202, dependencies=[Depends(require_scope("usage:write"))])
async def decide(request: Request, body: Decision) -> None:
    """Bill or waive what is kept."""
    state = request.app.state
    async with state.pool.acquire() as connection, connection.transaction():
        charge = await unbilled.decide(connection, body.unbilled_id, body.disposition, by=body.by, now=state.clock.now())
    log.warning("missing usage decided", subscription_id=charge.subscription_id, disposition=body.disposition)


def _shown(row: dict[str, Any]) -> Unbilled:
    ((meter_id, billed),) = row["totals_before"].items()
    named = {name: row[name] for name in Unbilled.model_fields if name in row}
    return Unbilled(
        **named,
        unbilled_id=row["correction_id"],
        period_start=row["segment_start"],
        period_end=row["segment_end"],
        meter_id=meter_id,
        billed=billed,
        counted=row["totals_after"][meter_id],
    )
