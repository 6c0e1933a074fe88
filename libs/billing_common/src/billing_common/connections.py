"""What a service process has open at Kafka: its producer, its consumers, and one that watches how far these are behind."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faststream.kafka import KafkaBroker

from billing_common import kafka, lag
from billing_common.joining import join_groups
from billing_common.messaging import PauseOrPark
from billing_common.settings import ServiceSettings
from billing_common.standstill import LOOK_SECONDS, Standstill

CONNECT_SECONDS = 5
CLOSE_SECONDS = 5


class Connections:
    """Made on the event loop, opened by a loop of the service as often as it takes, closed once."""

    def __init__(self, broker: KafkaBroker, settings: ServiceSettings) -> None:
        arguments = kafka.arguments(settings)
        self.producer = AIOKafkaProducer(**arguments, enable_idempotence=True, linger_ms=0, max_batch_size=131072, request_timeout_ms=10000)
        # Asks where topics end over a connection of its own: on a subscriber's it would wait behind the long poll.
        self.watcher = AIOKafkaConsumer(**arguments, enable_auto_commit=False)
        self.joined = False
        self._standstill = Standstill(broker, self.watcher)
        self._broker = broker
        self._opening = asyncio.Lock()
        self._started: list[AIOKafkaProducer | AIOKafkaConsumer] = []

    async def open(self) -> None:
        """Start what is not started yet, and join all groups."""
        async with self._opening:
            for client in [client for client in (self.producer, self.watcher) if client not in self._started]:
                await client.start()
                self._started.append(client)
            if not self.joined:
                await join_groups(self._broker)
                self.joined = True

    async def stop_consuming(self, give_up_opening: Callable[[], Awaitable[None]]) -> None:
        """Stop the consumers; none is opened again. A client cut off while it connects leaves its connections open: it gets a while."""
        try:
            await asyncio.wait_for(self._opening.acquire(), CONNECT_SECONDS)
        except TimeoutError:
            await give_up_opening()  # what still joins would go on behind a broker that is stopped
        await self._broker.stop()

    async def close(self) -> None:
        for client in (self.watcher, self.producer):
            with suppress(Exception):
                await asyncio.wait_for(client.stop(), CLOSE_SECONDS)

    async def unread(self) -> list[str]:
        """Return what keeps the consumers from having read and handled everything; empty when they have."""
        if not self._broker.subscribers:
            return []
        if not self.joined:
            return ["Kafka"]
        consumers = lag.consumers(self._broker)
        behind = await lag.measure(consumers, self.watcher)
        if not behind:
            return ["partitions"]
        waiting = [f"unread events of {topic}" for topic in sorted({place.topic for place, count in behind.items() if count > 0})]
        if PauseOrPark.busy:
            waiting.append(f"{PauseOrPark.busy} events being handled")
        missing = {topic for consumer in consumers for topic in consumer.subscription()} - {place.topic for place in behind}
        return [*waiting, *(f"partitions of {topic}" for topic in sorted(missing))]

    async def watch_lag(self) -> None:
        while True:
            await asyncio.sleep(lag.INTERVAL_SECONDS)
            if self.joined:
                lag.publish(await lag.measure(lag.consumers(self._broker), self.watcher))

    async def watch_standstill(self) -> None:
        """Start consumers anew that stand still; none any more once `stop_consuming` has begun."""
        self._standstill.begin()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            async with self._opening:
                await self._standstill.heal()
