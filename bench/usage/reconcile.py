"""What reconciling costs the collector for each event when very many are stored: sums by hour and windows of 100,000 subscriptions."""

import statistics
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
from usage_collector import day_figures
from usage_collector.directory import Directory

STORED = (1_000_000, 10_000_000, 100_000_000)
PAGE, PAGES = 50, 21  # subscriptions of one question, and how many questions
LOAD_SECONDS = 900
ROLLED = """
insert into usage_rollup (hour, sid, segment_id, origin, outcome, reason, method, template, status, meter_id, is_further, events, quantity)
select $1::timestamptz - make_interval(hours => n), s.subscription_id, s.id, 'stream', 'counted', '', 'GET', '/orders/{id}', 200, 'calls',
    false, $3, $3 from generate_series(0, $2 - 1) n, segment s
"""


def measure(events: int | None) -> dict[str, Any]:
    """`events` is how many stored events are the most."""
    most = events or STORED[-1]
    return uvloop.run(_measure([*(step for step in STORED if step < most), most]))


async def _measure(sizes: list[int]) -> dict[str, Any]:
    facts, found = machine.facts(), {}
    async with usage_stage(subscriptions=0) as stage:
        for size in sizes:
            hours = size // growth.EVENTS_PER_WINDOW // growth.SUBSCRIPTIONS
            async with stage.pool.acquire() as connection:
                await _load(connection, hours)
            found[f"{size:,} stored"] = await _cost(stage.pool, hours)
    steps = [one["us_per_event"] for one in found.values()]
    found["last / first"] = {"us_per_event": round(steps[-1] / steps[0], 2), "target": "at most 1.5 times"}
    return {"machine": facts | {"load_after": machine.load(), "subscriptions": growth.SUBSCRIPTIONS}, "limits": {}, "figures": found}


async def _load(connection: Connection, hours: int) -> None:
    """Begin anew with so many hours of usage for every subscription: ten events in each."""
    await connection.execute("set statement_timeout = 0")
    await connection.execute("truncate usage_window, usage_rollup, segment, subscription, subscription_key, changed_hour restart identity")
    await connection.execute(growth.SUBSCRIBE, growth.SUBSCRIPTIONS, START - timedelta(days=10))
    await connection.execute(growth.KEYS)
    await connection.execute(growth.SEGMENTS, START - timedelta(days=10), growth.ENDS)
    await connection.execute(growth.WINDOWS, START, hours, timeout=LOAD_SECONDS)
    await connection.execute(ROLLED, START, hours, growth.EVENTS_PER_WINDOW, timeout=LOAD_SECONDS)
    for name in ("usage_window", "usage_rollup", "segment", "subscription_key"):
        await connection.execute(f"vacuum analyze {name}", timeout=LOAD_SECONDS)
    await connection.execute("checkpoint", timeout=LOAD_SECONDS)


async def _cost(pool: asyncpg.Pool, hours: int) -> dict[str, Any]:
    """Ask for subscriptions from all over the tables, whose events are added up again from sums and windows."""
    directory, since, until = Directory(), START.replace(hour=0) - timedelta(days=6), START.replace(hour=0) + timedelta(days=1)
    taken = []
    for number in range(PAGES):
        names = [f"sub-{(number * 7919 + place * 104729) % growth.SUBSCRIPTIONS}" for place in range(PAGE)]
        started = time.perf_counter()
        answer = await day_figures.figures(pool, directory, names, since, until, gateway=None, reports_until=until, kept_from=since)
        taken.append(time.perf_counter() - started)
        counted = sum(meter.counted or 0 for day in answer.days for meter in day.meters)
        if counted != PAGE * hours * growth.EVENTS_PER_WINDOW:
            raise RuntimeError(f"{counted:,} events were found")
    median = statistics.median(taken)
    return {
        "page_ms": round(1e3 * median, 1),
        "us_per_event": round(1e6 * median / (PAGE * hours * growth.EVENTS_PER_WINDOW), 2),
        "all_subscriptions_seconds": round(median * growth.SUBSCRIPTIONS / PAGE),
    }
