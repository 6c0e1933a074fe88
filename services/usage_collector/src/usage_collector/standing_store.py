"""What a subscription's running period is made of: every query on it."""

from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from usage_collector.store import Reader


@dataclass(frozen=True)
class Running:
    """The newest segment of a subscription that has begun. `started_at` is the subscription's."""

    subscription_id: str
    account_id: str
    reported: bool
    currency: str | None
    started_at: datetime
    segment_start: datetime
    segment_end: datetime | None
    reason: str
    product_id: str
    catalogue_version: int
    ended: bool


async def set_currency(connection: Connection, subscription_id: str, currency: str) -> None:
    await connection.execute("update subscription set currency = $2 where subscription_id = $1", subscription_id, currency)


async def running(connection: Reader, subscription_id: str, now: datetime) -> Running | None:
    row = await connection.fetchrow(
        "select s.subscription_id, u.account_id, u.reported, u.currency, coalesce(u.started_at, s.started_at) as started_at, "
        "s.started_at as segment_start, s.ended_at as segment_end, s.reason, s.product_id, s.catalogue_version, "
        "s.ended_at is not null and s.ended_at <= $2 as ended "
        "from segment s join subscription u on u.subscription_id = s.subscription_id where s.subscription_id = $1 and s.started_at <= $2 "
        "order by s.started_at desc limit 1",
        subscription_id,
        now,
    )
    return Running(**dict(row)) if row else None


async def totals_since(connection: Reader, subscription_id: str, segment_start: datetime, since: datetime) -> dict[str, int]:
    """Return meter id -> what the windows of a segment add up to from an hour on."""
    rows = await connection.fetch(
        "select w.meter_id, sum(w.quantity)::bigint as quantity from segment s join usage_window w on w.segment_id = s.id "
        "where s.subscription_id = $1 and s.started_at = $2 and greatest(w.hour, s.started_at) >= $3 group by 1",
        subscription_id,
        segment_start,
        since,
    )
    return {row["meter_id"]: row["quantity"] for row in rows}
