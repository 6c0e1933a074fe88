"""Kafka, Postgres and a thousand subscriptions for the measurements of usage; durable, in a folder that is gone afterwards."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import psutil

from bench.usage.calls import ORDER_WEIGHT, PARTITIONS, RENEWAL, START, SUBSCRIPTIONS, sells_traffic
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import SubscriptionCreated, SubscriptionUpdated
from billing_common.testing import make_schema
from billing_common.topics import provision
from embedded_servers.kafka import Kafka
from embedded_servers.ports import free_port
from embedded_servers.postgres import Postgres
from usage_collector import handlers, store, subscription_store
from usage_collector.app import MIGRATIONS, SERVICE

POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB"}  # what a small production server has; all of it durable
TOKEN_KEY = "k" * 32
CALLS_PRICE = {"meter": "calls", "amount": "0.15", "per": 100}
TRAFFIC_PRICE = {"meter": "traffic", "amount": "0.01", "per": 1000000}
CATALOGUE = {
    "version": 1,
    "meters": {
        "calls": {"name": "API calls", "weights": [{"method": "POST", "template": "/orders", "weight": ORDER_WEIGHT}]},
        "traffic": {"name": "Traffic", "unit": "byte", "property": "responseBytes"},
    },
    "products": [
        {"id": "payg", "name": "Pay", "model": "Metered", "price": {"usage": [CALLS_PRICE]}},
        {"id": "data", "name": "Data", "model": "Metered", "price": {"usage": [CALLS_PRICE, TRAFFIC_PRICE]}},
        {"id": "sent", "name": "Sent", "model": "Metered", "source": "ingest", "price": {"usage": [CALLS_PRICE]}},
    ],
}


@dataclass(frozen=True)
class UsageStage:
    """Where the servers are."""

    postgres: Postgres
    kafka: Kafka
    dsn: str
    bootstrap: str
    pool: asyncpg.Pool

    async def add_topic(self, name: str, partitions: int = PARTITIONS) -> str:
        await provision({"bootstrap_servers": self.bootstrap}, partitions=partitions, names=[name])
        return name


@asynccontextmanager
async def usage_stage(
    *, subscriptions: int = SUBSCRIPTIONS, product: str | None = None, shared_buffers_mb: int | None = None
) -> AsyncIterator[UsageStage]:
    """Start servers, make the schema and subscriptions: of `product`, or some of payg and some of data."""
    settings = POSTGRES | ({"shared_buffers": f"{shared_buffers_mb}MB"} if shared_buffers_mb else {})
    with _folders() as (postgres_folder, kafka_folder):
        postgres, kafka = Postgres(postgres_folder, settings=settings), Kafka(kafka_folder)
        try:
            postgres.start()
            kafka.start()
            await provision({"bootstrap_servers": kafka.bootstrap_servers}, partitions=PARTITIONS)
            dsn = await make_schema(postgres.dsn(), SERVICE, MIGRATIONS)
            pool = await create_pool(dsn, schema=SERVICE, size=4)
            await _subscribe(pool, subscriptions, product)
            yield UsageStage(postgres, kafka, dsn, kafka.bootstrap_servers, pool)
            await pool.close()
        finally:
            kafka.stop()
            postgres.stop()


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="turnpike-bench-usage-"))
    folder.chmod(0o711)  # under root, Postgres runs as a user without rights and must get through
    try:
        for name in ("postgres", "kafka"):
            (folder / name).mkdir(mode=0o711)
        yield folder / "postgres", folder / "kafka"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _subscribe(pool: asyncpg.Pool, subscriptions: int, product: str | None) -> None:
    clock = BusinessClock()
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        await subscription_store.add_catalogue(connection, 1, msgspec.json.encode(CATALOGUE).decode())
        for number in range(subscriptions):
            created = _state(SubscriptionCreated, number, product, revision=1, start=START - timedelta(days=10), end=RENEWAL)
            renewed = _state(SubscriptionUpdated, number, product, revision=2, start=RENEWAL, end=RENEWAL + timedelta(days=30))
            for event in (created, renewed):
                await subscription_store.add_fact(connection, event)
            await subscription_store.add_key(connection, created.subscription_id, created.subscription_id, created.account_id)
            await handlers.revise(connection, created.subscription_id, created.account_id, clock)


def _state(kind: Any, number: int, product: str | None, *, revision: int, start: Any, end: Any) -> Any:
    return kind(
        cause_id=f"{number}-{revision}",
        occurred_at=start,
        subscription_id=f"sub-{number}",
        account_id=f"account-{number}",
        revision=revision,
        user_id="user",
        product_id=product or ("data" if sells_traffic(number) else "payg"),
        catalogue_version=1,
        display_name="Mine",
        status="active",
        currency="usd",
        started_at=START - timedelta(days=10),
        current_period_start=start,
        current_period_end=end,
        stripe_subscription_id="sub",
    )


@dataclass
class Process:
    """A collector in a process of its own."""

    pid: int
    http_port: int
    internal_port: int
    _process: Any = field(repr=False)

    def kill(self) -> None:
        self._process.kill()

    def memory_mb(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss // 2**20)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def collector(stage: UsageStage, more: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run a collector until the block ends; `more` are further settings without the prefix. It is alive when this yields."""
    http_port, internal_port = free_port(), free_port()
    settings = {"DATABASE_URL": stage.dsn, "KAFKA_BOOTSTRAP_SERVERS": stage.bootstrap, "INTERNAL_TOKEN_KEYS": TOKEN_KEY}
    settings |= {"HTTP_PORT": str(http_port), "INTERNAL_PORT": str(internal_port), "LOG_LEVEL": "ERROR"}
    settings |= {"STRAGGLER_GRACE_SECONDS": "3600"} | dict(more or {})  # segments that ended stay open: the streams are of the past
    environment = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_COLLECTOR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", SERVICE, env=environment | {f"USAGE_COLLECTOR_{name}": value for name, value in settings.items()}
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{internal_port}/health/live")
                    break
                except httpx.TransportError:
                    assert process.returncode is None, "the collector ended while starting"
                    await asyncio.sleep(0.1)
        yield Process(process.pid, http_port, internal_port, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
