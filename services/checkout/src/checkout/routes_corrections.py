"""Requests in, on the internal port: what a correction would cost and where it would go, and what was charged for which."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.catalogue import UnknownProductError
from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from billing_common.rating import RatingError
from checkout import correction_calls, correction_store, domain, store, store_catalogue
from checkout.charging import DRAFT_KEPT
from checkout.correcting import Change, price_of_change
from checkout.domain import RefusedError

router = APIRouter(prefix="/v1/corrections")
Id = Annotated[str, Field(min_length=1, max_length=256)]


class PreviewRequest(BaseModel):
    """A stretch of one plan with its totals before and after, as the collector answers a dry run."""

    model_config = ConfigDict(extra="forbid")

    subscription_id: Id
    product_id: Id
    catalogue_version: int = Field(ge=1, le=domain.VERSION_MAX)
    segment_start: Moment
    segment_end: Moment | None = None
    after_close: bool
    totals_before: dict[str, Annotated[int, Field(ge=0)]] = Field(max_length=50)
    totals_after: dict[str, Annotated[int, Field(ge=0)]] = Field(max_length=50)


class Preview(BaseModel):
    """`where` None: no amount is put anywhere; `usage`: Stripe bills the period's usage itself."""

    amount_minor: int
    currency: str
    where: Literal["usage", "draft", "next_invoice", "own_invoice"] | None
    invoice_id: str | None = None


class Charge(BaseModel):
    """What one correction of a closed period costs; `state` is that of the call to Stripe."""

    correction_id: str
    subscription_id: str
    kind: str
    segment_start: datetime
    segment_end: datetime
    totals_before: dict[str, int]
    totals_after: dict[str, int]
    amount_minor: int
    currency: str
    description: str
    made_at: datetime
    placed: str | None
    invoice_id: str | None
    state: str
    error: str | None


@router.post("/preview", dependencies=[Depends(require_scope("quotes:read"))])
async def preview(body: PreviewRequest, request: Request) -> Preview:
    """Price a change of usage by the plan of its period."""
    state = request.app.state
    async with state.pool.acquire() as connection:
        subscription = await store.get_subscription(connection, body.subscription_id)
        version = await store_catalogue.get(connection, body.catalogue_version)
    if subscription is None or version is None:
        raise RefusedError(404, "unknown_subscription", "this subscription, or its catalogue version, is not known here")
    change = Change(body.product_id, body.segment_start, body.totals_before, body.totals_after)
    try:
        async with state.pool.acquire() as connection:
            amount = await price_of_change(connection, version, subscription, change)
    except (UnknownProductError, RatingError) as error:
        raise RefusedError(422, "cannot_be_priced", str(error)) from error
    if subscription.free or amount == 0 or subscription.stripe_subscription_id is None:
        return Preview(amount_minor=amount, currency=subscription.currency, where=None)
    if not body.after_close or body.segment_end is None:
        return Preview(amount_minor=amount, currency=subscription.currency, where="usage")
    recent = state.clock.now() - body.segment_end < DRAFT_KEPT
    where, invoice_id = await correction_calls.find(
        state.seller.stripe, subscription.stripe_subscription_id, body.segment_end if recent else None
    )
    return Preview(amount_minor=amount, currency=subscription.currency, where=where, invoice_id=invoice_id)


@router.get("", dependencies=[Depends(require_scope("quotes:read"))])
async def list_charges(
    request: Request, subscription_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[Charge]:
    """Return what corrections of closed periods cost, newest first."""
    rows: list[dict[str, Any]] = await correction_store.listed(request.app.state.pool, subscription_id, limit)
    return [Charge(**row) for row in rows]
