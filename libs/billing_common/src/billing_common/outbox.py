"""What waits to be published: written in the handler's transaction, moved to Kafka by the relay, at least once, in order per key."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTopicError, KafkaError, MessageSizeTooLargeError
from prometheus_client import Counter, Gauge

from billing_common.db import Connection, listening, require_open
from billing_common.events import Event

SHARDS = 8
BATCH = 500
IDLE_SECONDS = 1.0

PUBLISHED = Counter("turnpike_outbox_published_total", "Events moved from the outbox to Kafka", ["topic"])
WAITING = Gauge("turnpike_outbox_rows", "Events waiting in the outbox")
OLDEST = Gauge("turnpike_outbox_oldest_seconds", "Age of the oldest event in the outbox")
DEAD = Counter("turnpike_outbox_dead_total", "Events that can never be published", ["topic"])

log = structlog.get_logger(__name__)


async def announce(connection: Connection, event: Event) -> None:
    """Add an event to the outbox, inside the business transaction.

    Update or lock the row that owns the event's key first: then events of one key leave in the order their transactions committed.
    """
    await connection.execute(
        f"insert into outbox(shard, topic, key, value, headers) values ((hashtext($2) & 2147483647) % {SHARDS}, $1, $2, $3, $4)",  # noqa: S608 - a constant
        event.topic,
        event.key,
        event.model_dump_json().encode(),
        json.dumps(event.headers()),
    )


async def announce_many(connection: Connection, events: Sequence[Event]) -> None:
    """Add many events to the outbox in one statement, in their order."""
    await connection.execute(
        "insert into outbox(shard, topic, key, value, headers) "
        "select (hashtext(key) & 2147483647) % $5, topic, key, value, headers "
        "from unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) with ordinality e(topic, key, value, headers, place) order by place",
        [event.topic for event in events],
        [event.key for event in events],
        [event.model_dump_json().encode() for event in events],
        [json.dumps(event.headers()) for event in events],
        SHARDS,
    )


class Relay:
    """Moves outbox rows to Kafka. Several may run: an advisory lock gives each shard to one at a time."""

    def __init__(self, pool: asyncpg.Pool, producer: AIOKafkaProducer, *, schema: str) -> None:
        self._pool = pool
        self._producer = producer
        self._channel = f"{schema}.outbox"
        self._wake = asyncio.Event()
        self.moved = 0

    async def run(self) -> None:
        """Move rows until cancelled. NOTIFY is a hint; a poll each second is the truth."""
        async with listening(self._pool, self._channel, self._wake.set) as connection:
            while True:
                self._wake.clear()
                if not await self.drain():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), IDLE_SECONDS)
                require_open(connection)

    async def drain(self) -> int:
        """Publish what is there now; returns how many rows left the outbox."""
        shards = await self._pool.fetch(
            "select shard, count(*) as waiting, min(created_at) as oldest, now() as now from outbox group by shard"
        )
        WAITING.set(sum(row["waiting"] for row in shards))
        OLDEST.set(max(((row["now"] - row["oldest"]).total_seconds() for row in shards), default=0.0))
        moved = 0
        for row in shards:
            moved += await self._drain_shard(row["shard"])
        self.moved += moved
        return moved

    async def _drain_shard(self, shard: int) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("select pg_try_advisory_xact_lock(hashtext($1), $2)", self._channel, shard):
                return 0
            rows = await connection.fetch(
                "select id, topic, key, value, headers from outbox where shard = $1 order by id limit $2", shard, BATCH
            )
            sent, dead = await self._publish(rows)
            if dead:
                await connection.execute(
                    "with gone as (delete from outbox o using unnest($1::bigint[], $2::text[]) u(id, error) where o.id = u.id "
                    "returning o.id, o.topic, o.key, o.value, o.headers, o.created_at, u.error) insert into outbox_dead select * from gone",
                    list(dead),
                    list(dead.values()),
                )
            if sent:
                await connection.execute("delete from outbox where id = any($1::bigint[])", sent)
            return len(sent) + len(dead)

    async def _publish(self, rows: list[Any]) -> tuple[list[int], dict[int, str]]:
        waiting, dead, blocked, sent = [], {}, set(), []
        for row in rows:
            headers = [(name, value.encode()) for name, value in json.loads(row["headers"]).items()]
            try:
                future = await self._producer.send(row["topic"], row["value"], key=row["key"].encode(), headers=headers)
            except (MessageSizeTooLargeError, InvalidTopicError) as error:
                dead[row["id"]] = repr(error)
                DEAD.labels(row["topic"]).inc()
                log.exception("outbox row can never be published", topic=row["topic"], error=type(error).__name__)
            else:
                waiting.append((row, future))
        for row, future in waiting:
            try:
                await future
            except KafkaError as error:
                blocked.add(row["key"])
                log.warning("kafka did not take an event: it is sent again", topic=row["topic"], error=type(error).__name__)
            else:
                if row["key"] not in blocked:  # after a failure, later rows of that key go again too
                    sent.append(row["id"])
                    PUBLISHED.labels(row["topic"]).inc()
        return sent, dead
