"""What the figures were measured on, and what its disk, broker and loopback can do at best."""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from billing_common import topics

ROUNDS = 200
PROBE_TOPIC = "bench.probe"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def facts() -> dict[str, Any]:
    """Return what a reader needs to compare: when, where, how busy."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "load_before": load(),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(psutil.getloadavg()[0], 2)


async def limits(dsn: str, bootstrap: str) -> dict[str, float]:
    """Return the median of each thing that cannot be faster here, in milliseconds."""
    return {
        "postgres_commit_ms": round(await postgres_commit_ms(dsn), 2),
        "kafka_round_trip_ms": round(await kafka_round_trip_ms(bootstrap), 2),
        "http_round_trip_ms": round(await http_round_trip_ms(), 2),
    }


def floor_ms(limit: Mapping[str, float], path: Mapping[str, int]) -> float:
    """Return how long the path would take if nothing but the limits cost time."""
    return round(sum(limit[name] * count for name, count in path.items()), 1)


async def postgres_commit_ms(dsn: str) -> float:
    """Return the median of a one-row commit, in milliseconds."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("drop table if exists bench_probe")
        await connection.execute("create table bench_probe (id int)")
        taken = []
        for number in range(ROUNDS):
            started = time.perf_counter()
            await connection.execute("insert into bench_probe values ($1)", number)
            taken.append(time.perf_counter() - started)
        await connection.execute("drop table bench_probe")
    finally:
        await connection.close()
    return statistics.median(taken) * 1000


async def kafka_round_trip_ms(bootstrap: str) -> float:
    """Return the median from an acknowledged send to its arrival at a waiting consumer, in milliseconds."""
    await topics.provision({"bootstrap_servers": bootstrap}, partitions=1, names=[PROBE_TOPIC])
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await producer.start()
    await consumer.start()
    try:
        place = TopicPartition(PROBE_TOPIC, 0)
        consumer.assign([place])
        await consumer.seek_to_end(place)
        taken = []
        for _ in range(ROUNDS):
            waiting = asyncio.create_task(consumer.getone(place))
            await asyncio.sleep(0)
            started = time.perf_counter()
            await producer.send_and_wait(PROBE_TOPIC, b"probe", partition=0)
            await asyncio.wait_for(waiting, 10)
            taken.append(time.perf_counter() - started)
    finally:
        await consumer.stop()
        await producer.stop()
    return statistics.median(taken) * 1000


async def http_round_trip_ms() -> float:
    """Return the median of a kept-alive GET against a server that does nothing, with the client that the story uses."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    taken = []
    async with server, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await client.get(url)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def summary(seconds: list[float]) -> dict[str, float]:
    """Return runs, p50, p90 and max, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "runs": len(ordered),
        "p50_ms": round(statistics.median(ordered) * 1000, 1),
        "p90_ms": round(ordered[min(int(len(ordered) * 0.9), len(ordered) - 1)] * 1000, 1),
        "max_ms": round(ordered[-1] * 1000, 1),
    }
