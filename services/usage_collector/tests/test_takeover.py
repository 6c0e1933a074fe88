"""Two collector processes on real Kafka and Postgres, one killed in the middle of a stream: the other ends with the same windows."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from billing_common.db import create_pool
from billing_common.testing import drop_database, make_schema
from billing_common.topics import provision
from usage_collector.app import MIGRATIONS, SERVICE
from usage_collector.streams import SUBSCRIBERS

from .conftest import catalogue_applied, state

TOPIC = "takeover.calls"  # this test's own stream, and so its own group
PARTITIONS = 2 * SUBSCRIBERS  # one for each subscriber of both processes
CALLS, CHUNK = 6000, 200
SUBSCRIPTIONS = [f"taken-over-{n}" for n in range(10)]  # no other test reads or tells of these
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
STARTED_SECONDS = 180  # two processes need seconds of processor to start; how many seconds that takes depends on who else works here
TAKEN_OVER_SECONDS = 20  # the session time-out is 3 s; the rest is for a machine that has other things to do


@dataclass
class Collector:
    """One process and its internal door."""

    process: asyncio.subprocess.Process
    port: int

    async def received(self) -> int:
        """Return how many calls this process has stored; 0 while it starts."""
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
            except httpx.TransportError:
                return 0
        lines = [line for line in text.splitlines() if line.startswith('turnpike_usage_received_total{source="stream"}')]
        return int(float(lines[0].split()[-1])) if lines else 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def collector_process(dsn: str, bootstrap: str) -> AsyncIterator[Collector]:
    port = free_port()
    settings = {"DATABASE_URL": dsn, "KAFKA_BOOTSTRAP_SERVERS": bootstrap, "CALLS_TOPIC": TOPIC, "INTERNAL_TOKEN_KEYS": "k" * 32}
    settings |= {"INTERNAL_PORT": str(port), "HTTP_PORT": "0", "BATCH_MAX": "100", "LOG_LEVEL": "ERROR"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_COLLECTOR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", SERVICE, env=environment | {f"USAGE_COLLECTOR_{name}": value for name, value in settings.items()}
    )
    try:
        yield Collector(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def calls() -> list[tuple[str, str, datetime]]:
    """Return id, subscription and time of each call; every twentieth comes twice."""
    each = [(f"call-{n}", SUBSCRIPTIONS[n % 10], START + timedelta(seconds=n % 10800)) for n in range(CALLS)]
    return [copy for n, one in enumerate(each) for copy in ([one, one] if n % 20 == 0 else [one])]


def expected() -> dict[tuple[str, datetime], int]:
    totals: dict[tuple[str, datetime], int] = {}
    for _, subscription, at in {one[0]: one for one in calls()}.values():
        hour = at.replace(minute=0, second=0)
        totals[subscription, hour] = totals.get((subscription, hour), 0) + 1
    return totals


async def windows(pool: asyncpg.Pool) -> dict[tuple[str, datetime], int]:
    rows = await pool.fetch("select s.subscription_id, w.hour, w.quantity from usage_window w join segment s on s.id = w.segment_id")
    return {(row["subscription_id"], row["hour"]): row["quantity"] for row in rows}


async def members(bootstrap: str) -> int:
    """Return how many members of the stream's group have been given partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        (answer,) = await admin.describe_consumer_groups([f"{SERVICE}.{TOPIC}"])
        (group,) = answer.groups
        return len(group[5]) if group[2] == "Stable" else 0
    except GroupCoordinatorNotAvailableError:
        return 0
    finally:
        await admin.close()


async def until(check: Any, what: str, *, seconds: float = 60, pause: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < end, f"not in time: {what}"
        await asyncio.sleep(pause)


@pytest.fixture
async def prepared(postgres_dsn: str, kafka_bootstrap: str) -> AsyncIterator[tuple[str, asyncpg.Pool, AIOKafkaProducer]]:
    """A schema, a stream of its own, and who has which plan."""
    await provision({"bootstrap_servers": kafka_bootstrap})
    await provision({"bootstrap_servers": kafka_bootstrap}, partitions=PARTITIONS, names=[TOPIC])
    dsn = await make_schema(postgres_dsn, SERVICE, MIGRATIONS)
    pool = await create_pool(dsn, schema=SERVICE, size=2)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    dates = {"started_at": START, "current_period_start": START, "current_period_end": START + timedelta(days=20), "occurred_at": START}
    try:
        await producer.start()
        for event in (catalogue_applied(), *(state(sub=name, **dates) for name in SUBSCRIPTIONS)):
            headers = [(name, value.encode()) for name, value in event.headers().items()]
            await producer.send_and_wait(event.topic, event.model_dump_json().encode(), key=event.key.encode(), headers=headers)
        yield dsn, pool, producer
    finally:
        await producer.stop()
        await pool.close()
        await drop_database(postgres_dsn, dsn)


async def send(producer: AIOKafkaProducer, stream: list[tuple[str, str, datetime]]) -> None:
    for start in range(0, len(stream), CHUNK):
        waiting = []
        for place, (name, subscription, at) in enumerate(stream[start : start + CHUNK]):
            record = {"v": 1, "id": name, "time": at.isoformat(), "sid": subscription, "method": "GET", "template": "/a", "status": 200}
            waiting.append(await producer.send(TOPIC, json.dumps(record).encode(), partition=place % PARTITIONS))
        await asyncio.gather(*waiting)


async def test_a_killed_collectors_stream_is_taken_over_and_every_call_counted_once(
    prepared: tuple[str, asyncpg.Pool, AIOKafkaProducer], kafka_bootstrap: str, record_property: Any
) -> None:
    dsn, pool, producer = prepared
    stream = calls()
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(collector_process(dsn, kafka_bootstrap)) for _ in range(2)]

        async def both_read() -> bool:
            return await members(kafka_bootstrap) == PARTITIONS

        await until(both_read, "all subscribers of two processes have partitions", seconds=STARTED_SECONDS, pause=0.3)
        sending = asyncio.create_task(send(producer, stream))

        async def first_works() -> bool:
            return await first.received() > 0

        await until(first_works, "the first process stores calls", pause=0.02)
        first.kill()
        killed_at = time.monotonic()
        assert 0 < await pool.fetchval("select count(*) from usage_event") < CALLS, "killed in the middle"
        await sending

        async def all_counted() -> bool:
            return sum((await windows(pool)).values()) >= CALLS

        await until(all_counted, "the second process has counted everything")
        taken_over_seconds = time.monotonic() - killed_at
        record_property("taken_over_seconds", round(taken_over_seconds, 1))
        assert await windows(pool) == expected()
        assert await second.received() > 0
        assert await pool.fetchval("select count(*) from usage_event where outcome = 'counted'") == CALLS
    assert taken_over_seconds < TAKEN_OVER_SECONDS
