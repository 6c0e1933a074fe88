"""Single events as people look at them: of one hour, because that bounds what is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from usage_collector.store import Reader


@dataclass(frozen=True)
class Wanted:
    """What to look for; None: any. Empty text and status 0 stand for events without it."""

    meter_id: str | None = None
    outcome: str | None = None
    origin: str | None = None
    method: str | None = None
    template: str | None = None
    status: int | None = None
    reason: str | None = None
    counted_for: str | None = None  # whose amount is shown, whatever is looked for; None: `meter_id`


async def events(
    connection: Reader, sids: Sequence[str], hour: datetime, wanted: Wanted, *, after: tuple[datetime, UUID], limit: int
) -> list[Any]:
    """Return events of some keys in order of time; `counted` is what an event adds to the meter that is named, else to its first."""
    rows: list[Any] = await connection.fetch(
        "select e.id as key, e.external_id as id, e.source, e.day, e.at, e.sid, e.origin::text, e.method, e.template, e.status, "
        "e.outcome::text, e.reason, e.quantity, "
        "case when $15::text is null or e.meter_id = $15 then e.counted else coalesce(c.counted, 0) end as counted "
        "from usage_event e left join usage_event_meter m on m.day = e.day and m.id = e.id and m.meter_id = $5 "
        "left join usage_event_meter c on c.day = e.day and c.id = e.id and c.meter_id = $15 "
        "where e.day = $1 and e.at >= $2 and e.at < $3 and e.sid = any($4::text[]) "
        "and ($5::text is null or coalesce(e.meter_id, '') = $5 or m.meter_id is not null) and ($6::text is null or e.outcome::text = $6) "
        "and ($7::text is null or e.origin::text = $7) and ($8::text is null or coalesce(e.method, '') = $8) "
        "and ($9::text is null or coalesce(e.template, '') = $9) and ($10::integer is null or coalesce(e.status, 0) = $10) "
        "and ($14::text is null or coalesce(e.reason, '') = $14) and (e.at, e.id) > ($11, $12) order by e.at, e.id limit $13",
        hour.astimezone(UTC).date(),
        hour,
        hour + timedelta(hours=1),
        list(sids),
        wanted.meter_id,
        wanted.outcome,
        wanted.origin,
        wanted.method,
        wanted.template,
        wanted.status,
        *after,
        limit,
        wanted.reason,
        wanted.counted_for or wanted.meter_id,
    )
    return rows
