"""The two streams of usage: batches of records to the collector, poison parked one by one, everything else held."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from aiokafka import AIOKafkaProducer
from faststream import AckPolicy, Context
from faststream.kafka import KafkaMessage, KafkaRouter

from billing_common.clock import BusinessClock
from billing_common.dead_letters import park
from billing_common.events import USAGE_RECORDED_TOPIC
from billing_common.messaging import safe_headers
from usage_collector.call_mapping import CallMapping, decode_mapped
from usage_collector.cloud_events import Limits
from usage_collector.collecting import Collector
from usage_collector.decoding import Decoded, decode_calls, decode_recorded
from usage_collector.kafka_cloud_events import decode_cloud_events
from usage_collector.senders import Senders

SERVICE = "usage_collector"
SUBSCRIBERS = 4  # each waits for Postgres half of the time: together they keep one core of Python busy
RECORDS_MAX = 500  # of usage.recorded: each may hold a thousand events
PARTITION_FETCH_BYTES = 3 << 20
HEARTBEAT_INTERVAL_MS = 500  # further subscribers get their partitions at the first one's next heartbeat

ANY_TIME = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))  # the collector refuses by time, and lists

Decode = Callable[[Sequence[Any]], Decoded]
ReadCalls = Callable[[Senders], Awaitable[Decode]]  # may first look up what the catalogue says


def group_of(topic: str) -> str:
    return f"{SERVICE}.{topic}"


async def leave_raw(_message: Any) -> bytes:
    """Decode nothing: the handler takes the whole batch of raw records at once."""
    return b""


async def look_at_first(records: Any, original: Callable[[Any], Any]) -> Any:
    """Parse the first record for the whole batch: the body says all, and every further set of headers would only cost time."""
    message = await safe_headers(records[:1], original)
    message.raw_message = records
    return message


def stream_router(topic: str, handler: Callable[..., Any], *, records_max: int, session_timeout_ms: int) -> KafkaRouter:
    """Return a router on which `handler` is subscribed several times to the topic, in one group."""
    router = KafkaRouter()
    for _ in range(SUBSCRIBERS):
        subscriber = router.subscriber(
            topic,
            batch=True,
            max_records=records_max,
            group_id=group_of(topic),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            auto_offset_reset="earliest",
            parser=look_at_first,
            decoder=leave_raw,
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            title=group_of(topic),
        )
        subscriber(handler)
    return router


CollectorInContext = Annotated[Collector, Context("collector")]
ProducerInContext = Annotated[AIOKafkaProducer, Context("producer")]
ClockInContext = Annotated[BusinessClock, Context("clock")]
SendersInContext = Annotated[Senders, Context("senders")]


def values_of(records: Sequence[Any]) -> list[bytes]:
    return [record.value or b"" for record in records]


def read_fixed_calls() -> ReadCalls:
    """Read what the policy log-to-eventhub writes."""

    async def read(_senders: Senders) -> Decode:
        return _decode_fixed

    return read


def _decode_fixed(records: Sequence[Any]) -> Decoded:
    return decode_calls(values_of(records))


def read_mapped_calls(mapping: CallMapping, *, quantity_max: int) -> ReadCalls:
    """Read another gateway's JSON; whether digits are a number or a text depends on the catalogue."""

    async def read(senders: Senders) -> Decode:
        await senders.refresh_when_old()
        counted = senders.values
        return lambda records: decode_mapped(values_of(records), mapping, quantity_max, counted)

    return read


def read_cloud_events(*, quantity_max: int, events_max: int) -> ReadCalls:
    """Read CloudEvents; which texts are kept, as digests, depends on the catalogue."""

    async def read(senders: Senders) -> Decode:
        await senders.refresh_when_old()
        limits = Limits(*ANY_TIME, quantity_max, frozenset(), senders.values)  # the collector refuses meters, and lists
        return lambda records: decode_cloud_events(records, limits, events_max)

    return read


def calls_handler(read: ReadCalls) -> Callable[..., Any]:
    """Return the handler of the calls' topic, for one format."""

    async def on_gateway_calls(
        message: KafkaMessage,
        collector: CollectorInContext,
        producer: ProducerInContext,
        clock: ClockInContext,
        senders: SendersInContext,
    ) -> None:
        await _take(message.raw_message, await read(senders), collector, producer, clock)

    return on_gateway_calls


async def on_usage_recorded(
    message: KafkaMessage, collector: CollectorInContext, producer: ProducerInContext, clock: ClockInContext
) -> None:
    """Take what HTTP ingest accepted: an array of CloudEvents per record."""
    await _take(message.raw_message, lambda records: decode_recorded(values_of(records)), collector, producer, clock)


async def _take(records: Any, decode: Decode, collector: Collector, producer: AIOKafkaProducer, clock: BusinessClock) -> None:
    batch = records if isinstance(records, tuple | list) else (records,)
    seen, bad = decode(batch)
    if seen:
        await collector.collect(seen, now=clock.now())
    for place, error in bad:  # after the good ones: a redelivery parks again, and never loses
        await park(producer, SERVICE, batch[place], error)


def usage_recorded_router(*, session_timeout_ms: int) -> KafkaRouter:
    return stream_router(USAGE_RECORDED_TOPIC, on_usage_recorded, records_max=RECORDS_MAX, session_timeout_ms=session_timeout_ms)


def gateway_calls_router(topic: str, read: ReadCalls, *, records_max: int, session_timeout_ms: int) -> KafkaRouter:
    return stream_router(topic, calls_handler(read), records_max=records_max, session_timeout_ms=session_timeout_ms)
