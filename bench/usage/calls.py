"""Calls of a gateway as bytes on a topic, with their own count of what has to come out. Shares no code with the collector."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaProducer

SUBSCRIPTIONS = 1000
PARTITIONS = 4
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
SPAN = timedelta(hours=3)  # the calls of a stream lie in these hours
RENEWAL = START + timedelta(minutes=90)  # in the middle of an hour every subscription gets its next segment
DUPLICATE_EVERY, FAILED_EVERY, UNKNOWN_EVERY, ORDER_EVERY, TRAFFIC_EVERY = 20, 50, 200, 10, 5
ORDER_WEIGHT = 5
RECORD = (
    b'{"v":1,"id":"3f1c0b9e-%012d","time":"%b","sid":"%b-%d","product":"%b","api":"orders","operation":"%b","method":"%b",'
    b'"template":"%b","status":%d,"requestBytes":0,"responseBytes":%d}'
)


def sells_traffic(subscription: int) -> bool:
    """Every fifth subscription has a product that counts bytes as well."""
    return subscription % TRAFFIC_EVERY == 0


@dataclass
class Expected:
    """What the calls of a stream add up to."""

    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    quantities: Counter[str] = field(default_factory=Counter)

    @property
    def distinct(self) -> int:
        return self.outcomes.total()


def make_calls(first: int, many: int, expected: Expected, *, subscriptions: int = SUBSCRIPTIONS, total: int = 0) -> Iterator[bytes]:
    """Yield calls from number `first` on, every twentieth a repetition. Their times are spread over `SPAN` for `total` calls."""
    step = SPAN / (total or many)
    for place in range(first, first + many):
        expected.sent += 1
        repeated = place % DUPLICATE_EVERY == DUPLICATE_EVERY - 1
        number = place - 7 if repeated else place
        subscription, size = number % subscriptions, 512 + number % 512
        failed, unknown, order = number % FAILED_EVERY == 0, number % UNKNOWN_EVERY == 150, number % ORDER_EVERY == 3
        at = START + step * (number - first)
        yield RECORD % (
            number,
            at.isoformat(timespec="microseconds").replace("+00:00", "Z").encode(),
            b"nobody" if unknown else b"sub",
            number % 10 if unknown else subscription,
            b"data" if sells_traffic(subscription) else b"payg",
            b"create-order" if order else b"get-order",
            b"POST" if order else b"GET",
            b"/orders" if order else b"/orders/{id}",
            500 if failed else 200,
            size,
        )
        if repeated:
            continue
        expected.outcomes["held" if unknown else "filtered" if failed else "counted"] += 1
        if not failed and not unknown:
            expected.quantities["calls"] += ORDER_WEIGHT if order else 1
            if sells_traffic(subscription):
                expected.quantities["traffic"] += size


async def write_calls(
    bootstrap: str, topic: str, calls: Iterator[bytes], *, first_partition: int = 0, partitions: int = PARTITIONS
) -> None:
    """Write calls in full batches, partition after partition."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch, sent = producer.create_batch(), first_partition
        for value in calls:
            if batch.append(key=None, value=value, timestamp=None) is None:
                await (await producer.send_batch(batch, topic, partition=sent % partitions))
                batch, sent = producer.create_batch(), sent + 1
                batch.append(key=None, value=value, timestamp=None)
        await (await producer.send_batch(batch, topic, partition=sent % partitions))
    finally:
        await producer.stop()
