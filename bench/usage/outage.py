"""Postgres or the broker killed under a stream of calls: how long after it is there again until all of it is committed?"""

import asyncio
import time
from typing import Any

import uvloop

from bench import machine
from bench.usage.calls import Expected, make_calls, write_calls
from bench.usage.stage import UsageStage, collector, usage_stage
from bench.usage.stream import check_counts, watching
from usage_collector.streams import SUBSCRIBERS, group_of

DOWN_SECONDS, CALLS, ROUNDS = 5.0, 20_000, 2


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is how often each server is killed."""
    return uvloop.run(_measure(runs or ROUNDS))


async def _measure(rounds: int) -> dict[str, Any]:
    facts, figures = machine.facts(), {}
    for name in ("Postgres", "broker"):
        async with usage_stage() as stage:
            expected = Expected()
            taken = [await _round(stage, name, number, expected) for number in range(rounds)]
            await check_counts(stage.pool, expected, read_again=True)
        figures[f"{name} killed, down for {DOWN_SECONDS:.0f} s"] = {
            "seconds_after_it_answers": [round(one, 1) for one in taken],
            "calls": expected.sent,
            "target": "at most 10 s beyond its own downtime, nothing lost",
        }
    return {"machine": facts | {"load_after": machine.load()}, "limits": {}, "figures": figures}


async def _round(stage: UsageStage, name: str, number: int, expected: Expected) -> float:
    """Return the seconds from when the server answers again until all calls, half of them written since the kill, are committed."""
    topic = await stage.add_topic(f"bench.outage.{name}.{number}")
    async with collector(stage, {"CALLS_TOPIC": topic}):
        async with watching(stage.bootstrap, group_of(topic)) as group:
            await group.reach(0, members=SUBSCRIBERS)
        before = expected.sent
        await write_calls(stage.bootstrap, topic, make_calls(number * 2 * CALLS, CALLS, expected))
        server = stage.postgres if name == "Postgres" else stage.kafka
        server.kill()
        if name == "Postgres":  # senders go on
            await write_calls(stage.bootstrap, topic, make_calls((number * 2 + 1) * CALLS, CALLS, expected))
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(server.start)
        answers_at = time.perf_counter()
        if name == "broker":
            await write_calls(stage.bootstrap, topic, make_calls((number * 2 + 1) * CALLS, CALLS, expected))
        async with watching(stage.bootstrap, group_of(topic)) as group:
            await group.reach(expected.sent - before)
        return time.perf_counter() - answers_at
