"""A consumer that stands still while events wait for it is started anew.

aiokafka reads with tasks of its own. One that ends by an error nobody foresaw says so once in the log: the consumer stays a member of its
group, keeps its partitions and reads nothing any more, without an error that anybody sees.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from faststream.kafka import KafkaBroker
from prometheus_client import Counter

from billing_common.messaging import PauseOrPark

LOOK_SECONDS = 5.0
STILL_SECONDS = 30.0  # far above a rebalance, a reconnection, and the pause of FastStream after an error of Kafka
POSITION_SECONDS = 1.0
ENDS_SECONDS = 10.0
STOP_SECONDS = 10.0

RESTARTS = Counter("turnpike_consumer_restarts_total", "Consumers that stood still and were started anew", ["topic"])

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Still:
    position: int | None  # None: not even known where it reads
    since: float


class Standstill:
    """Watches the subscribers of one broker. `watcher` asks where topics end, over a connection of its own."""

    def __init__(self, broker: KafkaBroker, watcher: AIOKafkaConsumer) -> None:
        self._broker, self._watcher = broker, watcher
        self._still: dict[tuple[int, TopicPartition], _Still] = {}

    def begin(self) -> None:
        """Forget what was seen: after an error of Kafka every wait begins anew."""
        self._still.clear()

    async def heal(self) -> None:
        """Look once, and start anew what stands still; nothing before the groups are joined. Raises when Kafka does not answer."""
        if not self._broker.running:
            return
        for subscriber in await self._standing():
            await self._restart(subscriber)

    async def _standing(self) -> list[Any]:
        """Return the subscribers that must be started anew; one without a consumer could not be started the last time."""
        subscribers: list[Any] = list(self._broker.subscribers)
        places = {place for one in subscribers if one.consumer for place in one.consumer.assignment()}
        ends = await asyncio.wait_for(self._watcher.end_offsets(list(places)), ENDS_SECONDS) if places else {}
        before, self._still = self._still, {}
        return [
            one for one in subscribers if one.consumer is None or has_ended(one.consumer) or await self._stands_still(one, ends, before)
        ]

    async def _stands_still(
        self, subscriber: Any, ends: dict[TopicPartition, int], before: dict[tuple[int, TopicPartition], _Still]
    ) -> bool:
        """Tell whether the position of one of its partitions has not moved for too long although nobody handles an event."""
        now, consumer = time.monotonic(), subscriber.consumer
        places = [place for place in consumer.assignment() if place in ends]
        if any(place in PauseOrPark.handling for place in places):
            return False
        longest = 0.0
        for place in places:
            position = await _position(consumer, place)
            if position is not None and position >= ends[place]:
                continue
            key = (id(consumer), place)
            known = before.get(key)
            self._still[key] = known if known is not None and known.position == position else _Still(position, now)
            longest = max(longest, now - self._still[key].since)
        return longest >= STILL_SECONDS

    async def _restart(self, subscriber: Any) -> None:
        topic = ",".join(subscriber.topic_names)
        RESTARTS.labels(topic).inc()
        log.warning("a consumer stood still and is started anew", topic=topic, group=subscriber.group_id)
        await _stop(subscriber)
        try:
            await subscriber.start()
        except BaseException:
            await _stop(subscriber)  # what has only half started: the next look tries again
            raise


async def _stop(subscriber: Any) -> None:
    """Stop a subscriber; one that cannot be stopped is left behind."""
    consumer = subscriber.consumer
    with suppress(Exception):  # whatever ended it may be raised again by its stop
        await asyncio.wait_for(subscriber.stop(), STOP_SECONDS)
        return
    for task in subscriber.tasks:
        task.cancel()
    subscriber.tasks.clear()
    subscriber.consumer = None
    if consumer is not None:
        await _cut_off(consumer)


def has_ended(consumer: AIOKafkaConsumer) -> bool:
    """Tell whether one of the tasks has ended that a consumer reads with: aiokafka has no public way to ask."""
    tasks = (consumer._fetcher._fetch_task, consumer._coordinator._coordination_task)  # noqa: SLF001 - see above
    return any(task.done() for task in tasks)


async def _position(consumer: AIOKafkaConsumer, place: TopicPartition) -> int | None:
    with suppress(Exception):
        position: int = await asyncio.wait_for(consumer.position(place), POSITION_SECONDS)
        return position
    return None


async def _cut_off(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, and what of it goes on all the same: without heartbeats the group gives its partitions to others."""
    with suppress(Exception):
        await asyncio.wait_for(consumer.stop(), STOP_SECONDS)
    coordinator: Any = consumer._coordinator  # noqa: SLF001 - as above
    for task in (coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task):  # noqa: SLF001
        if task is not None:
            task.cancel()
    for part in (consumer._fetcher, consumer._client):  # noqa: SLF001
        with suppress(Exception):
            await asyncio.wait_for(part.close(), STOP_SECONDS)


async def watch(broker: KafkaBroker, watcher: AIOKafkaConsumer) -> None:
    """Look again and again at a broker of one's own, until an error of Kafka ends it. `watcher` is started here, and stopped."""
    standstill = Standstill(broker, watcher)
    try:
        await watcher.start()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await standstill.heal()
    finally:
        await watcher.stop()
