"""Requests in, on the internal port: what access a subscription has, and a person's word for held suspensions."""

from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import Caller, require_scope
from subscription_enforcer import store

log = structlog.get_logger(__name__)
router = APIRouter()


class Change(BaseModel):
    revision: int
    access: str
    reason: str
    product_id: str
    effective_at: datetime


class AccessState(BaseModel):
    """`desired` is what should be, `applied` what API Management has confirmed."""

    subscription_id: str
    account_id: str
    user_id: str
    product_id: str
    status: str | None
    desired: str | None
    desired_reason: str
    applied: str | None
    applied_reason: str
    applied_revision: int
    effective_at: datetime | None
    pending: bool
    held: bool
    last_error: str
    changes: list[Change]


class HeldSuspension(BaseModel):
    subscription_id: str
    account_id: str
    product_id: str
    desired_at: datetime


class HeldSuspensions(BaseModel):
    held: list[HeldSuspension]


class Approval(BaseModel):
    """Which held suspensions may happen; all when none is named, so a mistyped name must not pass for none."""

    model_config = ConfigDict(extra="forbid")

    subscription_ids: list[str] | None = Field(default=None, max_length=10_000)


class Approved(BaseModel):
    approved: list[str]


@router.get("/v1/access/{subscription_id}", dependencies=[Depends(require_scope("access:read"))])
async def get_access(request: Request, subscription_id: str) -> AccessState:
    found = await store.get(request.app.state.pool, subscription_id)
    if found is None:
        raise HTTPException(404, f"no subscription {subscription_id[:80]}")
    return AccessState.model_validate(found)


@router.get("/v1/suspensions", dependencies=[Depends(require_scope("access:read"))])
async def list_held(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> HeldSuspensions:
    """Return the suspensions for missing payment that the breaker holds, longest held first."""
    rows = await store.held(request.app.state.pool, limit=limit)
    return HeldSuspensions(held=[HeldSuspension.model_validate(row) for row in rows])


@router.post("/v1/suspensions/approve")
async def approve(
    request: Request, caller: Annotated[Caller, Depends(require_scope("access:write"))], body: Approval | None = None
) -> Approved:
    """Let held suspensions through."""
    approved = await store.approve(request.app.state.pool, caller.name, body.subscription_ids if body else None)
    log.warning("held suspensions approved", by=caller.name, count=len(approved))
    return Approved(approved=approved)
