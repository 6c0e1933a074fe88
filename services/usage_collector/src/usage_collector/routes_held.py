"""Requests in, on the internal port: what waits because nobody can say yet whose usage it is, or by which plan."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from billing_common.internal_auth import require_scope

router = APIRouter(prefix="/v1/held")
# Keys of a subscription differ behind "_" (billing_common.key_sids).
HELD = """
    select h.sid, e.source, coalesce(e.reason, '') as reason, count(*) as events, min(e.at) as first_at, max(e.at) as last_at
    from held_event h join usage_event e on e.day = h.day and e.id = h.id
    where $1::text is null or h.sid = $1 or split_part(h.sid, '_', 1) = $1
    group by 1, 2, 3 order by 5, 1, 2, 3 limit $2
"""


class Held(BaseModel):
    sid: str = Field(description="what the events name: a subscription, or one of its keys")
    source: str
    reason: str
    events: int
    first_at: datetime
    last_at: datetime


@router.get("", dependencies=[Depends(require_scope("usage:read"))])
async def get_held(request: Request, subscription_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Held]:
    """Events that wait, oldest first, added up by whom they name, who sent them and why they wait."""
    rows = await request.app.state.pool.fetch(HELD, subscription_id, limit)
    return [Held(**row) for row in rows]
