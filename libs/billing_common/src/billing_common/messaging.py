"""How every handler is subscribed, and how a handler ends: done, parked as poison, or held with a growing pause until it works."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_type_hints

import fast_depends.exceptions
import structlog
from aiokafka import TopicPartition
from faststream import AckPolicy, BaseMiddleware
from faststream._internal.context.context_type import Context as ContextMark
from faststream.exceptions import ContextError, IgnoredException
from faststream.kafka import KafkaBroker, KafkaRouter

from billing_common.dead_letters import park
from billing_common.events import Event, InvalidEventError
from billing_common.telemetry import HANDLED, HANDLING, RETRIES, describe

# What the event itself can be guilty of. A pydantic error raised inside a handler is our bug and holds the partition instead.
POISON = (InvalidEventError, fast_depends.exceptions.ValidationError, json.JSONDecodeError, UnicodeDecodeError)
SESSION_TIMEOUT_MS = 6000  # the lowest a broker allows by default: a dead member's partitions move after 6 s
HEARTBEAT_INTERVAL_MS = 1000

HELD_SHOWN_AFTER = timedelta(seconds=10)
HELD_FORGOTTEN_AFTER = timedelta(minutes=1)  # far above the longest pause
HELD_SHOWN_MAX = 20

OF_FASTSTREAM = frozenset({"message", "broker", "logger", "context"})  # what it puts into the context itself, per message

log = structlog.get_logger(__name__)


def consume(router: KafkaRouter, event: type[Event], *, service: str) -> Callable[[Callable[..., Any]], Any]:
    """Subscribe a handler to one event class: one group per service and topic, committed only after the handler returned."""
    subscriber: Callable[[Callable[..., Any]], Any] = router.subscriber(
        event.topic,
        group_id=f"{service}.{event.topic}",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        auto_offset_reset="earliest",
        parser=safe_headers,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
        title=f"{service}.{event.topic}",
    )
    return subscriber


def check_context(broker: KafkaBroker) -> None:
    """Raise when a handler asks for a Context name nobody shared: at run time that would look like a bad event and park them all."""
    for subscriber in broker.subscribers:
        for call in subscriber.calls:
            hints = get_type_hints(call.handler._original_call, include_extras=True)  # noqa: SLF001 - FastStream has no public way to the function
            for hint in hints.values():
                for mark in getattr(hint, "__metadata__", ()):
                    if (
                        isinstance(mark, ContextMark)
                        and mark.name
                        and mark.name.split(".")[0] not in OF_FASTSTREAM
                        and not _is_known(broker, mark.name)
                    ):
                        raise RuntimeError(f"a handler asks for Context({mark.name!r}), which nobody shared")


def _is_known(broker: KafkaBroker, name: str) -> bool:
    try:
        broker.context.resolve(name)
    except ContextError:  # its own text would print the whole context, keys included
        return False
    return True


async def safe_headers(record: Any, original: Callable[[Any], Any]) -> Any:
    """Repair header values that are not UTF-8: FastStream would drop such a record without a word."""
    for one in record if isinstance(record, tuple) else (record,):
        one.headers = tuple((name, (value or b"").decode("utf-8", "replace").encode()) for name, value in one.headers)
    return await original(record)


@dataclass
class Held:
    """An event that holds its partition (wall time). `tried_at` grows old where another process has taken the partition over."""

    since: datetime
    tried_at: datetime
    tries: int
    error: str


class PauseOrPark(BaseMiddleware):
    """Parks named poison, holds everything else: an outage stops the partition and loses nothing.

    The service puts its name, the producer and the activity counter into the broker's context.
    """

    held: ClassVar[dict[tuple[str, int, int], Held]] = {}  # (topic, partition, offset): survives a NACK
    budget_seconds = 20.0  # inside one delivery; far below max_poll_interval_ms
    pause_max_seconds = 5.0
    busy: ClassVar[int] = 0
    handled: ClassVar[int] = 0
    handling: ClassVar[Counter[TopicPartition]] = Counter()  # where the first record is of each event or batch in a handler

    async def consume_scope(self, call_next: Callable[[Any], Any], msg: Any) -> Any:
        first = msg.raw_message[0] if isinstance(msg.raw_message, tuple | list) else msg.raw_message
        place = TopicPartition(first.topic, first.partition)
        PauseOrPark.busy += 1
        PauseOrPark.handling[place] += 1
        try:
            return await self._deliver(call_next, msg)
        finally:
            PauseOrPark.busy -= 1
            PauseOrPark.handled += 1
            PauseOrPark.handling -= Counter([place])  # forgets places without any

    async def _deliver(self, call_next: Callable[[Any], Any], msg: Any) -> Any:
        records = msg.raw_message if isinstance(msg.raw_message, tuple | list) else (msg.raw_message,)
        at, end = (records[0].topic, records[0].partition, records[0].offset), time.monotonic() + self.budget_seconds
        started = time.monotonic()
        while True:
            try:
                result = await call_next(msg)
            except IgnoredException:
                raise
            except POISON as error:
                for record in records:
                    await park(self.context.get("producer"), self.context.get("service_name"), record, error)
                HANDLED.labels(at[0], "parked").inc(len(records))
                result = None
            except Exception as error:
                if not await self._pause(at, end, error):
                    raise
                continue
            else:
                HANDLED.labels(at[0], "done").inc(len(records))
                HANDLING.labels(at[0]).observe(time.monotonic() - started)
            if self.held.pop(at, None):
                RETRIES.labels(at[0], str(at[1])).set(0)
            return result

    async def _pause(self, at: tuple[str, int, int], end: float, error: Exception) -> bool:
        """Wait before the next try; False when the delivery's time is used up and the record must be fetched again."""
        tries = self._note(at, error).tries
        RETRIES.labels(at[0], str(at[1])).set(tries)
        pause = min(0.1 * 2 ** min(tries - 1, 10), self.pause_max_seconds)
        log.warning(
            "event is held and tried again",
            topic=at[0],
            partition=at[1],
            offset=at[2],
            tries=tries,
            error=type(error).__name__,
            detail=describe(error),
        )
        if time.monotonic() + pause > end:
            await asyncio.sleep(max(0.0, end - time.monotonic()))
            return False
        await asyncio.sleep(pause)
        return True

    def _note(self, at: tuple[str, int, int], error: Exception) -> Held:
        now = datetime.now(UTC)
        known = self.held.setdefault(at, Held(now, now, 0, ""))
        known.tried_at, known.tries, known.error = now, known.tries + 1, type(error).__name__
        return known


def forget_moved(now: datetime) -> None:
    """Say no more of events that nobody has tried here for a while: another process has their partition, and says what holds it."""
    for at, held in list(PauseOrPark.held.items()):
        if now - held.tried_at > HELD_FORGOTTEN_AFTER:
            del PauseOrPark.held[at]
    live = {(topic, str(partition)) for topic, partition, _ in PauseOrPark.held}
    for sample in next(iter(RETRIES.collect())).samples:
        place = (sample.labels["topic"], sample.labels["partition"])
        if sample.value and place not in live:
            RETRIES.labels(*place).set(0)


def held_events(now: datetime) -> list[dict[str, Any]]:
    """Return what holds a partition of this process for a while, the oldest first: where, since when, and the class of the last error."""
    long = [
        (held.since, at, held)
        for at, held in PauseOrPark.held.items()
        if now - held.since >= HELD_SHOWN_AFTER and now - held.tried_at <= HELD_FORGOTTEN_AFTER
    ]
    return [
        {"topic": at[0], "partition": at[1], "since": since.isoformat(), "tries": held.tries, "error": held.error}
        for since, at, held in sorted(long, key=lambda one: one[0])[:HELD_SHOWN_MAX]
    ]
