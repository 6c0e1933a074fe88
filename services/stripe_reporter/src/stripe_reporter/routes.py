"""Requests in, on the internal port: report now, and what was counted against what is at Stripe."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from stripe_reporter import ledger, store
from stripe_reporter.sender import Stripe, wall_now
from stripe_reporter.stripe_gateway import StripeUnavailableError, full_minutes

RANGE_MAX_DAYS = 400

router = APIRouter(prefix="/v1")


class ReportRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subscription_id: str | None = Field(default=None, max_length=100, description="only this subscription")
    retry_rejected: bool = Field(default=False, description="send what Stripe refused once more: its cause was corrected")


class ReportAnswer(BaseModel):
    windows: int = Field(description="windows that are due now")
    retried: int = Field(description="refused meter events that are tried again")


class MeterReconciliation(BaseModel):
    """Where a meter's usage is. windows = acknowledged + in_flight + rejected + unsent + not_billed."""

    meter: str
    event_name: str | None = Field(description="null: this meter is not billed")
    windows: int
    acknowledged: int
    in_flight: int
    rejected: int
    unsent: int
    not_billed: int
    stripe: int | None = Field(description="Stripe's own sum for the customer, read now; null: not billed, or Stripe did not answer")
    stripe_error: str | None = None
    difference: int | None = Field(description="Stripe's sum minus what it acknowledged for the customer")


class Reconciliation(BaseModel):
    """`from` and `to` are widened to full minutes: Stripe's summaries know nothing finer."""

    model_config = ConfigDict(populate_by_name=True)

    subscription_id: str
    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    meters: list[MeterReconciliation]


@router.post("/report", status_code=202, dependencies=[Depends(require_scope("reports:write"))])
async def report(request: Request, asked: ReportRequest | None = None) -> ReportAnswer:
    """Make everything unreported due now; /status tells when it is done."""
    asked = asked or ReportRequest()
    state = request.app.state
    async with state.pool.acquire() as connection, connection.transaction():
        retried = await ledger.reopen_rejected(connection, asked.subscription_id, wall_now()) if asked.retry_rejected else 0
        windows = await store.pull_all(connection, state.clock.now(), asked.subscription_id)
    state.wake.set()
    return ReportAnswer(windows=windows, retried=retried)


@router.get("/reconciliation", dependencies=[Depends(require_scope("reports:read"))])
async def reconciliation(
    request: Request,
    subscription_id: Annotated[str, Query(min_length=1, max_length=100)],
    start: Annotated[Moment, Query(alias="from")],
    end: Annotated[Moment, Query(alias="to")],
) -> Reconciliation:
    """Compare windows, ledger and Stripe's summaries for one subscription and range."""
    try:
        start, end = full_minutes(start, end)
    except OverflowError:  # the first or last day of the calendar, in another zone
        end = start
    if not 0 < (end - start).total_seconds() <= RANGE_MAX_DAYS * 86400:
        raise HTTPException(422, f"`to` must be after `from`, by at most {RANGE_MAX_DAYS} days")
    async with request.app.state.pool.acquire() as connection:
        rows = await ledger.reconcile(connection, subscription_id, start, end)
    meters = [await _with_stripe(request.app.state.stripe, row, start, end) for row in rows]
    return Reconciliation(subscription_id=subscription_id, start=start, end=end, meters=meters)


async def _with_stripe(stripe: Stripe, row: dict[str, Any], start: datetime, end: datetime) -> MeterReconciliation:
    customer, meter_id, expected = (row.pop(name) for name in ("stripe_customer_id", "stripe_meter_id", "customer_acknowledged"))
    at_stripe, problem = None, None
    if customer is not None and meter_id is not None:
        try:
            at_stripe = await stripe.sum(stripe_meter_id=meter_id, stripe_customer_id=customer, start=start, end=end)
        except StripeUnavailableError as error:
            problem = str(error)
    difference = None if at_stripe is None else at_stripe - expected
    return MeterReconciliation(**row, stripe=at_stripe, stripe_error=problem, difference=difference)
