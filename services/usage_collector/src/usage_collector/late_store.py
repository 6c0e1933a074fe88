"""Late usage: every query on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from billing_common.db import Connection
from usage_collector import rollup_store
from usage_collector.held_store import HeldPlace, held_page, observation
from usage_collector.observing import Observation

Reader = Connection | asyncpg.Pool
Disposition = Literal["bill", "waive", "keep"]
Sums = Mapping[tuple[str, datetime], tuple[int, int]]  # (meter id, hour) -> (quantity, events)

COUNT_SECONDS = 600

LISTED = """
select s.subscription_id, s.product_id, s.catalogue_version, s.started_at, s.ended_at, l.disposition, l.decided_by, l.pending,
    coalesce((select jsonb_object_agg(of_meter, sums) from (
        select disposition || ':' || meter_id as of_meter, jsonb_build_array(sum(quantity), sum(events)) as sums
        from late_usage u where u.segment_id = s.id group by 1) x), '{}')::text as sums,
    (select count(*) from subscription_key k join held_event h on h.sid = k.sid join usage_event e on e.day = h.day and e.id = h.id
        where k.subscription_id = s.subscription_id and e.segment_id = s.id and e.reason in ('late', 'too_old_to_bill')) as held
from late_segment l join segment s on s.id = l.segment_id
where $1::text is null or s.subscription_id = $1 order by s.ended_at desc, s.id desc limit $2
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What an event that came late has become."""

    seen: Observation
    outcome: str
    reason: str | None
    amounts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Burst:
    """What is billed of events that came late: meter id -> quantity, the least of their ids and the last of their times."""

    amounts: Mapping[str, int]
    first_id: UUID
    last_at: datetime


async def pending(connection: Reader, after: int, limit: int) -> list[tuple[int, str]]:
    """Return segments beyond one, and their subscriptions, for which events have come late that were not looked at."""
    rows = await connection.fetch(
        "select l.segment_id, s.subscription_id from late_segment l join segment s on s.id = l.segment_id where l.pending "
        "and l.segment_id > $1 order by 1 limit $2",
        after,
        limit,
    )
    return [(row["segment_id"], row["subscription_id"]) for row in rows]


async def count_pending(connection: Reader) -> int:
    return int(await connection.fetchval("select count(*) from late_segment where pending"))


async def lock(connection: Connection, segment_id: int) -> tuple[int, Disposition | None] | None:
    """Lock a segment's late usage where there is something to look at: how often it was noted, and what was decided.

    The subscription is locked before.
    """
    row = await connection.fetchrow("select noted, disposition from late_segment where segment_id = $1 and pending for update", segment_id)
    return (row["noted"], row["disposition"]) if row else None


async def page(
    connection: Connection, segment_id: int, sids: Sequence[str], after: HeldPlace, limit: int
) -> tuple[list[Observation], HeldPlace | None]:
    """Return the late events of a segment among the next held ones, in order of time, and where the page after them begins."""
    rows, following = await held_page(connection, sids, after, limit)
    late = [observation(row) for row in rows if row["segment_id"] == segment_id and row["outcome"] == "held" and row["reason"] == "late"]
    return sorted(late, key=lambda seen: (seen.at, seen.id)), following


async def end(connection: Connection, ended: Sequence[Ended]) -> None:
    """Write what has become of events; those that are still held keep their place among the held."""
    days, ids = [one.seen.day for one in ended], [one.seen.id for one in ended]
    await connection.execute(
        "update usage_event e set outcome = v.outcome::usage_outcome, reason = v.reason, counted = v.counted, meter_id = v.meter_id "
        "from unnest($1::date[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[]) "
        "as v(day, id, outcome, reason, counted, meter_id) where e.day = v.day and e.id = v.id",
        days,
        ids,
        [one.outcome for one in ended],
        [one.reason for one in ended],
        [one.amounts[0][1] if one.amounts else 0 for one in ended],
        [one.amounts[0][0] if one.amounts else None for one in ended],
    )
    await connection.executemany(
        "insert into usage_event_meter (day, id, meter_id, counted) values ($1, $2, $3, $4)",
        [(one.seen.day, one.seen.id, meter_id, amount) for one in ended for meter_id, amount in one.amounts[1:]],
    )
    gone = [one.seen for one in ended if one.outcome != "held"]
    await connection.execute(
        "delete from held_event h using unnest($1::text[], $2::date[], $3::uuid[]) as g(sid, day, id) "
        "where h.sid = g.sid and h.day = g.day and h.id = g.id",
        [one.sid for one in gone],
        [one.day for one in gone],
        [one.id for one in gone],
    )
    await rollup_store.mark(connection, [one.seen for one in ended])


async def add_up(connection: Connection, segment_id: int, disposition: Literal["billed", "waived"], sums: Sums) -> None:
    await connection.executemany(
        "insert into late_usage as l (segment_id, meter_id, hour, disposition, quantity, events) values ($1, $2, $3, $4, $5, $6) "
        "on conflict (segment_id, meter_id, hour, disposition) do update set quantity = l.quantity + excluded.quantity, "
        "events = l.events + excluded.events",
        [(segment_id, meter_id, hour, disposition, quantity, events) for (meter_id, hour), (quantity, events) in sums.items()],
    )


async def keep_unannounced(connection: Connection, segment_id: int, burst: Burst) -> None:
    """Add what a page bills to what is still to be announced."""
    await connection.execute(
        "insert into late_unannounced as l (segment_id, meter_id, quantity, first_id, last_at) "
        "select $1, meter_id, quantity, $4, $5 from unnest($2::text[], $3::bigint[]) as i(meter_id, quantity) "
        "on conflict (segment_id, meter_id) do update set quantity = l.quantity + excluded.quantity, "
        "first_id = least(l.first_id, excluded.first_id), last_at = greatest(l.last_at, excluded.last_at)",
        segment_id,
        list(burst.amounts),
        list(burst.amounts.values()),
        burst.first_id,
        burst.last_at,
    )


async def take_unannounced(connection: Connection, segment_id: int) -> Burst | None:
    """Return what is to be announced now, in the transaction that does so; None when nothing counts."""
    rows = await connection.fetch("delete from late_unannounced where segment_id = $1 returning *", segment_id)
    amounts = {row["meter_id"]: row["quantity"] for row in sorted(rows, key=lambda row: str(row["meter_id"])) if row["quantity"]}
    return Burst(amounts, min(row["first_id"] for row in rows), max(row["last_at"] for row in rows)) if amounts else None


async def looked_at(connection: Connection, segment_id: int, disposition: Disposition, *, noted: int) -> None:
    """Say that all was looked at that came up to a note; what came behind whoever looked is left to the next look."""
    await connection.execute(
        "update late_segment set pending = noted <> $3, disposition = $2 where segment_id = $1", segment_id, disposition, noted
    )


async def decide(connection: Connection, segment_id: int, disposition: Disposition, by: str) -> bool:
    """Have a person's word done; False when nothing of the segment came late."""
    tag = await connection.execute(
        "update late_segment set disposition = $2, decided_by = $3, pending = true, noted = noted + 1 where segment_id = $1",
        segment_id,
        disposition,
        by,
    )
    return bool(tag.endswith(" 1"))


async def quantities(connection: Reader, subscription_id: str, since: datetime, until: datetime) -> dict[str, dict[str, int]]:
    """Return disposition -> meter id -> quantity of what came late in the hours of a range."""
    rows = await connection.fetch(
        "select l.disposition, l.meter_id, sum(l.quantity)::bigint as quantity from late_usage l join segment s on s.id = l.segment_id "
        "where s.subscription_id = $1 and l.hour >= $2 and l.hour < $3 group by 1, 2",
        subscription_id,
        since,
        until,
    )
    found: dict[str, dict[str, int]] = {"billed": {}, "waived": {}}
    for row in rows:
        found[row["disposition"]][row["meter_id"]] = row["quantity"]
    return found


async def listed(connection: Reader, subscription_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return segments with late usage, the newest first: what was decided, what came of it, and how many events are still held."""
    rows = await connection.fetch(LISTED, subscription_id, limit)
    return [dict(row) for row in rows]


async def segment_of(connection: Connection, subscription_id: str, started_at: datetime) -> int | None:
    found: int | None = await connection.fetchval(
        "select id from segment where subscription_id = $1 and started_at = $2", subscription_id, started_at
    )
    return found


async def held_by_reason(connection: Connection) -> dict[str, int]:
    """Count everything that is held; of millions that takes a while, in the background."""
    async with connection.transaction(readonly=True):
        await connection.execute(f"set local statement_timeout = '{COUNT_SECONDS}s'")
        rows = await connection.fetch(
            "select coalesce(e.reason, '') as reason, count(*) as events from held_event h "
            "join usage_event e on e.day = h.day and e.id = h.id group by 1",
            timeout=COUNT_SECONDS,
        )
    return {row["reason"]: row["events"] for row in rows}
