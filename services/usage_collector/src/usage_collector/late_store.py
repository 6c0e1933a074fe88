"""Late usage: every query on it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from billing_common.db import Connection
from usage_collector import rollup_store
from usage_collector.held_store import observation
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


async def pending(connection: Reader, limit: int) -> list[tuple[int, str]]:
    """Return segments, and their subscriptions, for which events have come late that were not looked at."""
    rows = await connection.fetch(
        "select l.segment_id, s.subscription_id from late_segment l join segment s on s.id = l.segment_id where l.pending "
        "order by 1 limit $1",
        limit,
    )
    return [(row["segment_id"], row["subscription_id"]) for row in rows]


async def count_pending(connection: Reader) -> int:
    return int(await connection.fetchval("select count(*) from late_segment where pending"))


async def lock(connection: Connection, segment_id: int) -> tuple[bool, Disposition | None]:
    """Lock a segment's late usage: whether there is something to look at, and what was decided. The subscription is locked before."""
    row = await connection.fetchrow("select pending, disposition from late_segment where segment_id = $1 for update", segment_id)
    return (row["pending"], row["disposition"]) if row else (False, None)


async def page(connection: Connection, segment_id: int, sids: Sequence[str], limit: int) -> list[Observation]:
    """Return some late events of a segment."""
    rows = await connection.fetch(
        "select e.* from held_event h join usage_event e on e.day = h.day and e.id = h.id "
        "where h.sid = any($2::text[]) and e.segment_id = $1 and e.outcome = 'held' and e.reason = 'late' order by e.at, e.id limit $3",
        segment_id,
        list(sids),
        limit,
    )
    return [observation(row) for row in rows]


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


async def looked_at(connection: Connection, segment_id: int, disposition: Disposition) -> None:
    await connection.execute("update late_segment set pending = false, disposition = $2 where segment_id = $1", segment_id, disposition)


async def decide(connection: Connection, segment_id: int, disposition: Disposition, by: str) -> bool:
    """Have a person's word done; False when nothing of the segment came late."""
    tag = await connection.execute(
        "update late_segment set disposition = $2, decided_by = $3, pending = true where segment_id = $1", segment_id, disposition, by
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


def first_id(ended: Iterable[Ended]) -> UUID:
    """Return what names this batch of events: each is in one batch only."""
    return min(one.seen.id for one in ended)
