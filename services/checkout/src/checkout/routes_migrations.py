"""Requests in, on the internal port: move subscribers to the price of a newer catalogue, and see how far that is."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from billing_common.internal_auth import require_scope
from billing_common.plan_changes import When
from checkout import migrating, store_catalogue, store_changes
from checkout.domain import RefusedError
from checkout.routes_catalogue import read_catalogue

router = APIRouter()
Timing = Annotated[Literal["now", "next-period"], Query(description="now: with proration on the next invoice; next-period: without any")]


@router.post("/v1/migrations/plan", dependencies=[Depends(require_scope("catalogue:read"))])
async def plan(request: Request, when: Timing) -> dict[str, Any]:
    """Show who would move to the catalogue in the body, when, and at what proration. Nothing is touched."""
    state = request.app.state
    found = await migrating.plan(state.pool, await read_catalogue(request), when=_when(when), now=state.clock.now())
    return {"when": when, **found.public()}


@router.post("/v1/migrations", dependencies=[Depends(require_scope("catalogue:write"))])
async def start(request: Request, when: Timing) -> dict[str, Any]:
    """Begin to move those who pay an older price to the applied catalogue. Once more goes on with those who are left."""
    state = request.app.state
    version = await store_catalogue.latest(state.pool)
    if version is None:
        raise RefusedError(409, "no_catalogue", "no catalogue has been applied yet")
    found = await migrating.start(state.pool, version, when=_when(when), now=state.clock.now())
    return {"when": when, "version": version.version, **found.public()}


@router.get("/v1/migrations", dependencies=[Depends(require_scope("catalogue:read"))])
async def show(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """Return the newest moves and where they stand: those under way or failed first."""
    return {"migrations": await store_changes.recent(request.app.state.pool, asked_by="provider", limit=limit)}


def _when(timing: str) -> When:
    return "now" if timing == "now" else "period_end"
