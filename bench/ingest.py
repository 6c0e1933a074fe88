"""HTTP ingest, durable before 2xx: one collector process with authentication and validation, loaded from this machine."""

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import uvloop

from bench import machine
from bench.usage_stage import START, SUBSCRIPTIONS, UsageStage, usage_stage
from embedded_servers.ports import free_port
from usage_collector import sender_store
from usage_collector.app import SERVICE
from usage_collector.senders import new_key

SECONDS = 5.0
CONNECTIONS = (8, 32)
FORMS = {"batches of 100": 100, "single events": 1}
BATCH, SINGLE = "application/cloudevents-batch+json", "application/cloudevents+json"


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is the number of seconds of each measurement."""
    return uvloop.run(_measure(float(runs or SECONDS)))


async def _measure(seconds: float) -> dict[str, Any]:
    facts = machine.facts()
    figures: dict[str, Any] = {}
    async with usage_stage("sent") as stage:
        limits = {"Kafka, there and back (ms)": round(await machine.kafka_round_trip_ms(stage.bootstrap), 2)}
        key = await _sender(stage)
        async with _collector(stage) as port:
            for form, size in FORMS.items():
                for connections in CONNECTIONS:
                    figures[f"{form}, {connections} connections"] = await _load(port, key, size, connections=connections, seconds=seconds)
    return {"machine": facts, "limits": limits, "figures": figures}


async def _sender(stage: UsageStage) -> str:
    sender_id, key, key_sha256 = new_key()
    await sender_store.add_sender(
        stage.pool, sender_id, name="load", key_sha256=key_sha256, source_prefix="/load", subscriptions=None, now=START, by="bench"
    )
    return key


@asynccontextmanager
async def _collector(stage: UsageStage) -> AsyncIterator[int]:
    port = free_port()
    settings = {"DATABASE_URL": stage.dsn, "KAFKA_BOOTSTRAP_SERVERS": stage.bootstrap, "INTERNAL_TOKEN_KEYS": "k" * 32}
    settings |= {"HTTP_PORT": str(port), "INTERNAL_PORT": "0", "LOG_LEVEL": "ERROR"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", SERVICE, env=os.environ | {f"USAGE_COLLECTOR_{name}": value for name, value in settings.items()}
    )
    try:
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.post(f"http://127.0.0.1:{port}/v1/events")).status_code == 401:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def _load(port: int, key: str, size: int, *, connections: int, seconds: float) -> dict[str, Any]:
    """Return events a second and the times of requests, over connections that each wait for their answer."""
    taken: list[float] = []
    numbers = itertools.count(time.time_ns())
    end = time.perf_counter() + seconds
    statuses = await asyncio.gather(*(_connection(port, key, size, numbers, taken, end=end) for _ in range(connections)))
    assert all(status == 202 for status in itertools.chain(*statuses)), "every request is accepted"
    ordered = sorted(taken)
    return {
        "events_per_second": round(len(taken) * size / seconds),
        "p50_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
        "requests": len(taken),
    }


async def _connection(port: int, key: str, size: int, numbers: Any, taken: list[float], *, end: float) -> set[int]:
    """Send request after request on one connection. The bytes are made by hand: a client library costs more than the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    kind = SINGLE if size == 1 else BATCH
    head = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\ncontent-length: "
    statuses = set()
    while time.perf_counter() < end:
        body = _body(next(numbers), size)
        started = time.perf_counter()
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
        taken.append(time.perf_counter() - started)
        statuses.add(int(answer[9:12]))
    writer.close()
    return statuses


def _body(number: int, size: int) -> bytes:
    at = datetime.now(UTC).isoformat()
    events = [
        {
            "specversion": "1.0",
            "id": f"{number}-{place}",
            "source": "/load",
            "type": "turnpike.usage",
            "subject": f"sub-{(number + place) % SUBSCRIPTIONS}",
            "time": at,
            "data": {"meter": "calls", "quantity": 1},
        }
        for place in range(size)
    ]
    return msgspec.json.encode(events if size > 1 else events[0])
