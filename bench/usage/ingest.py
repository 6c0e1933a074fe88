"""HTTP ingest, durable before 2xx: doors with authentication and validation, beside the same server that does neither."""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from bench import machine
from bench.usage.calls import START
from bench.usage.stage import Process, UsageStage, collector, usage_stage
from embedded_servers.ports import free_port
from usage_collector import sender_store
from usage_collector.senders import new_key

SECONDS, ROUNDS = 4.0, 3
CONNECTIONS = (8, 32)
FORMS = {"batches of 100": 100, "single events": 1}
TARGETS = {"batches of 100": "120,000/s, p99 below 100 ms", "single events": "5,000/s, p99 below 25 ms"}
DOORS = (1, 2)
Answer = dict[str, Any]


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is the number of rounds; in each, every form is measured at the doors and at the limit, one after the other."""
    return uvloop.run(_measure(runs or ROUNDS))


async def _measure(rounds: int) -> dict[str, Any]:
    facts = machine.facts()
    figures: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    async with usage_stage(product="sent") as stage:
        key = await add_sender(stage)
        for many in DOORS:
            async with doors(stage, many) as processes, _bare(stage, many) as bare:
                for form, size in FORMS.items():
                    for connections in CONNECTIONS:
                        name = f"{form}, {connections} connections, {many} door{'s' if many > 1 else ''}"
                        pairs = [await _pair(key, size, connections, processes, bare) for _ in range(rounds)]
                        figures[name], limits[name] = _summary(pairs, TARGETS[form])
    return {"machine": facts | {"load_after": machine.load()}, "limits": limits, "figures": figures}


async def _pair(key: str, size: int, connections: int, processes: list[Process], bare: list[int]) -> tuple[Answer, Answer]:
    """Return what the doors did and, right after, what the bare servers did."""
    before = sum(door.cpu_seconds() for door in processes)
    found = await load(key, size, connections, [door.http_port for door in processes])
    found["cpu_seconds"] = sum(door.cpu_seconds() for door in processes) - before
    return found, await load(key, size, connections, bare)


def _summary(pairs: list[tuple[Answer, Answer]], target: str) -> tuple[dict[str, Any], int]:
    found, limit = [one for one, _ in pairs], [two["events_per_second"] for _, two in pairs]
    rate, at_best = [one["events_per_second"] for one in found], max(found, key=lambda one: float(one["events_per_second"]))
    figure = {
        "events_per_second": round(statistics.median(rate)),
        "p50_ms": round(statistics.median(one["p50_ms"] for one in found), 1),
        "p99_ms": round(statistics.median(one["p99_ms"] for one in found), 1),
        "best_events_per_second": at_best["events_per_second"],
        "best_p99_ms": at_best["p99_ms"],
        "of_limit_percent": round(statistics.median(100 * one / two for one, two in zip(rate, limit, strict=True)), 1),
        "cpu_us_per_event": round(min(1e6 * one["cpu_seconds"] / (one["events_per_second"] * SECONDS) for one in found), 1),
        "requests": sum(one["requests"] for one in found),
        "target": target,
    }
    return figure, round(statistics.median(limit))


async def add_sender(stage: UsageStage) -> str:
    sender_id, key, key_sha256 = new_key()
    await sender_store.add_sender(
        stage.pool, sender_id, name="load", key_sha256=key_sha256, source_prefix="/load", subscriptions=None, now=START, by="bench"
    )
    return key


@asynccontextmanager
async def doors(stage: UsageStage, many: int) -> AsyncIterator[list[Process]]:
    """Run processes that take events and do not collect: what collecting costs is measured by itself."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(collector(stage, {"COLLECT": "false"})) for _ in range(many)]


@asynccontextmanager
async def _bare(stage: UsageStage, many: int) -> AsyncIterator[list[int]]:
    ports = [free_port() for _ in range(many)]
    command = (sys.executable, "-m", "bench.usage.bare")
    processes = [await asyncio.create_subprocess_exec(*command, str(port), stage.bootstrap) for port in ports]
    try:
        for port in ports:
            await _until_open(port)
        yield ports
    finally:
        for process in processes:
            process.terminate()
            await process.wait()


async def _until_open(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def load(key: str, size: int, connections: int, ports: list[int], *, seconds: float = SECONDS) -> Answer:
    command = (sys.executable, "-m", "bench.usage.load", key, str(size), str(connections), str(seconds), *map(str, ports))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    answer: Answer = json.loads(said)
    assert answer.pop("statuses").keys() == {"202"}, "every request is accepted"
    return answer
