"""One collector process that takes ten million calls: does it stay as large as it was after the first million?"""

import asyncio
import time
from typing import Any

import uvloop

from bench import machine
from bench.usage.calls import Expected, make_calls, write_calls
from bench.usage.stage import Process, collector, usage_stage
from bench.usage.stream import check_counts, watching
from usage_collector.streams import SUBSCRIBERS, group_of

CALLS, CHUNK = 10_000_000, 1_000_000
LOOK_SECONDS = 0.25
TOPIC = "bench.memory"


def measure(events: int | None) -> dict[str, Any]:
    """`events` is how many calls, in chunks of a million."""
    return uvloop.run(_measure(events or CALLS))


async def _measure(calls: int) -> dict[str, Any]:
    facts, expected, largest, rates = machine.facts(), Expected(), [], []
    async with usage_stage() as stage:
        await stage.add_topic(TOPIC)
        async with collector(stage, {"CALLS_TOPIC": TOPIC}) as process, watching(stage.bootstrap, group_of(TOPIC)) as group:
            await group.reach(0, members=SUBSCRIBERS)
            for first in range(0, calls, CHUNK):
                seen: list[int] = []
                looking = asyncio.create_task(_look(process, seen))
                await write_calls(stage.bootstrap, TOPIC, make_calls(first, min(CHUNK, calls - first), expected))
                before, started = await group.committed(), time.perf_counter()
                await group.reach(expected.sent)
                rates.append((expected.sent - before) / (time.perf_counter() - started))
                looking.cancel()
                largest.append(max(seen))
            await check_counts(stage.pool, expected)
    figures = {
        "memory_mb_by_million": largest,
        "last_over_first": round(largest[-1] / largest[0], 2),
        "events_per_second_by_million": [round(rate) for rate in rates],
        "calls": calls,
        "target": "below 250 MB, and flat",
    }
    return {"machine": facts | {"load_after": machine.load()}, "limits": {}, "figures": {"one process": figures}}


async def _look(process: Process, seen: list[int]) -> None:
    while True:
        seen.append(process.memory_mb())
        await asyncio.sleep(LOOK_SECONDS)
