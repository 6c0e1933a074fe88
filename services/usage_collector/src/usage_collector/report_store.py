"""How far API Management's reports were read and what of them is counted: every query on that."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from usage_collector.store import Reader

Piece = tuple[str, datetime]  # sid and start of an hour, or of a later segment within it
OF_REPORTS = "join catalogue_version c on c.version = s.catalogue_version"
IS_OF_REPORTS = (
    "exists(select from jsonb_array_elements(c.document::jsonb -> 'products') p "
    "where p ->> 'id' = s.product_id and p ->> 'source' = 'reports')"
)


async def lock(connection: Connection) -> None:
    """Let one collector at a time count what the reports have grown by."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('usage_collector.reports'))")


async def read_until(connection: Reader) -> datetime | None:
    found: datetime | None = await connection.fetchval("select read_until from report_progress")
    return found


async def advance(connection: Reader, *, before: datetime | None, to: datetime) -> None:
    """Remember how far was read, unless somebody moved it meanwhile: then what he wants read is read first."""
    await connection.execute(
        "insert into report_progress(read_until) values ($1) on conflict (only_row) do update "
        "set read_until = excluded.read_until where report_progress.read_until = $2",
        to,
        before,
    )


async def read_again_from(connection: Connection, when: datetime) -> None:
    """Go back to an instant: a segment became known whose calls nobody looked for."""
    await connection.execute("update report_progress set read_until = least(read_until, $1)", when)


async def first_start(connection: Reader) -> datetime | None:
    """Return where the first open segment begins that reports count."""
    found: datetime | None = await connection.fetchval(
        f"select min(s.started_at) from segment s {OF_REPORTS} where s.closed_at is null and {IS_OF_REPORTS}"  # noqa: S608 - constants
    )
    return found


async def stretches_by_reports(connection: Reader, since: datetime, until: datetime) -> list[Any]:
    """Return sid, start and end of the segments in a range whose product is counted by reports, in order of time for each sid."""
    rows: list[Any] = await connection.fetch(
        "select k.sid, s.started_at, s.ended_at from segment s "  # noqa: S608 - constants
        f"join subscription_key k on k.subscription_id = s.subscription_id {OF_REPORTS} "
        f"where s.started_at < $2 and (s.ended_at is null or s.ended_at > $1) and {IS_OF_REPORTS} order by k.sid, s.started_at",
        since,
        until,
    )
    return rows


async def counted_calls(connection: Connection, since: datetime, until: datetime, sids: Sequence[str]) -> dict[Piece, int]:
    """Return (sid, start) -> calls that were counted of the pieces that start in a range, and lock them."""
    rows = await connection.fetch(
        "select sid, bucket, calls from report_bucket where bucket >= $1 and bucket < $2 and sid = any($3::text[]) "
        "order by sid, bucket for update",
        since,
        until,
        list(sids),
    )
    return {(row["sid"], row["bucket"]): row["calls"] for row in rows}


async def set_counted_calls(connection: Connection, calls: Mapping[Piece, int]) -> None:
    await connection.execute(
        "insert into report_bucket as b (sid, bucket, calls) "
        "select sid, bucket, calls from unnest($1::text[], $2::timestamptz[], $3::bigint[]) as i(sid, bucket, calls) "
        "order by 1, 2 on conflict (sid, bucket) do update set calls = greatest(b.calls, excluded.calls)",
        [sid for sid, _ in calls],
        [start for _, start in calls],
        list(calls.values()),
    )
