"""Poison: stored with cause and original in the service's dead-letter topic, listed, and sent again by a person."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from billing_common.telemetry import DEAD_LETTERS, describe
from billing_common.topics import dead_letter_topic

log = structlog.get_logger(__name__)
PAGE_MAX = 200
OFFSET_DIGITS_MAX = 18  # what Kafka counts to, and Python reads
OUR_HEADERS = ("dlq-error", "dlq-message", "dlq-topic", "dlq-partition", "dlq-offset")


class DeadLetterNotFoundError(Exception):
    """There is no dead letter with this id."""


@dataclass(frozen=True)
class DeadLetter:
    """One record that no retry can help. `id` is partition-offset in the dead-letter topic."""

    id: str
    topic: str
    partition: int
    offset: int
    error: str
    message: str
    key: str
    at: int
    headers: dict[str, str]
    value: bytes
    requeued: bool

    def summary(self) -> dict[str, Any]:
        """Return all but the payload."""
        return {name: value for name, value in asdict(self).items() if name not in {"value", "headers"}}


async def park(producer: AIOKafkaProducer, service: str, record: Any, error: Exception) -> None:
    """Copy the raw record to the dead-letter topic. Raises KafkaError when that fails: then nothing is acknowledged and nothing lost."""
    ours = {
        "dlq-error": type(error).__name__,
        "dlq-message": describe(error),
        "dlq-topic": record.topic,
        "dlq-partition": str(record.partition),
        "dlq-offset": str(record.offset),
    }
    kept = [(name, value or b"") for name, value in record.headers if name not in OUR_HEADERS]
    await producer.send_and_wait(
        dead_letter_topic(service),
        value=record.value,
        key=record.key,
        headers=[*kept, *((name, value.encode(errors="backslashreplace")) for name, value in ours.items())],
    )
    DEAD_LETTERS.labels(record.topic, type(error).__name__).inc()
    log.error(
        "event went to the dead-letter topic",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        error=type(error).__name__,
    )


class DeadLetters:
    """The dead letters of one service."""

    def __init__(self, service: str, kafka: Mapping[str, Any], pool: asyncpg.Pool, producer: AIOKafkaProducer) -> None:
        self._topic = dead_letter_topic(service)
        self._kafka, self._pool, self._producer = kafka, pool, producer

    async def page(self, *, limit: int = 50, before: int | None = None) -> list[DeadLetter]:
        """Return the newest dead letters first; `before` is the offset to go on from."""
        consumer = AIOKafkaConsumer(**self._kafka, enable_auto_commit=False)
        try:
            await consumer.start()
            place = TopicPartition(self._topic, 0)
            consumer.assign([place])
            first = (await consumer.beginning_offsets([place]))[place]
            end = min((await consumer.end_offsets([place]))[place], before if before is not None else 2**62)
            start = max(first, end - min(limit, PAGE_MAX))
            consumer.seek(place, start)
            records: list[Any] = []
            while start + len(records) < end:
                batch = (await consumer.getmany(place, timeout_ms=2000, max_records=end - start - len(records))).get(place, [])
                if not batch:
                    break
                records += [record for record in batch if record.offset < end]
        finally:
            await consumer.stop()
        requeued = {
            (row["record_partition"], row["record_offset"])
            for row in await self._pool.fetch("select record_partition, record_offset from requeued_dead_letter")
        }
        return [_read(record, requeued) for record in reversed(records)]

    async def get(self, letter_id: str) -> DeadLetter:
        """Return one. Raises DeadLetterNotFoundError."""
        _, _, offset = letter_id.partition("-")
        if not (offset.isascii() and offset.isdigit() and len(offset) <= OFFSET_DIGITS_MAX):
            raise DeadLetterNotFoundError(letter_id)
        for letter in await self.page(limit=1, before=int(offset) + 1):
            if letter.id == letter_id:
                return letter
        raise DeadLetterNotFoundError(letter_id)

    async def requeue(self, letter_id: str, *, by: str) -> DeadLetter:
        """Send the original to its topic again, byte for byte. Other consumers of that topic refuse it by their claim."""
        letter = await self.get(letter_id)
        headers = [(name, value.encode()) for name, value in letter.headers.items()]
        await self._producer.send_and_wait(letter.topic, value=letter.value, key=letter.key.encode() or None, headers=headers)
        partition, _, offset = letter_id.partition("-")
        await self._pool.execute(
            "insert into requeued_dead_letter(record_partition, record_offset, requeued_by) values ($1, $2, $3) on conflict do nothing",
            int(partition),
            int(offset),
            by,
        )
        log.info("dead letter sent again", topic=letter.topic, letter=letter_id, by=by)
        return letter


def _read(record: Any, requeued: set[tuple[int, int]]) -> DeadLetter:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    return DeadLetter(
        id=f"{record.partition}-{record.offset}",
        topic=headers.get("dlq-topic", ""),
        partition=int(headers.get("dlq-partition", "-1")),
        offset=int(headers.get("dlq-offset", "-1")),
        error=headers.get("dlq-error", ""),
        message=headers.get("dlq-message", ""),
        key=(record.key or b"").decode("utf-8", "replace"),
        at=record.timestamp,
        headers={name: value for name, value in headers.items() if name not in OUR_HEADERS},
        value=record.value or b"",
        requeued=(record.partition, record.offset) in requeued,
    )
