"""Requests in, on the internal port: the figures that reconciliation compares, and publishing totals once more."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from usage_collector import publishing
from usage_collector.day_figures import DaysAnswer, figures
from usage_collector.rollup_store import HOUR, hour_of
from usage_collector.routes import as_range
from usage_collector.routes_usage import Freshness, freshness

router = APIRouter()
Id = Annotated[str, Field(min_length=1, max_length=256)]


class DaysRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subscriptions: list[Id] = Field(min_length=1, max_length=200)
    since: Moment = Field(alias="from")
    to: Moment
    rolled_up: bool = Field(
        default=False,
        description="leave out hours whose events are not added up yet: for many subscriptions, where each page would read them",
    )


class FreshDays(DaysAnswer):
    freshness: Freshness


class AgainRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subscription_id: Id
    since: Moment = Field(alias="from")
    to: Moment
    closings: bool = Field(
        default=False,
        description="also say the closings of segments that touch the range again: only when all windows of them were checked",
    )


class AgainAnswer(BaseModel):
    windows: int = Field(description="totals that are published as a new revision")
    segments: int = Field(description="closings that are said again, with the totals of now")


@router.post("/v1/reconciliation/days", dependencies=[Depends(require_scope("usage:read"))])
async def get_days(request: Request, body: DaysRequest) -> FreshDays:
    """Return the gateway's count, events by outcome and windows of some subscriptions, day by day; widened to full hours."""
    since, to = as_range(body.since, body.to)
    state = request.app.state
    fresh = freshness(request)
    now = state.clock.now()
    found = await figures(
        state.pool,
        state.collector.directory,
        body.subscriptions,
        hour_of(since),
        hour_of(to - timedelta(microseconds=1)) + HOUR,
        gateway=state.gateway_calls,
        reports_until=now - state.reports_lag,
        rolled_up=body.rolled_up,
        kept_from=(now - state.usage_retention).replace(hour=0, minute=0, second=0, microsecond=0),
    )
    return FreshDays(**found.model_dump(), freshness=fresh)


@router.post("/v1/windows/publish-again", dependencies=[Depends(require_scope("usage:write"))], status_code=202)
async def publish_again(request: Request, body: AgainRequest) -> AgainAnswer:
    """Publish the totals of a range once more, on demand its closings too: whoever has missed one takes it, for others nothing changes."""
    since, to = as_range(body.since, body.to)
    if to - since > timedelta(days=62):
        raise HTTPException(422, "at most 62 days at once")
    state = request.app.state
    windows, segments = await publishing.publish_again(
        state.pool, state.collector.directory, body.subscription_id, since, to, now=state.clock.now(), closings=body.closings
    )
    return AgainAnswer(windows=windows, segments=segments)
