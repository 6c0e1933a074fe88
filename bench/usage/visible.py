"""From a call on the topic to the usage API's answer that holds it, while calls come in at a steady rate."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import uvloop
from aiokafka import AIOKafkaProducer

from bench import machine
from bench.usage.calls import PARTITIONS, RECORD
from bench.usage.stage import TOKEN_KEY, Process, UsageStage, collector, usage_stage
from bench.usage.stream import watching
from billing_common.internal_auth import issue_token
from usage_collector.streams import SUBSCRIBERS, group_of

RATE, SECONDS, TICK_SECONDS = 10_000, 20.0, 0.05
PROBE_SECONDS = 0.2
WATCHED = "sub-1"  # only probes are of this one; everybody else's calls are the load
TOPIC = "bench.visible"


@dataclass
class Sent:
    """What the load has come to."""

    calls: int = 0
    probes: int = 0
    latest_seconds: float = 0.0


def measure() -> dict[str, Any]:
    """Send for `SECONDS` and compare."""
    return uvloop.run(_measure(RATE))


async def _measure(rate: int) -> dict[str, Any]:
    facts = machine.facts()
    async with usage_stage(product="payg") as stage:
        limits = await machine.limits(stage.dsn, stage.bootstrap)
        await stage.add_topic(TOPIC)
        async with collector(stage, {"CALLS_TOPIC": TOPIC}) as process:
            async with watching(stage.bootstrap, group_of(TOPIC)) as group:
                await group.reach(0, members=SUBSCRIBERS)
            sent, seen = await _run(stage, process, rate)
    ordered = sorted(seen)
    figures = {
        "events_per_second": round(sent.calls / SECONDS),
        "p50_ms": round(statistics.median(ordered) * 1000),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000),
        "max_ms": round(ordered[-1] * 1000),
        "probes": len(ordered),
        "load_late_ms": round(sent.latest_seconds * 1000),
        "target": "p99 below 2,000 ms at 10,000 events/s",
    }
    return {"machine": facts | {"load_after": machine.load()}, "limits": limits, "figures": {"event to usage API": figures}}


async def _run(stage: UsageStage, process: Process, rate: int) -> tuple[Sent, list[float]]:
    producer = AIOKafkaProducer(bootstrap_servers=stage.bootstrap, acks="all")
    await producer.start()
    sent, sent_at = Sent(), list[float]()
    watching_api = asyncio.create_task(_watch(process, sent_at, int(SECONDS / PROBE_SECONDS)))
    try:
        await asyncio.gather(_load(producer, rate, sent), _probe(producer, sent_at))
        return sent, await asyncio.wait_for(watching_api, 60)
    finally:
        watching_api.cancel()
        await producer.stop()


def _call(number: int, subscription: int, at: datetime) -> bytes:
    time_text = at.isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
    return RECORD % (number, time_text, b"sub", subscription, b"payg", b"get-order", b"GET", b"/orders/{id}", 200, 512)


async def _load(producer: AIOKafkaProducer, rate: int, sent: Sent) -> None:
    """Send in full batches, one each tick, to all partitions in turn."""
    started, tick = time.perf_counter(), 0
    while (due := started + tick * TICK_SECONDS) < started + SECONDS:
        await asyncio.sleep(due - time.perf_counter())
        sent.latest_seconds = max(sent.latest_seconds, time.perf_counter() - due)
        batch, now = producer.create_batch(), datetime.now(UTC)
        for _ in range(int(rate * TICK_SECONDS)):
            sent.calls += 1
            value = _call(sent.calls, 2 + sent.calls % 900, now)
            if batch.append(key=None, value=value, timestamp=None) is None:
                await producer.send_batch(batch, TOPIC, partition=sent.calls % PARTITIONS)
                batch = producer.create_batch()
                batch.append(key=None, value=value, timestamp=None)
        await producer.send_batch(batch, TOPIC, partition=tick % PARTITIONS)
        tick += 1


async def _probe(producer: AIOKafkaProducer, sent_at: list[float]) -> None:
    """Send single calls of the watched subscription; their times are from before they are acknowledged."""
    for number in range(int(SECONDS / PROBE_SECONDS)):
        sent_at.append(time.perf_counter())
        await producer.send_and_wait(TOPIC, _call(10**9 + number, 1, datetime.now(UTC)), partition=number % PARTITIONS)
        await asyncio.sleep(PROBE_SECONDS)


async def _watch(process: Process, sent_at: list[float], probes: int) -> list[float]:
    """Ask again and again; the total says how many probes are visible. Order between partitions does not matter for a count."""
    found: list[float] = []
    url = f"http://127.0.0.1:{process.internal_port}/v1/usage/{WATCHED}"
    now = datetime.now(UTC)
    span = {"from": (now - timedelta(hours=2)).isoformat(), "to": (now + timedelta(hours=2)).isoformat()}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while len(found) < probes:
            token = issue_token([TOKEN_KEY], caller="bench", scopes=["usage:read"])
            answer = await client.get(url, params=span, headers={"authorization": f"Bearer {token}"})
            total, answered_at = answer.json()["totals"].get("calls", 0), time.perf_counter()
            found += [answered_at - sent_at[place] for place in range(len(found), total)]
            await asyncio.sleep(0.02)
    return found
