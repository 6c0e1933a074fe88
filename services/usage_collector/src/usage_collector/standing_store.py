"""What a subscription's running period is made of: every query on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from billing_common.bill_so_far import Stay
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


async def plans(connection: Reader, subscription_id: str, now: datetime) -> list[Stay]:
    """Return the plans that a subscription has been on by now, the first one first."""
    rows = await connection.fetch(
        "select started_at, product_id, catalogue_version from segment where subscription_id = $1 and started_at <= $2 order by started_at",
        subscription_id,
        now,
    )
    return stays_of(rows)


def stays_of(rows: Iterable[Any]) -> list[Stay]:
    """Return the plans of segments in order of time: segments of one plan that follow each other are one."""
    found: list[Stay] = []
    for row in rows:
        before = found[-1] if found else None
        if before is not None and (before.product_id, before.catalogue_version) == (row["product_id"], row["catalogue_version"]):
            continue
        is_new = before is None or before.product_id != row["product_id"]
        if before is not None:
            found[-1] = replace(before, until=row["started_at"])
        found.append(Stay(row["started_at"], None, row["product_id"], row["catalogue_version"], is_new))
    return found


async def usage_since(connection: Reader, subscription_id: str, since: datetime, until: datetime) -> list[tuple[datetime, str, int]]:
    """Return segment start, meter id and what the windows add up to from an instant on, of the segments that begin before another."""
    rows = await connection.fetch(
        "select s.started_at, w.meter_id, sum(w.quantity)::bigint as quantity from segment s join usage_window w on w.segment_id = s.id "
        "where s.subscription_id = $1 and s.started_at < $3 and (s.ended_at is null or s.ended_at > $2) "
        "and greatest(w.hour, s.started_at) >= $2 group by 1, 2",
        subscription_id,
        since,
        until,
    )
    return [(row["started_at"], row["meter_id"], row["quantity"]) for row in rows]


async def segments_of(connection: Connection, subscription_ids: Sequence[str]) -> dict[str, list[Any]]:
    """Return the segments of subscriptions in order of time, each with its subscription's currency and start."""
    rows = await connection.fetch(
        "select s.subscription_id, s.account_id, s.id, s.started_at, s.product_id, s.catalogue_version, u.currency, "
        "coalesce(u.started_at, s.started_at) as began from segment s join subscription u on u.subscription_id = s.subscription_id "
        "where s.subscription_id = any($1::text[]) order by s.subscription_id, s.started_at",
        list(subscription_ids),
    )
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["subscription_id"], []).append(row)
    return found


async def used_in(connection: Connection, segment_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return segment id -> meter id -> what its windows add up to, with what came late for them and is billed."""
    rows = await connection.fetch(
        "select segment_id, meter_id, sum(quantity)::bigint as quantity from (select segment_id, meter_id, quantity from usage_window "
        "where segment_id = any($1::bigint[]) union all select segment_id, meter_id, quantity from late_usage "
        "where segment_id = any($1::bigint[]) and disposition = 'billed') w group by 1, 2",
        list(segment_ids),
    )
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["segment_id"], {})[row["meter_id"]] = row["quantity"]
    return found
