"""How far the collectors have come in the usage streams: the committed offsets of all of them against the streams' ends."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

Offsets = dict[TopicPartition, int]
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic, the group that reads it, and where it is (aiokafka's connection settings)."""

    topic: str
    group: str
    kafka: Mapping[str, Any]


class _Connection:
    """A consumer that never fetches and an admin client, for one stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None

    async def _open(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        if self._admin is None or self._consumer is None:
            await self.close()
            consumer, admin = AIOKafkaConsumer(**self.stream.kafka, enable_auto_commit=False), AIOKafkaAdminClient(**self.stream.kafka)
            self._consumer, self._admin = consumer, admin
            try:
                await consumer.start()
                await admin.start()
            except BaseException:
                await self.close()
                raise
        return self._consumer, self._admin

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        with suppress(Exception):
            if consumer is not None:
                await consumer.stop()
        with suppress(Exception):
            if admin is not None:
                await admin.close()

    async def _places(self, admin: AIOKafkaAdminClient) -> list[TopicPartition]:
        (topic,) = await admin.describe_topics([self.stream.topic])
        return [TopicPartition(self.stream.topic, partition["partition"]) for partition in topic["partitions"]]

    async def ends(self) -> Offsets:
        consumer, admin = await self._open()
        return dict(await consumer.end_offsets(await self._places(admin)))

    async def committed(self) -> Offsets:
        """Return where the group goes on reading; the stream's beginning where it has not committed yet."""
        consumer, admin = await self._open()
        found: Offsets = dict(await consumer.beginning_offsets(await self._places(admin)))
        for place, known in (await admin.list_consumer_group_offsets(self.stream.group)).items():
            if place.topic == self.stream.topic:
                found[place] = max(found.get(place, 0), known.offset)
        return found


class Positions:
    """Ends and committed offsets of all usage streams. After an error the next call connects anew."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._connections = [_Connection(stream) for stream in streams]
        self._unread: dict[str, int] | None = None
        self._caught_up_at = time.monotonic()

    async def ends(self) -> Offsets:
        found: Offsets = {}
        for connection in self._connections:
            found |= await self._ask(connection, connection.ends())
        return found

    async def _committed(self) -> Offsets:
        found: Offsets = {}
        for connection in self._connections:
            found |= await self._ask(connection, connection.committed())
        return found

    @staticmethod
    async def _ask(connection: _Connection, question: Any) -> Offsets:
        try:
            answer: Offsets = await asyncio.wait_for(question, 10)
        except BaseException:
            await connection.close()
            raise
        return answer

    async def measure(self) -> dict[str, int]:
        """Return topic -> records that are not in windows yet, and remember it for `freshness`."""
        before = time.monotonic()
        ends, committed = await self.ends(), await self._committed()
        unread = {connection.stream.topic: 0 for connection in self._connections}
        for place, end in ends.items():
            unread[place.topic] += max(0, end - committed.get(place, 0))
        self._unread = unread
        if not any(unread.values()):
            self._caught_up_at = before
        return unread

    async def wait_until_read(self, ends: Offsets, *, limit_seconds: float) -> bool:
        """Wait until everything before `ends` is committed; False when the time is up."""
        until = time.monotonic() + limit_seconds
        while True:
            committed = await self._committed()
            if all(committed.get(place, 0) >= end for place, end in ends.items()):
                return True
            if time.monotonic() > until:
                return False
            await asyncio.sleep(POLL_SECONDS)

    def freshness(self) -> tuple[float, int | None]:
        """Return how many seconds ago everything was read, at most, and how many records waited at the last look."""
        return time.monotonic() - self._caught_up_at, None if self._unread is None else sum(self._unread.values())

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
