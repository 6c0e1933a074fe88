"""What it costs to add up one hour in which very many events are: as a whole, for one late event, and read before it is added up."""

import time
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop

from bench import machine
from bench.usage import growth
from bench.usage.calls import START
from bench.usage.stage import usage_stage
from billing_common.db import Connection
from usage_collector import rollup_store

STORED = (1_000_000, 10_000_000)  # --events 42000000: the mean hour of a day of a billion calls
HOUR = rollup_store.hour_of(START)
LATE_KEY = "sub-7"


def measure(runs: int | None, events: int | None) -> dict[str, Any]:
    """`events` is how many events the largest hour has; `runs` is ignored."""
    del runs
    most = events or STORED[-1]
    return uvloop.run(_measure([*(step for step in STORED if step < most), most]))


async def _measure(sizes: list[int]) -> dict[str, Any]:
    facts, found = machine.facts(), {}
    async with usage_stage(subscriptions=0) as stage:
        for size in sizes:
            await growth.load(stage.pool, size, 1)
            found[f"{size:,} in the hour"] = await _cost(stage.pool, size)
    whole = [values["whole_us_per_event"] for values in found.values()]
    found["last / first"] = {"whole_us_per_event": round(whole[-1] / whole[0], 2)}
    return {"machine": facts | {"load_after": machine.load(), "subscriptions": growth.SUBSCRIPTIONS}, "limits": {}, "figures": found}


async def _cost(pool: asyncpg.Pool, events: int) -> dict[str, Any]:
    async with pool.acquire() as connection:
        await connection.execute("insert into changed_hour (hour) values ($1)", HOUR)
        before = time.perf_counter()
        split = await rollup_store.split(connection, [LATE_KEY], HOUR, HOUR + timedelta(hours=1), ["endpoint"])
        read = time.perf_counter() - before
        whole = await _roll_up(connection)
        added = await connection.fetchval("select sum(events) from usage_rollup where hour = $1", HOUR)
        if added != events:
            raise RuntimeError(f"{added:,} events of {events:,} were added up")
        await connection.execute("insert into changed_hour (hour, sids) values ($1, $2)", HOUR, [LATE_KEY])
        late = await _roll_up(connection)
        before = time.perf_counter()
        await rollup_store.split(connection, [LATE_KEY], HOUR, HOUR + timedelta(hours=1), ["endpoint"])
        rolled = time.perf_counter() - before
    return {
        "whole_seconds": round(whole, 1),
        "whole_us_per_event": round(1e6 * whole / events, 2),
        "late_event_seconds": round(late, 2),
        "read_before_ms": round(1e3 * read, 1) if split.complete_until is None else f"left out after {rollup_store.RAW_LIMIT}",
        "read_after_ms": round(1e3 * rolled, 1),
    }


async def _roll_up(connection: Connection) -> float:
    started = time.perf_counter()
    async with connection.transaction():
        if not await rollup_store.roll_up(connection, HOUR):
            raise RuntimeError("another process adds the hour up")
    return time.perf_counter() - started
