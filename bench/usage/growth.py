"""What an event costs when very many are stored already: the same batches, look-ups and window updates on tables that grow.

Stored over forty days, the last of them the day that the new events are of; and, the worst case, all in that one day: every new id is then
looked for in, and added to, the one index that holds them all. Postgres has `shared_buffers` of a quarter of the memory, as docs/scaling.md
advises. There is a window for every ten. Loaded in bulk, as partitions to attach.
"""

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import psutil
import uvloop

from bench import machine
from bench.usage.calls import START, Expected, make_calls
from bench.usage.stage import UsageStage, usage_stage
from billing_common.clock import BusinessClock
from billing_common.db import Connection
from usage_collector import event_store
from usage_collector.collecting import Collector
from usage_collector.decoding import decode_calls
from usage_collector.store import partition_of

SUBSCRIPTIONS = 100_000
STORED = (1_000_000, 10_000_000)  # --events 100000000 adds a third step
LOAD_SECONDS = 3600  # a hundred million events take a quarter of an hour
BATCH, WARM_BATCHES, BATCHES, ASKED = 5000, 20, 20, 11
EVENTS_PER_WINDOW = 10
LAYOUTS = {"over 40 days": 40, "in one day": 1}
LOADERS = 2
ENDS = START + timedelta(days=20)
SUBSCRIBE = """
insert into subscription (subscription_id, account_id, started_at)
select 'sub-' || n, 'account-' || n, $2 from generate_series(0, $1 - 1) n
"""
KEYS = "insert into subscription_key (sid, subscription_id) select subscription_id, subscription_id from subscription"
SEGMENTS = """
insert into segment (subscription_id, account_id, started_at, ended_at, product_id, catalogue_version, reason)
select subscription_id, account_id, $1, $2, 'payg', 1, 'period_end' from subscription
"""
EVENTS = """
insert into {table} (day, id, at, segment_id, counted, quantity, status, outcome, origin, source, external_id, sid, method, template,
    meter_id)
select $1, gen_random_uuid(), $2, 1 + n % $4, 1, 1, 200, 'counted', 'stream', 'apim', '3f1c0b9e-' || n, 'sub-' || n % $4, 'GET',
    '/orders/{{id}}', 'calls' from generate_series(1, $3::bigint) n
"""
WINDOWS = """
insert into usage_window (segment_id, meter_id, hour, quantity, events, revision, dirty)
select s.id, 'calls', $1::timestamptz - make_interval(hours => n), 10, 10, 1, false from segment s, generate_series(0, $2 - 1) n
"""


def measure(runs: int | None, events: int | None) -> dict[str, Any]:
    """`events` is how many stored events are the most; `runs` is ignored."""
    del runs
    most = events or STORED[-1]
    return uvloop.run(_measure([*(step for step in STORED if step < most), most]))


async def _measure(sizes: list[int]) -> dict[str, Any]:
    facts = machine.facts()
    shared_buffers_mb = facts["memory_mb"] // 4
    found: dict[str, Any] = {}
    async with usage_stage(subscriptions=0, shared_buffers_mb=shared_buffers_mb) as stage:
        limits = {"postgres_commit_ms": round(await machine.postgres_commit_ms(stage.dsn), 2)}
        for layout, days in LAYOUTS.items():
            steps = {}
            for size in sizes:
                await load(stage.pool, size, days)
                bytes_stored = await _bytes_per_event(stage.pool, size)
                steps[f"{size:,} stored {layout}"] = await _cost(stage) | bytes_stored
            found |= steps | {f"last / first, {layout}": _growth([*steps.values()])}
    facts |= {"load_after": machine.load(), "subscriptions": SUBSCRIPTIONS, "shared_buffers_mb": shared_buffers_mb}
    return {"machine": facts, "limits": limits, "figures": found}


def _growth(steps: list[dict[str, float]]) -> dict[str, Any]:
    return {name: round(steps[-1][name] / steps[0][name], 2) for name in steps[0]} | {"target": "at most 1.5 times"}


async def load(pool: asyncpg.Pool, stored: int, days: int) -> None:
    """Begin anew with so many stored events, a window for every ten of them, and all subscriptions."""
    partitions = await pool.fetch("select inhrelid::regclass::text as name from pg_inherits where inhparent = 'usage_event'::regclass")
    for row in partitions:
        await pool.execute(f"drop table {row['name']}")
    await pool.execute(
        "truncate usage_window, segment, subscription, subscription_key, changed_hour, usage_rollup, held_event, "
        "duplicate_count restart identity"
    )
    await pool.execute(SUBSCRIBE, SUBSCRIPTIONS, START - timedelta(days=10))
    await pool.execute(KEYS)
    await pool.execute(SEGMENTS, START - timedelta(days=10), ENDS)
    hours = max(stored // EVENTS_PER_WINDOW // SUBSCRIPTIONS, 1)
    left = [START - timedelta(days=back) for back in range(days)]

    async def load_days(connection: Connection) -> None:
        while left:
            await _load_day(connection, left.pop(), stored // days)

    async with AsyncExitStack() as stack:
        loaders = [await stack.enter_async_context(pool.acquire()) for _ in range(LOADERS)]
        for connection in loaders:
            await connection.execute("set statement_timeout = 0")
            await connection.execute("set maintenance_work_mem = '1GB'")
        await asyncio.gather(*map(load_days, loaders))
        await loaders[0].execute(WINDOWS, START, hours, timeout=LOAD_SECONDS)
        for name in ("usage_window", "segment", "subscription_key"):
            await loaders[0].execute(f"vacuum analyze {name}", timeout=LOAD_SECONDS)
        await loaders[0].execute("checkpoint", timeout=LOAD_SECONDS)


async def _load_day(connection: Connection, at: datetime, events: int) -> None:
    table, day = partition_of(at.date()), at.date()
    await connection.execute(f"create table {table} (like usage_event including defaults)")
    await connection.execute(EVENTS.format(table=table), day, at, events, SUBSCRIPTIONS, timeout=LOAD_SECONDS)
    await connection.execute(f"alter table {table} add primary key (id, day)", timeout=LOAD_SECONDS)
    span = f"for values from ('{day}') to ('{day + timedelta(days=1)}')"
    await connection.execute(f"alter table usage_event attach partition {table} {span}", timeout=LOAD_SECONDS)
    await connection.execute(f"vacuum analyze {table}", timeout=LOAD_SECONDS)
    await connection.execute("set enable_seqscan = off")  # its index is read into memory as far as it fits, as it is on the day
    await connection.execute(f"select count(id) from {table}", timeout=LOAD_SECONDS)
    await connection.execute("reset enable_seqscan")


async def _bytes_per_event(pool: asyncpg.Pool, stored: int) -> dict[str, float]:
    async def sum_of(size: str) -> int:
        return int(await pool.fetchval(f"select sum({size}(inhrelid)) from pg_inherits where inhparent = 'usage_event'::regclass"))

    whole, index = await sum_of("pg_total_relation_size"), await sum_of("pg_indexes_size")
    return {"stored_bytes_per_event": round(whole / stored), "of_them_index": round(index / stored)}


async def _cost(stage: UsageStage) -> dict[str, float]:
    """Return microseconds an event, of wall time and of Postgres's processor, and of the two statements that meet the large tables."""
    collector = Collector(stage.pool, batch_max=BATCH, age_max=timedelta(days=42), ahead_max=timedelta(minutes=5))
    postmaster = psutil.Process(await stage.pool.fetchval("select pg_backend_pid()")).ppid()
    now, taken, calls = BusinessClock().now(), [], (WARM_BATCHES + BATCHES) * BATCH
    started_cpu = 0.0
    for number in range(WARM_BATCHES + BATCHES):
        batch = list(make_calls(number * BATCH, BATCH, Expected(), subscriptions=SUBSCRIPTIONS, total=calls * 4))
        seen, _ = decode_calls(batch)
        if number == WARM_BATCHES:
            started_cpu = _cpu_seconds(postmaster)
        started = time.perf_counter()
        await collector.collect(seen, now=now)
        taken.append(time.perf_counter() - started)
    postgres = (_cpu_seconds(postmaster) - started_cpu) / (BATCHES * BATCH)
    look_up, windows = await _statements(stage.pool)
    return {
        "batch_us_per_event": round(1e6 * statistics.median(taken[WARM_BATCHES:]) / BATCH, 2),
        "postgres_cpu_us_per_event": round(1e6 * postgres, 2),
        "look_up_us_per_event": look_up,
        "window_us_per_window": windows,
    }


async def _statements(pool: asyncpg.Pool) -> tuple[float, float]:
    """Return the median of looking up ids that are not there, and of adding to windows all over the table."""
    hour = int(START.timestamp()) // 3600

    async def look_up(_number: int) -> None:
        await pool.fetch(event_store.KNOWN, START.date(), [uuid.uuid4() for _ in range(BATCH)])

    async def add(number: int) -> None:
        segments = [1 + (place * 7919 + number * 104729) % SUBSCRIPTIONS for place in range(BATCH)]
        ones = [1] * BATCH
        await pool.execute(event_store.ADD_WINDOWS, segments, ["calls"] * BATCH, [hour] * BATCH, ones, ones)

    return await _median_us(look_up), await _median_us(add)


async def _median_us(statement: Callable[[int], Awaitable[None]]) -> float:
    taken = []
    for number in range(ASKED):
        started = time.perf_counter()
        await statement(number)
        taken.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(taken) / BATCH, 2)


def _cpu_seconds(postmaster: int) -> float:
    total = 0.0
    for process in psutil.Process(postmaster).children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system
    return total
