"""Two collectors, one killed: how long until the other commits calls of partitions that were the dead one's."""

import asyncio
import statistics
import time
from typing import Any

import uvloop

from bench import machine
from bench.usage.calls import Expected, make_calls, write_calls
from bench.usage.stage import UsageStage, collector, usage_stage
from bench.usage.stream import watching
from usage_collector.streams import SUBSCRIBERS, group_of

ROUNDS, CALLS = 3, 2_000
BOTH = 2 * SUBSCRIBERS  # subscribers, and as many partitions: both processes have some


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is how often a collector is killed."""
    return uvloop.run(_measure(runs or ROUNDS))


async def _measure(rounds: int) -> dict[str, Any]:
    facts, expected = machine.facts(), Expected()
    async with usage_stage() as stage:
        taken = [await _round(stage, number, expected) for number in range(rounds)]
    figures = {
        "median_seconds": round(statistics.median(taken), 1),
        "longest_seconds": round(max(taken), 1),
        "kills": rounds,
        "target": "below 5 s: every call that was written after the kill is committed",
    }
    limits = {"session time-out (s)": 3.0, "heartbeat (s)": 0.5}
    return {"machine": facts | {"load_after": machine.load()}, "limits": limits, "figures": {"takeover": figures}}


async def _round(stage: UsageStage, number: int, expected: Expected) -> float:
    """Return the seconds from the kill until calls written right after it are committed in every partition."""
    topic = await stage.add_topic(f"bench.takeover.{number}", BOTH)
    settings = {"CALLS_TOPIC": topic}
    async with collector(stage, settings) as first, collector(stage, settings), watching(stage.bootstrap, group_of(topic)) as group:
        await group.reach(0, members=BOTH)
        await asyncio.sleep(1)  # all heartbeats have been heard
        first.kill()
        killed_at = time.perf_counter()
        before = expected.sent
        for place in range(BOTH):
            calls = make_calls(number * CALLS + place * CALLS // BOTH, CALLS // BOTH, expected)
            await write_calls(stage.bootstrap, topic, calls, first_partition=place, partitions=BOTH)
        await group.reach(expected.sent - before)
        return time.perf_counter() - killed_at
