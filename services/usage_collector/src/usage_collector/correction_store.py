"""Corrections of usage: every query on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal
from uuid import UUID

from billing_common.db import Connection
from usage_collector.store import Reader

Kind = Literal["adjustment", "deletion", "late"]


@dataclass(frozen=True)
class Account:
    """Who pays for a subscription; `reported`: its usage goes to Stripe."""

    account_id: str
    reported: bool


@dataclass(frozen=True)
class Place:
    """The segment that a correction belongs to."""

    segment_id: int
    started_at: datetime
    ended_at: datetime | None
    closed: bool
    product_id: str
    catalogue_version: int

    @property
    def plan(self) -> tuple[str, int]:
        return self.product_id, self.catalogue_version


@dataclass(frozen=True)
class Correction:
    """One row of the table."""

    correction_id: UUID
    kind: Kind
    subscription_id: str
    segment_id: int
    at: datetime
    amounts: dict[str, int]
    after_close: bool
    reason: str
    author: str
    made_at: datetime
    source: str | None = None
    external_id: str | None = None

    @property
    def hour(self) -> datetime:
        return self.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Found:
    """An event that somebody wants to delete."""

    at: datetime
    outcome: str
    reason: str | None
    segment_id: int | None
    amounts: dict[str, int]


COLUMNS = "correction_id, kind, subscription_id, segment_id, at, amounts::text, after_close, reason, author, made_at, source, external_id"
PLACE = "select id as segment_id, started_at, ended_at, closed_at is not null as closed, product_id, catalogue_version from segment"


async def lock_subscription(connection: Connection, subscription_id: str) -> Account | None:
    row = await connection.fetchrow("select account_id, reported from subscription where subscription_id = $1 for update", subscription_id)
    return Account(**dict(row)) if row else None


async def find(connection: Reader, correction_id: UUID) -> Correction | None:
    row = await connection.fetchrow(f"select {COLUMNS} from correction where correction_id = $1", correction_id)  # noqa: S608 - constant columns
    return _correction(row) if row else None


def _correction(row: Any) -> Correction:
    return Correction(**{**dict(row), "amounts": json.loads(row["amounts"])})


async def place(connection: Connection, segment_id: int | None) -> Place | None:
    row = await connection.fetchrow(f"{PLACE} where id = $1", segment_id)
    return Place(**dict(row)) if row else None


async def place_of(connection: Connection, subscription_id: str, at: datetime) -> Place | None:
    """Return the segment in which an instant lies."""
    row = await connection.fetchrow(
        f"{PLACE} where subscription_id = $1 and started_at <= $2 and (ended_at is null or ended_at > $2) order by started_at desc limit 1",
        subscription_id,
        at,
    )
    return Place(**dict(row)) if row else None


async def outside(connection: Connection, subscription_id: str, at: datetime) -> str:
    """Say why an instant lies in no segment."""
    row = await connection.fetchrow(
        "select min(started_at) as first, max(ended_at) as last from segment where subscription_id = $1", subscription_id
    )
    if row is None or row["first"] is None:
        return "no period of this subscription is known yet: try again in a minute"
    when = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if at < row["first"]:
        return f"{when} lies before the subscription began ({row['first']:%Y-%m-%d %H:%M:%S} UTC): choose a later `at`"
    return f"{when} lies after the subscription's last period ({row['last']:%Y-%m-%d %H:%M:%S} UTC): choose an earlier `at`"


async def find_event(connection: Connection, day: date, event_id: UUID, subscription_id: str) -> Found | None:
    """Return an event of the subscription's keys with what it counted."""
    row = await connection.fetchrow(
        "select at, outcome::text, reason, segment_id, meter_id, counted from usage_event where day = $1 and id = $2 "
        "and (sid = $3 or sid in (select sid from subscription_key where subscription_id = $3)) for update",
        day,
        event_id,
        subscription_id,
    )
    if row is None:
        return None
    more = await connection.fetch("select meter_id, counted from usage_event_meter where day = $1 and id = $2", day, event_id)
    first = {row["meter_id"]: row["counted"]} if row["meter_id"] is not None else {}
    return Found(row["at"], row["outcome"], row["reason"], row["segment_id"], first | {one["meter_id"]: one["counted"] for one in more})


async def take_out(connection: Connection, day: date, event_id: UUID, segment_id: int, correction: Correction) -> None:
    """Make a counted event a deleted one, and its windows smaller. Its identity stays, so that it is not counted when it comes again."""
    await connection.execute(
        "update usage_event set outcome = 'rejected', reason = 'deleted', segment_id = null, counted = 0, meter_id = null "
        "where day = $1 and id = $2",
        day,
        event_id,
    )
    await connection.execute("delete from usage_event_meter where day = $1 and id = $2", day, event_id)
    await connection.execute(
        "update usage_window w set quantity = w.quantity + l.amount, events = w.events - 1, revision = w.revision + 1, dirty = true "
        "from unnest($1::text[], $2::bigint[]) as l(meter_id, amount) where w.segment_id = $3 and w.hour = $4 and w.meter_id = l.meter_id",
        list(correction.amounts),
        list(correction.amounts.values()),
        segment_id,
        correction.hour,
    )


async def hour_quantities(connection: Connection, segment_id: int, hour: datetime) -> dict[str, int]:
    """Return meter id -> what an hour of a segment holds, with what came late for it and what was corrected after the close.

    Corrections of kind `late` are left out: a whole burst stands at the hour of its last event.
    """
    rows = await connection.fetch(
        "select meter_id, sum(quantity)::bigint as quantity from ("
        "select meter_id, quantity from usage_window where segment_id = $1 and hour = $2 union all "
        "select meter_id, quantity from late_usage where segment_id = $1 and hour = $2 and disposition = 'billed' union all "
        "select key, value::bigint from correction, jsonb_each_text(amounts) "
        "where segment_id = $1 and hour = $2 and after_close and kind <> 'late') of_hour group by 1 order by 1",
        segment_id,
        hour,
    )
    return {row["meter_id"]: row["quantity"] for row in rows}


async def after_close(connection: Connection, segment_id: int) -> dict[str, int]:
    """Return meter id -> the sum of a closed segment's corrections."""
    rows = await connection.fetch(
        "select key as meter_id, sum(value::bigint)::bigint as amount from correction, jsonb_each_text(amounts) "
        "where segment_id = $1 and after_close group by 1",
        segment_id,
    )
    return {row["meter_id"]: row["amount"] for row in rows}


def added(totals: dict[str, int], amounts: dict[str, int]) -> dict[str, int]:
    """Return the sum of two, meter by meter."""
    return {meter: totals.get(meter, 0) + amounts.get(meter, 0) for meter in sorted({*totals, *amounts})}


async def add(connection: Connection, correction: Correction) -> None:
    await connection.execute(
        "insert into correction (correction_id, kind, subscription_id, segment_id, hour, at, amounts, after_close, source, external_id, "
        "reason, author, made_at) values ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $12, $13)",
        correction.correction_id,
        correction.kind,
        correction.subscription_id,
        correction.segment_id,
        correction.hour,
        correction.at,
        json.dumps(correction.amounts),
        correction.after_close,
        correction.source,
        correction.external_id,
        correction.reason,
        correction.author,
        correction.made_at,
    )


async def hold_below_zero(connection: Connection, subscription_ids: Sequence[str]) -> None:
    """Hold what took more away than is left of an hour after its events have moved: a total is never negative."""
    rows = await connection.fetch(
        "with bare as (select w.segment_id, w.meter_id, w.hour from usage_window w join segment s on s.id = w.segment_id "
        "where s.subscription_id = any($1::text[]) and w.quantity < 0) "
        "update usage_event e set outcome = 'held', reason = 'below_zero', segment_id = null, counted = 0, meter_id = null "
        "from bare b, usage_event was where was.day = e.day and was.id = e.id and e.origin = 'correction' and e.outcome = 'counted' "
        "and e.segment_id = b.segment_id and e.meter_id = b.meter_id and e.counted < 0 and e.at >= b.hour "
        "and e.at < b.hour + interval '1 hour' and e.day = (b.hour at time zone 'UTC')::date "
        "returning e.sid, e.day, e.id, b.segment_id, b.meter_id, b.hour, was.counted",
        list(subscription_ids),
    )
    for row in rows:
        await connection.execute("insert into held_event values ($1, $2, $3)", row["sid"], row["day"], row["id"])
        await connection.execute(
            "update usage_window set quantity = quantity - $4, events = events - 1, revision = revision + 1, dirty = true "
            "where segment_id = $1 and meter_id = $2 and hour = $3",
            row["segment_id"],
            row["meter_id"],
            row["hour"],
            row["counted"],
        )


async def listed(connection: Reader, subscription_id: str | None, since: datetime, until: datetime, limit: int) -> list[Correction]:
    """Return the corrections that were made in a range, newest first."""
    rows = await connection.fetch(
        f"select {COLUMNS} from correction where made_at >= $2 and made_at < $3 and ($1::text is null or subscription_id = $1) "  # noqa: S608
        "order by number desc limit $4",
        subscription_id,
        since,
        until,
        limit,
    )
    return [_correction(row) for row in rows]
