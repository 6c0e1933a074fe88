"""Kafka, Postgres and a thousand subscriptions for the measurements of usage; durable, in a folder that is gone afterwards."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import SubscriptionCreated
from billing_common.testing import make_schema
from billing_common.topics import provision
from embedded_servers.kafka import Kafka
from embedded_servers.postgres import Postgres
from usage_collector import handlers, store, subscription_store
from usage_collector.app import MIGRATIONS, SERVICE
from usage_collector.settings import Settings

SUBSCRIPTIONS = 1000
PARTITIONS = 4
DUPLICATE_EVERY = 20
CALLS_TOPIC = "gateway.calls"
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
METERED = {"usage": [{"meter": "calls", "amount": "0.15", "per": 100}]}
CATALOGUE = {
    "version": 1,
    "meters": {"calls": {"name": "API calls", "weights": [{"method": "POST", "template": "/orders", "weight": 5}]}},
    "products": [
        {"id": "payg", "name": "Pay", "model": "Metered", "price": METERED},
        {"id": "sent", "name": "Sent", "model": "Metered", "source": "ingest", "price": METERED},
    ],
}


@dataclass(frozen=True)
class UsageStage:
    """Where the servers are."""

    dsn: str
    bootstrap: str
    pool: asyncpg.Pool

    def settings(self, **more: Any) -> Settings:
        return Settings(
            database_url=SecretStr(self.dsn),
            kafka_bootstrap_servers=self.bootstrap,
            internal_token_keys=SecretStr("k" * 32),
            **more,
        )


@asynccontextmanager
async def usage_stage(product: str) -> AsyncIterator[UsageStage]:
    """Start servers, make the schema and a thousand subscriptions of a product."""
    with _folders() as (postgres_folder, kafka_folder), Postgres(postgres_folder) as postgres, Kafka(kafka_folder) as kafka:
        await provision({"bootstrap_servers": kafka.bootstrap_servers}, partitions=PARTITIONS)
        dsn = await make_schema(postgres.dsn(), SERVICE, MIGRATIONS)
        pool = await create_pool(dsn, schema=SERVICE, size=4)
        await _subscribe(pool, product)
        yield UsageStage(dsn, kafka.bootstrap_servers, pool)
        await pool.close()


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


async def _subscribe(pool: asyncpg.Pool, product: str) -> None:
    clock = BusinessClock()
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        await subscription_store.add_catalogue(connection, 1, msgspec.json.encode(CATALOGUE).decode())
        for number in range(SUBSCRIPTIONS):
            event = _created(number, product)
            await subscription_store.add_fact(connection, event)
            await subscription_store.add_key(connection, event.subscription_id, event.subscription_id, event.account_id)
            await handlers.revise(connection, event.subscription_id, event.account_id, clock)


def _created(number: int, product: str) -> SubscriptionCreated:
    return SubscriptionCreated(
        cause_id=str(number),
        occurred_at=START,
        subscription_id=f"sub-{number}",
        account_id=f"account-{number}",
        revision=1,
        user_id="user",
        product_id=product,
        catalogue_version=1,
        display_name="Mine",
        status="active",
        currency="usd",
        started_at=START,
        current_period_start=START,
        current_period_end=START + timedelta(days=30),
        stripe_subscription_id="sub",
    )


async def write_calls(bootstrap: str, calls: int) -> int:
    """Write a stream of calls, every twentieth a repetition; returns how many records."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        sent = 0
        for number in range(calls):
            value = _call(number - 7 if number % DUPLICATE_EVERY == DUPLICATE_EVERY - 1 else number)
            if batch.append(key=None, value=value, timestamp=None) is None:
                await (await producer.send_batch(batch, CALLS_TOPIC, partition=sent % PARTITIONS))
                sent += 1
                batch = producer.create_batch()
                batch.append(key=None, value=value, timestamp=None)
        await (await producer.send_batch(batch, CALLS_TOPIC, partition=sent % PARTITIONS))
    finally:
        await producer.stop()
    return calls


def _call(number: int) -> bytes:
    at = START + timedelta(milliseconds=number * 18_000_000 // 1_000_000)
    record = {
        "v": 1,
        "id": f"3f1c0b9e-{number:012d}",
        "time": at,
        "sid": f"sub-{number % SUBSCRIPTIONS}",
        "product": "payg",
        "api": "orders",
    }
    record |= {"operation": "get-order", "method": "GET", "template": "/orders/{id}", "status": 500 if number % 50 == 0 else 200}
    return msgspec.json.encode(record | {"requestBytes": 0, "responseBytes": 512 + number % 512})
