"""How far API Management's reports were read and what of them is counted: every query on that."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a piece, in which reading of it."""

    calls: int = 0
    reading: int = 0


@dataclass(frozen=True, slots=True)
class Grown:
    """How many calls of a piece are counted now, and the time they are of."""

    sid: str
    start: datetime
    calls: int
    since: datetime
    until: datetime


def piece_name(sid: str, start: datetime, reading: int) -> str:
    """Return how the sender's ids of a piece's events begin. Each reading has its own, so that it is counted once and apart."""
    return f"{sid}:{start.isoformat()}:" + (f"{reading}:" if reading else "")


async def lock(connection: Connection) -> None:
    """Let one collector at a time count what the reports have grown by."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('usage_collector.reports'))")


async def read_until(connection: Reader) -> datetime | None:
    found: datetime | None = await connection.fetchval("select read_until from report_progress")
    return found


async def begin(connection: Reader, when: datetime) -> None:
    """Note where the first round begins, so that who goes back during it is heard."""
    await connection.execute("insert into report_progress(read_until) values ($1) on conflict do nothing", when)


async def advance(connection: Reader, *, before: datetime, to: datetime) -> None:
    """Remember how far was read, unless somebody moved it meanwhile. What changed during the round is read again with the next."""
    await connection.execute(
        "update report_progress set read_until = least($1, again_from), again_from = null where read_until = $2", to, before
    )


async def read_again_from(connection: Connection, when: datetime) -> None:
    """Go back to an instant: calls from there on have become somebody's, or somebody else's."""
    await connection.execute("update report_progress set read_until = least(read_until, $1), again_from = least(again_from, $1)", when)


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


async def counted_calls(connection: Connection, since: datetime, until: datetime, sids: Sequence[str]) -> dict[Piece, Counted]:
    """Return (sid, start) -> what was counted of the pieces that start in a range, and lock them."""
    rows = await connection.fetch(
        "select sid, bucket, calls, reading from report_bucket where bucket >= $1 and bucket < $2 and sid = any($3::text[]) "
        "order by sid, bucket for update",
        since,
        until,
        list(sids),
    )
    return {(row["sid"], row["bucket"]): Counted(row["calls"], row["reading"]) for row in rows}


async def set_counted_calls(connection: Connection, grown: Sequence[Grown]) -> None:
    await connection.execute(
        "insert into report_bucket as b (sid, bucket, calls, counted_from, counted_until) select * "
        "from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]) order by 1, 2 "
        "on conflict (sid, bucket) do update set calls = greatest(b.calls, excluded.calls), "
        "counted_from = excluded.counted_from, counted_until = excluded.counted_until",
        [one.sid for one in grown],
        [one.start for one in grown],
        [one.calls for one in grown],
        [one.since for one in grown],
        [one.until for one in grown],
    )


async def take_back_pieces(connection: Connection, subscription_id: str, since: datetime) -> list[Any]:
    """Begin the count of the pieces anew that reach beyond an instant; returns their sid, start, end and reading until now.

    What a closed segment has stays.
    """
    rows: list[Any] = await connection.fetch(
        "with taken as (select b.sid, b.bucket, b.reading, "
        "coalesce(b.counted_until, date_trunc('hour', b.bucket, 'UTC') + interval '1 hour') as until "
        "from report_bucket b join subscription_key k on k.sid = b.sid cross join lateral (select coalesce(b.counted_from, "
        "greatest(b.bucket, (select min(started_at) from segment where subscription_id = $1 and coalesce(ended_at > b.bucket, true)))) "
        "as at) began where k.subscription_id = $1 and b.calls > 0 "
        "and b.bucket >= date_trunc('hour', $2::timestamptz, 'UTC') and not exists (select from segment s "
        "where s.subscription_id = $1 and s.closed_at is not null and s.started_at <= began.at and s.ended_at > began.at) for update of b) "
        "update report_bucket b set calls = 0, reading = b.reading + 1 from taken t "
        "where b.sid = t.sid and b.bucket = t.bucket and t.until > $2 returning t.*",
        subscription_id,
        since,
    )
    return rows


async def take_back_events(connection: Connection, sid: str, prefix: str, since: datetime, until: datetime) -> list[Any]:
    """Make a piece's events ones that count nothing; returns what they had counted, and where. Deleted ones stay as they are."""
    rows: list[Any] = await connection.fetch(
        "update usage_event e set outcome = 'filtered', reason = 'read_again', segment_id = null, counted = 0, meter_id = null "
        "from usage_event was where was.day = e.day and was.id = e.id and e.origin = 'reports' and e.sid = $1 "
        "and starts_with(e.external_id, $2) and e.at >= $3 and e.at < $4 and e.day = ($3::timestamptz at time zone 'UTC')::date "
        "and e.outcome in ('counted', 'held', 'filtered') and e.reason is distinct from 'read_again' "
        "returning e.day, e.id, e.sid, e.at, was.segment_id, was.outcome = 'counted' as was_counted, was.meter_id, was.counted",
        sid,
        prefix,
        since,
        until,
    )
    await connection.execute(
        "delete from held_event h using unnest($2::date[], $3::uuid[]) as i(day, id) where h.sid = $1 and h.day = i.day and h.id = i.id",
        sid,
        [row["day"] for row in rows],
        [row["id"] for row in rows],
    )
    return rows


async def keep_deleted(connection: Connection, sid: str, start: datetime, until: datetime, prefix: str) -> None:
    """Count what a person deleted as counted: the next reading must not bring it back."""
    await connection.execute(
        "update report_bucket set calls = (select coalesce(sum(quantity), 0) from usage_event "
        "where origin = 'reports' and reason = 'deleted' and sid = $1 and starts_with(external_id, $4) "
        "and at >= $2 and at < $3 and day = ($2::timestamptz at time zone 'UTC')::date) where sid = $1 and bucket = $2",
        sid,
        start,
        until,
        prefix,
    )
