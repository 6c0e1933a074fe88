"""Thresholds that were announced, and windows that have to be looked at again: every query on them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing_common.db import Connection
from billing_common.events import UsageThresholdReached
from usage_collector.store import Reader

ThresholdKey = tuple[str, datetime, str, str, str, Decimal, int]


def key_of(event: UsageThresholdReached) -> ThresholdKey:
    """Return what is announced once."""
    period = (event.subscription_id, event.period_start, event.meter_id, event.product_id or "")
    return *period, event.kind, event.threshold, event.limit or 0


async def add_thresholds(connection: Connection, reached: Sequence[UsageThresholdReached]) -> list[ThresholdKey]:
    """Remember thresholds; returns the keys of those that were not announced before."""
    rows = await connection.fetch(
        "insert into threshold_reached (subscription_id, period_start, meter_id, product_id, kind, threshold, limit_amount, quantity, "
        "reached_at) select * from unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::numeric[], $7::bigint[], "
        "$8::bigint[], $9::timestamptz[]) as n(subscription_id, period_start, meter_id, product_id, kind, threshold) "
        "where not exists (select from threshold_reached t where t.limit_amount = 0 and (t.subscription_id, t.period_start, t.meter_id, "
        "t.product_id, t.kind, t.threshold) = (n.subscription_id, n.period_start, n.meter_id, n.product_id, n.kind, n.threshold)) "
        "order by 1, 2, 3, 4, 5, 6, 7 on conflict do nothing "
        "returning subscription_id, period_start, meter_id, product_id, kind, threshold, limit_amount",
        *zip(*((*key_of(event), event.quantity, event.occurred_at) for event in reached), strict=True),
    )
    return [tuple(row) for row in rows]


async def keep_for_again(connection: Connection, windows: Sequence[Any]) -> bool:
    """Keep windows whose thresholds are to be looked at again; tells whether any was not kept before."""
    tag = await connection.execute(
        "insert into threshold_again (segment_id, meter_id, hour) select s.id, i.meter_id, i.hour "
        "from unnest($1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[]) as i(subscription_id, started_at, meter_id, hour) "
        "join segment s using (subscription_id, started_at) on conflict do nothing",
        [row["subscription_id"] for row in windows],
        [row["segment_start"] for row in windows],
        [row["meter_id"] for row in windows],
        [row["hour"] for row in windows],
    )
    return not tag.endswith(" 0")


async def subscriptions_again(connection: Reader) -> list[str]:
    rows = await connection.fetch(
        "select distinct s.subscription_id from threshold_again a join segment s on s.id = a.segment_id order by 1"
    )
    return [row["subscription_id"] for row in rows]


async def take_again(connection: Connection, subscription_id: str) -> list[Any]:
    """Return what was kept of a subscription as `pick_dirty` says it, and keep it no longer."""
    rows: list[Any] = await connection.fetch(
        "delete from threshold_again a using segment s join subscription u on u.subscription_id = s.subscription_id "
        "where s.id = a.segment_id and s.subscription_id = $1 returning s.subscription_id, s.account_id, s.product_id, "
        "s.catalogue_version, s.started_at as segment_start, u.started_at, a.meter_id, a.hour",
        subscription_id,
    )
    return rows
