"""Stream -> committed windows in one collector process, beside the limit of the same minute; rounds of both take turns."""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from bench import machine
from bench.usage.calls import Expected, make_calls, write_calls
from bench.usage.stage import Process, UsageStage, collector, usage_stage
from usage_collector.streams import SUBSCRIBERS, group_of

ROUNDS, CALLS = 5, 300_000
WARM_SHARE = 0.1
LOOK_SECONDS = 0.05


def measure(runs: int | None, events: int | None) -> dict[str, Any]:
    """`runs` is the number of rounds, `events` those of one; a round is one measurement of the collector between two limits."""
    return uvloop.run(_measure(runs or ROUNDS, events or CALLS))


async def _measure(rounds: int, calls: int) -> dict[str, Any]:
    facts, expected = machine.facts(), Expected()
    found: list[Round] = []
    async with usage_stage() as stage:
        for number in range(rounds):
            topic = await stage.add_topic(f"bench.calls.{number}")
            await write_calls(stage.bootstrap, topic, make_calls(number * calls, calls, expected))
            limit, limit_cpu_us = await _limit(stage, topic, calls, "driver")
            async with collector(stage, {"CALLS_TOPIC": topic}) as process:
                rate, cpu_us = await _collected_per_second(stage, topic, calls, process)
                await check_counts(stage.pool, expected)
                memory_mb = process.memory_mb()
            fastest, _ = await _limit(stage, topic, calls, "own")
            found.append(Round(rate, cpu_us, memory_mb, limit, limit_cpu_us, fastest))
    return {
        "machine": facts | {"load_after": machine.load()},
        "limits": _limits(found),
        "figures": {"stream to windows": _figures(found, calls)},
    }


@dataclass(frozen=True)
class Round:
    """The collector between both limits; rates in events a second, processor time of the Python process."""

    rate: float
    cpu_us: float
    memory_mb: int
    limit: float
    limit_cpu_us: float
    fastest: float


def _limits(found: list[Round]) -> dict[str, int]:
    return {
        "consume, decode, COPY (events/s)": round(statistics.median(one.limit for one in found)),
        "the same, rows encoded as the collector does (events/s)": round(statistics.median(one.fastest for one in found)),
    }


def _figures(found: list[Round], calls: int) -> dict[str, Any]:
    shares = [100 * one.rate / one.limit for one in found]
    return {
        "events_per_second": round(statistics.median(one.rate for one in found)),
        "of_limit_percent": round(statistics.median(shares), 1),
        "lowest_percent": round(min(shares), 1),
        "highest_percent": round(max(shares), 1),
        "of_fastest_limit_percent": round(statistics.median(100 * one.rate / one.fastest for one in found), 1),
        "best_events_per_second": round(max(one.rate for one in found)),
        "cpu_us_per_event": round(statistics.median(one.cpu_us for one in found), 1),
        "limit_cpu_us_per_event": round(statistics.median(one.limit_cpu_us for one in found), 1),
        "memory_mb": max(one.memory_mb for one in found),
        "memory_mb_by_round": [one.memory_mb for one in found],
        "rounds": len(found),
        "calls": calls * len(found),
        "target": "55 % of the limit, aim 100,000/s, below 250 MB",
    }


async def _limit(stage: UsageStage, topic: str, calls: int, way: str) -> tuple[float, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.usage.limit", stage.bootstrap, stage.dsn, topic, str(calls), way, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, "the limit was measured"
    rate, cpu_us = said.split()
    return float(rate), float(cpu_us)


async def _collected_per_second(stage: UsageStage, topic: str, calls: int, process: Process) -> tuple[float, float]:
    """Return calls a second, committed, and processor time a call, from when all subscribers have partitions and some calls are done."""
    async with watching(stage.bootstrap, group_of(topic)) as group:
        started = await group.reach(calls * WARM_SHARE, members=SUBSCRIBERS)
        started_at, started_cpu = time.perf_counter(), process.cpu_seconds()
        assert started < calls * 0.7, "the rounds are long enough to be measured"
        done = await group.reach(calls) - started
        return done / (time.perf_counter() - started_at), 1e6 * (process.cpu_seconds() - started_cpu) / done


class Group:
    """What the broker knows of a consumer group."""

    def __init__(self, admin: AIOKafkaAdminClient, group: str) -> None:
        self._admin, self._group = admin, group

    async def members(self) -> int:
        """Return how many members have been given partitions."""
        try:
            (answer,) = await self._admin.describe_consumer_groups([self._group])
        except GroupCoordinatorNotAvailableError:
            return 0
        (group,) = answer.groups
        return len(group[5]) if group[2] == "Stable" else 0

    async def committed(self) -> int:
        """Return how many records the group has behind it."""
        with suppress(GroupCoordinatorNotAvailableError):  # nobody has joined yet
            return int(sum(known.offset for known in (await self._admin.list_consumer_group_offsets(self._group)).values()))
        return 0

    async def reach(self, records: float, *, members: int = 0) -> int:
        """Wait until the group has so many records behind it and so many members; returns how many records."""
        while True:
            done = await self.committed()
            if done >= records and (not members or await self.members() >= members):
                return done
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def watching(bootstrap: str, group: str) -> AsyncIterator[Group]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield Group(admin, group)
    finally:
        await admin.close()


async def check_counts(pool: asyncpg.Pool, expected: Expected, *, read_again: bool = False) -> None:
    """Compare every count with the generator's own; `read_again`: some was delivered more often than sent. Raises AssertionError."""
    outcomes = {row["outcome"]: row["n"] for row in await pool.fetch("select outcome::text, count(*) as n from usage_event group by 1")}
    quantities = {row["meter_id"]: row["n"] for row in await pool.fetch("select meter_id, sum(quantity) as n from usage_window group by 1")}
    repeated = await pool.fetchval("select coalesce(sum(events), 0) from duplicate_count")
    assert outcomes == dict(expected.outcomes), f"{outcomes} are not {expected.outcomes}"
    assert quantities == dict(expected.quantities), f"{quantities} are not {expected.quantities}"
    again = repeated - (expected.sent - expected.distinct)
    assert again >= 0 if read_again else again == 0, f"{repeated} repetitions are not {expected.sent - expected.distinct}"
