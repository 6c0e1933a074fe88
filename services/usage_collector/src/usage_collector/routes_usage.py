"""Requests in, on the internal port: how usage is made up, single events, and where a subscription stands. Each says how fresh it is."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, Field

from billing_common.events import NIL
from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from usage_collector import event_views, rollup_store, subscription_store, window_store
from usage_collector.rollup_store import Dimension
from usage_collector.routes import From, as_range
from usage_collector.standing import PeriodStanding, standing

router = APIRouter(prefix="/v1/usage", dependencies=[Depends(require_scope("usage:read"))])


class Freshness(BaseModel):
    """`staleness_seconds`: everything that was in the streams that long ago is in the figures, those of an incomplete answer included."""

    as_of: datetime
    staleness_seconds: float
    unread_records: int | None


class SplitRow(BaseModel):
    """One combination of what was asked for; the other names are null. `events` count for this meter, `distinct` in one row only."""

    hour: datetime | None = None
    day: datetime | None = None
    origin: str | None = None
    method: str | None = None
    template: str | None = None
    status: int | None = Field(default=None, description="0: none")
    outcome: str | None = None
    reason: str | None = None
    segment_start: datetime | None = None
    meter_id: str = Field(description="empty: counts for none")
    distinct: int
    events: int
    quantity: int


class SplitAnswer(BaseModel):
    """`complete_until` not null: events of hours from then on were too many to add up in time; they are in the totals all the same."""

    subscription_id: str
    rows: list[SplitRow]
    complete_until: datetime | None
    freshness: Freshness


class EventQuery(BaseModel):
    """Which events of an hour. Names are matched as the split answers them: empty text or 0 for none, absent for any."""

    hour: Moment
    meter_id: str | None = None
    outcome: str | None = None
    reason: str | None = None
    origin: str | None = None
    method: str | None = None
    template: str | None = None
    status: int | None = Field(default=None, ge=0, le=999)
    counted_for: str | None = Field(default=None, description="meter whose amount `counted` is; absent: `meter_id`, else the event's first")
    after: str = Field(default="", max_length=100, description="`next` of the page before")
    limit: int = Field(default=100, ge=1, le=1000)


class EventRow(BaseModel):
    """One event as it was received, and what it counted for the meter."""

    id: str = Field(description="as its sender named it")
    source: str
    day: date
    at: datetime
    sid: str
    origin: str
    method: str | None
    template: str | None
    status: int | None
    outcome: str
    reason: str | None
    quantity: int = Field(description="as it was sent")
    counted: int = Field(description="with the meter's weight; 0 where it did not count")
    next: str = Field(description="`after` of the page that begins behind this event")


class EventsAnswer(BaseModel):
    """Events of one hour in order of time; `next` null: that was all."""

    events: list[EventRow]
    next: str | None


class StandingAnswer(PeriodStanding):
    freshness: Freshness


async def sids_of(request: Request, subscription_id: str) -> list[str]:
    async with request.app.state.pool.acquire() as connection:
        if await window_store.subscription_row(connection, subscription_id) is None:
            raise HTTPException(404, "no usage is known of this subscription")
        return await subscription_store.keys_of(connection, [subscription_id])


def freshness(request: Request) -> Freshness:
    seconds, unread = request.app.state.positions.freshness()
    return Freshness(as_of=request.app.state.clock.now(), staleness_seconds=round(seconds, 3), unread_records=unread)


@router.get("/{subscription_id}/standing")
async def get_standing(request: Request, subscription_id: str) -> StandingAnswer:
    """Return usage, bill so far, projected bill with its basis and remaining quota of the running period."""
    state = request.app.state
    fresh = freshness(request)
    async with state.pool.acquire() as connection:
        found = await standing(connection, state.collector.directory, subscription_id, now=state.clock.now())
    if found is None:
        raise HTTPException(404, "no usage is known of this subscription")
    return StandingAnswer(**found.model_dump(), freshness=fresh)


@router.get("/{subscription_id}/split")
async def get_split(
    request: Request,
    subscription_id: str,
    since: From,
    to: Moment,
    by: Annotated[list[Dimension], Query(min_length=1, max_length=6)],
) -> SplitAnswer:
    """Add events up by any of hour, day, endpoint, status, outcome and segment; `from` and `to` are widened to full hours."""
    since, to = as_range(since, to)
    until = rollup_store.hour_of(to - timedelta(microseconds=1)) + rollup_store.HOUR
    sids, fresh = await sids_of(request, subscription_id), freshness(request)
    async with request.app.state.pool.acquire() as connection:
        found = await rollup_store.split(connection, sids, rollup_store.hour_of(since), until, list(dict.fromkeys(by)))
    rows = [SplitRow(**row) for row in found.rows]
    if found.complete_until is not None:
        behind = (fresh.as_of - found.complete_until).total_seconds()
        fresh = fresh.model_copy(update={"staleness_seconds": max(fresh.staleness_seconds, round(behind, 3))})
    return SplitAnswer(subscription_id=subscription_id, rows=rows, complete_until=found.complete_until, freshness=fresh)


@router.get("/{subscription_id}/events")
async def get_events(request: Request, subscription_id: str, asked: Annotated[EventQuery, Query()]) -> EventsAnswer:
    """Return the events of one hour, page by page."""
    hour = rollup_store.hour_of(asked.hour)
    wanted = event_views.Wanted(**asked.model_dump(exclude={"hour", "after", "limit"}))
    place = _place(asked.after) if asked.after else (hour, NIL)
    sids = await sids_of(request, subscription_id)
    async with request.app.state.pool.acquire() as connection:
        rows = await event_views.events(connection, sids, hour, wanted, after=place, limit=asked.limit + 1)
    shown = [_event(row) for row in rows[: asked.limit]]
    return EventsAnswer(events=shown, next=shown[-1].next if len(rows) > asked.limit else None)


def _place(after: str) -> tuple[datetime, UUID]:
    at, _, event_id = after.partition("/")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), UUID(event_id)
    except (ValueError, OverflowError):
        raise HTTPException(422, "`after` is not one that an earlier page named as `next`") from None


def _event(row: Any) -> EventRow:
    return EventRow(**{name: row[name] for name in EventRow.model_fields if name != "next"}, next=f"{row['at'].isoformat()}/{row['key']}")
