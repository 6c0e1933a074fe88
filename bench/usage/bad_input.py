"""What good senders notice of a bad one: events a second of seven connections, alone and beside an eighth that sends bad input."""

import asyncio
import json
import statistics
import sys
from typing import Any

import uvloop

from bench import machine
from bench.usage.bad_load import ALL, ANSWERS, KINDS
from bench.usage.ingest import add_sender, doors, load
from bench.usage.stage import Process, usage_stage

SECONDS, ROUNDS = 2.0, 3
CONNECTIONS, SIZE = 8, 100
Answer = dict[str, Any]


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is the number of rounds; in each, every kind of bad input is measured beside the same senders without it."""
    return uvloop.run(_measure(runs or ROUNDS))


async def _measure(rounds: int) -> dict[str, Any]:
    facts = machine.facts()
    async with usage_stage(product="sent") as stage, doors(stage, 1) as (door,):
        key = await add_sender(stage)
        await load(key, SIZE, CONNECTIONS, [door.http_port], seconds=SECONDS)  # warms up
        figures = {kind: _summary([await _pair(kind, key, door) for _ in range(rounds)]) for kind in KINDS}
    return {"machine": facts | {"load_after": machine.load()}, "figures": figures}


async def _pair(kind: str, key: str, door: Process) -> Answer:
    """Return what the good senders got without and with the bad one beside them, one right after the other."""
    memory = door.memory_mb()
    alone, alone_cpu, _ = await _run(key, door, None)
    beside, beside_cpu, refused = await _run(key, door, kind)
    good_cpu = alone_cpu * beside / alone
    return {
        "alone": alone,
        "beside": beside,
        "refused": refused,
        "share": max(0.0, beside_cpu - good_cpu) / beside_cpu,
        "memory": (memory, door.memory_mb()),
    }


async def _run(key: str, door: Process, kind: str | None) -> tuple[int, float, int]:
    """Return the good events a second, the door's seconds of processor and how many bad requests were refused."""
    before = door.cpu_seconds()
    good = load(key, SIZE, CONNECTIONS - 1, [door.http_port], seconds=SECONDS)
    found, refused = await asyncio.gather(good, _send_bad(key, door, kind) if kind else _nothing())
    return int(found["events_per_second"]), door.cpu_seconds() - before, refused


async def _nothing() -> int:
    return 0


async def _send_bad(key: str, door: Process, kind: str) -> int:
    command = (sys.executable, "-m", "bench.usage.bad_load", kind, key, str(SECONDS), str(door.http_port))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    statuses = {int(status): count for status, count in json.loads(said).items()}
    assert statuses.keys() == (set(ANSWERS.values()) if kind == ALL else {ANSWERS[kind]}), f"{kind}: {statuses}"
    return sum(statuses.values())


def _summary(pairs: list[Answer]) -> dict[str, Any]:
    return {
        "events_per_second_alone": round(statistics.median(one["alone"] for one in pairs)),
        "events_per_second_beside": round(statistics.median(one["beside"] for one in pairs)),
        "ratio": round(statistics.median(one["beside"] / one["alone"] for one in pairs), 3),
        "refused_per_second": round(statistics.median(one["refused"] / SECONDS for one in pairs)),
        "share_of_processor_percent": round(100 * statistics.median(one["share"] for one in pairs), 1),
        "rss_before_mb": pairs[0]["memory"][0],
        "rss_after_mb": pairs[-1]["memory"][1],
        "target": "ratio not far below 1 - share of processor; memory constant",
    }
