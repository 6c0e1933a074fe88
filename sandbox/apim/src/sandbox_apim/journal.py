"""Keeps every call and every log line in the database before the caller gets its answer, and moves log lines to Kafka."""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from sandbox_apim.limits import Limits, microseconds
from sandbox_apim.policy.call import Call, LogLine

log = logging.getLogger(__name__)
BATCH_MAX = 500
RETRY_SECONDS_MAX = 5.0
PRUNE_EVERY = 10_000
INSERT_CALL = "INSERT INTO calls VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Journal:
    """What is promised: a call that was answered is in the database, with its counters and log lines, though the process is killed."""

    def __init__(self, database: sqlite3.Connection, limits: Limits, *, rows_max: int, outbox_max: int, to_kafka: bool) -> None:
        self._database = database
        self._limits = limits
        self._rows_max = rows_max
        self._outbox_max = outbox_max
        self._to_kafka = to_kafka
        self.waiting = int(database.execute("SELECT count(*) FROM outbox").fetchone()[0])
        self.recorded = int(database.execute("SELECT coalesce(max(number), 0) FROM calls").fetchone()[0])
        self.changed = asyncio.Event()

    @property
    def full(self) -> bool:
        return self.waiting >= self._outbox_max

    def record(self, call: Call) -> None:
        """Write the call, its log lines and the counters it raised in one transaction."""
        lines = call.log_lines if self._to_kafka else []
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.execute(INSERT_CALL, _row(call))
            if lines:
                self._database.executemany("INSERT INTO outbox (topic, key, value) VALUES (?, ?, ?)", _outbox_rows(lines))
            self._limits.write()
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self.recorded += 1
        if lines:
            self.waiting += len(lines)
            self.changed.set()
        if self.recorded % PRUNE_EVERY == 0:
            self._database.execute("DELETE FROM calls WHERE number <= ?", (self.recorded - self._rows_max,))

    def take(self) -> list[tuple[int, str, bytes | None, bytes]]:
        rows = self._database.execute("SELECT number, topic, key, value FROM outbox ORDER BY number LIMIT ?", (BATCH_MAX,))
        return rows.fetchall()

    def sent(self, numbers: Sequence[int]) -> None:
        self._database.execute("DELETE FROM outbox WHERE number BETWEEN ? AND ?", (numbers[0], numbers[-1]))
        self.waiting -= len(numbers)


def _row(call: Call) -> tuple[object, ...]:
    response = call.response
    return (
        call.request_id,
        microseconds(call.timestamp),
        call.subscription.name if call.subscription else "",
        call.user.name if call.user else "",
        call.product.name if call.product else "",
        call.api.name if call.api else "",
        call.operation.name if call.operation else "",
        call.method[:16],
        call.path[:2000],
        call.ip,
        response.status if response else 500,
        call.backend_status,
        len(call.body),
        len(response.body) if response else 0,
        call.elapsed_milliseconds,
        call.backend_milliseconds,
    )


def _outbox_rows(lines: list[LogLine]) -> list[tuple[str, bytes | None, bytes]]:
    return [(line.topic, line.key, line.value) for line in lines]


class KafkaPump:
    """Moves the outbox to Kafka in order, at least once: a line leaves the database when the broker has acknowledged it."""

    def __init__(self, journal: Journal, bootstrap_servers: str) -> None:
        self._journal = journal
        self._servers = bootstrap_servers
        self._task: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None
        self.connected = False

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="kafka-pump")

    async def stop(self, flush_seconds: float = 5.0) -> None:
        """Give what waits a last chance; what stays is sent after the next start."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(flush_seconds):
                while self.connected and self._journal.waiting:  # noqa: ASYNC110 - the pump works on; a kill may cut it at any point
                    await asyncio.sleep(0.02)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._close()

    async def _run(self) -> None:
        pause = 0.2
        while True:
            try:
                await self._drain()
            except (KafkaError, OSError) as error:
                self.connected = False
                log.warning(
                    "kafka does not take log lines (%s): %d wait, next try in %.1f s", type(error).__name__, self._journal.waiting, pause
                )
                await self._close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_SECONDS_MAX)
            else:
                pause = 0.2

    async def _drain(self) -> None:
        producer = await self._connect()
        self._journal.changed.clear()
        if rows := self._journal.take():
            sends = [await producer.send(topic, value, key=key) for _, topic, key, value in rows]
            failures = [result for result in await asyncio.gather(*sends, return_exceptions=True) if isinstance(result, BaseException)]
            if failures:
                raise failures[0]  # all are sent again: a line may come twice, never not at all
            self._journal.sent([row[0] for row in rows])
        elif not self._journal.changed.is_set():
            await self._journal.changed.wait()

    async def _connect(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._servers,
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                max_request_size=1_000_000,
                request_timeout_ms=10_000,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        self.connected = True
        return self._producer

    async def _close(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(3):
                    await producer.stop()
