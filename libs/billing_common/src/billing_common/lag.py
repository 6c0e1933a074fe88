"""How far the consumers of a process are behind: for /status and for the metric."""

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from faststream.kafka import KafkaBroker

from billing_common.telemetry import LAG

INTERVAL_SECONDS = 10.0
_published: set[tuple[str, str]] = set()


def consumers(broker: KafkaBroker) -> list[AIOKafkaConsumer]:
    """Return the started consumers of the broker's subscribers."""
    return [consumer for subscriber in broker.subscribers if (consumer := getattr(subscriber, "consumer", None))]


async def measure(running: Sequence[AIOKafkaConsumer], watcher: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """Return how many events of each assigned partition were not taken up. The watcher asks: a subscriber's own connection polls."""
    assigned = {place: consumer for consumer in running for place in consumer.assignment()}
    if not assigned:
        return {}
    ends = await watcher.end_offsets(list(assigned))
    return {place: max(0, end - await assigned[place].position(place)) for place, end in ends.items()}


def publish(behind: dict[TopicPartition, int]) -> None:
    """Set the metric, and forget partitions that another replica has now: two would count the same events."""
    named = {(place.topic, str(place.partition)): count for place, count in behind.items()}
    for gone in _published - named.keys():
        LAG.remove(*gone)
    for labels, count in named.items():
        LAG.labels(*labels).set(count)
    _published.clear()
    _published.update(named)
