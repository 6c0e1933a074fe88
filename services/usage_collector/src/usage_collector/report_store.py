"""How far API Management's reports were read and what of them is counted: every query on that."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from usage_collector.store import Reader


async def lock(connection: Connection) -> None:
    """Let one collector at a time count what the reports have grown by."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('usage_collector.reports'))")


async def read_until(connection: Reader) -> datetime | None:
    found: datetime | None = await connection.fetchval("select read_until from report_progress")
    return found


async def set_read_until(connection: Reader, when: datetime) -> None:
    await connection.execute(
        "insert into report_progress(read_until) values ($1) on conflict (only_row) do update "
        "set read_until = greatest(report_progress.read_until, excluded.read_until)",
        when,
    )


async def stretches_by_reports(connection: Reader, since: datetime, until: datetime) -> list[Any]:
    """Return sid and start of the segments in a range whose product is counted by reports."""
    rows: list[Any] = await connection.fetch(
        "select k.sid, s.started_at from segment s join subscription_key k on k.subscription_id = s.subscription_id "
        "join catalogue_version c on c.version = s.catalogue_version "
        "where s.started_at < $2 and (s.ended_at is null or s.ended_at > $1) and exists(select from "
        "jsonb_array_elements(c.document::jsonb -> 'products') p where p ->> 'id' = s.product_id and p ->> 'source' = 'reports') "
        "order by k.sid, s.started_at",
        since,
        until,
    )
    return rows


async def counted_calls(connection: Connection, bucket: datetime, sids: Sequence[str]) -> dict[str, int]:
    """Return sid -> calls of the bucket that were counted, and lock them."""
    rows = await connection.fetch(
        "select sid, calls from report_bucket where bucket = $1 and sid = any($2::text[]) order by sid for update", bucket, list(sids)
    )
    return {row["sid"]: row["calls"] for row in rows}


async def set_counted_calls(connection: Connection, bucket: datetime, calls: Mapping[str, int]) -> None:
    await connection.execute(
        "insert into report_bucket as b (sid, bucket, calls) select sid, $1, calls from unnest($2::text[], $3::bigint[]) as i(sid, calls) "
        "order by sid on conflict (sid, bucket) do update set calls = greatest(b.calls, excluded.calls)",
        bucket,
        list(calls),
        list(calls.values()),
    )
