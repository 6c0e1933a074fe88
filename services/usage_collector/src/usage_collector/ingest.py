"""The public door: POST /v1/events takes CloudEvents and answers when Kafka has them. 2xx means durable."""

import asyncio
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from starlette.types import ASGIApp, Receive, Scope, Send

from billing_common.clock import BusinessClock
from billing_common.events import USAGE_RECORDED_TOPIC
from billing_common.refusals import DATABASE_AWAY
from usage_collector import metrics
from usage_collector.budget import Budget, Share
from usage_collector.cloud_events import Incoming, Limits, Parsed, RequestError, Result, check, gunzip, parse
from usage_collector.refusals import Refusals
from usage_collector.senders import Sender, Senders
from usage_collector.settings import Settings

log = structlog.get_logger(__name__)
RECORD_MAX_BYTES = 400_000  # well below what brokers and Event Hubs take
ENCODINGS = frozenset({"identity", "gzip", "x-gzip"})  # the last two are the same (RFC 9110)
BODY_TIMEOUT_SECONDS = 15.0
FORBIDDEN = frozenset({"foreign_source", "foreign_subscription", "foreign_meter"})
MAKE_ONE = "`turnpike senders list` shows the senders, `turnpike senders add` makes one with a new key"
NO_KEY = f"send a sender's key: Authorization: Bearer tps_...; {MAKE_ONE}"
UNKNOWN_KEY = f"this key is unknown or was revoked: send the key of a sender that is listed (Authorization: Bearer tps_...); {MAKE_ONE}"
JSON = (b"content-type", b"application/json")
ACCEPTED = metrics.INGESTED.labels("accepted", "")
_encode = msgspec.json.encode


@cache
def _seconds(status: int) -> Any:
    return metrics.INGEST.labels(str(status))


class Answer(NamedTuple):
    """What a request gets."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


class Ingest:
    """Checks, sends to the partition of each subject, waits for the acknowledgement, answers per event."""

    def __init__(
        self, producer: AIOKafkaProducer, senders: Senders, refusals: Refusals, *, clock: BusinessClock, settings: Settings
    ) -> None:
        self._producer, self._senders, self._refusals, self._clock, self._settings = producer, senders, refusals, clock, settings
        self._in_flight: Counter[str] = Counter()
        self._requests = 0
        self._budget = Budget(settings.ingest_bytes_max, settings.ingest_sender_bytes_max)

    async def __call__(self, headers: Mapping[str, str], receive: Receive) -> Answer:
        """Answer one request: its headers in lower case, and where its body comes from."""
        started = time.monotonic()
        try:
            answer = await self._answer(headers, receive)
        except RequestError as error:
            answer = _problem(error)
        except Exception:
            log.exception("a request for events failed")
            answer = _problem(RequestError(500, "internal_error", "something is wrong here: send the same events again later"))
        _seconds(answer.status).observe(time.monotonic() - started)
        if 400 <= answer.status < 500:  # the class of status codes
            await asyncio.sleep(
                self._settings.ingest_refusal_pause_seconds
            )  # a good answer waits for Kafka: a loop of bad ones would outrun it
        return answer

    async def _answer(self, headers: Mapping[str, str], receive: Receive) -> Answer:
        if self._requests >= self._settings.ingest_requests_max:
            raise RequestError(503, "busy", "too many requests at once: try again in a second")
        self._requests += 1
        try:
            sender = await self._find(headers.get("authorization", ""))
            if sender is None:
                raise RequestError(
                    401, "unknown_key", UNKNOWN_KEY if headers.get("authorization", "").strip().partition(" ")[2] else NO_KEY
                )
            if self._in_flight[sender.id] >= self._settings.ingest_sender_requests_max:
                raise RequestError(429, "too_many_requests", "too many requests of this sender at once: try again in a second")
            self._in_flight[sender.id] += 1
            try:
                with Share(self._budget, sender.id) as share:
                    return await self._take(headers, receive, sender, share)
            finally:
                self._in_flight[sender.id] -= 1
                if not self._in_flight[sender.id]:
                    del self._in_flight[sender.id]
        finally:
            self._requests -= 1

    async def _find(self, authorization: str) -> Sender | None:
        try:
            return await self._senders.find(authorization)
        except DATABASE_AWAY as error:
            log.warning("keys cannot be read", error=type(error).__name__)
            raise RequestError(503, "unchecked_key", "the key cannot be checked now: send the same events again") from error

    async def _take(self, headers: Mapping[str, str], receive: Receive, sender: Sender, share: Share) -> Answer:
        settings, now = self._settings, self._clock.now()
        body = await read_body(headers, receive, settings.ingest_body_max_bytes, share)
        events = parse(headers.get("content-type", ""), headers, body, events_max=settings.ingest_events_max)
        del body  # not kept while Kafka is waited for
        oldest, newest = now - settings.event_age_max, now + settings.event_ahead_max
        limits = Limits(oldest, newest, settings.quantity_max, self._senders.meters, self._senders.values)
        good, results = _check_all(events, sender, limits)
        if len(good) < len(results):
            for reason, count in Counter(result.reason for result in results if result.reason).items():
                metrics.INGESTED.labels("rejected", reason).inc(count)
            for event, result in zip(events, results, strict=True):
                if result.reason is not None:
                    subject = event.subject if isinstance(event, Incoming) else ""
                    self._refusals.add(sender.id, subject, result.reason, result.id, now=now)
        if good:
            await self._send(good)
            ACCEPTED.inc(len(good))
        return _respond(len(good), results)

    async def _send(self, events: list[Incoming]) -> None:
        """Send one record per target partition, and return when all are acknowledged."""
        try:
            async with asyncio.timeout(self._settings.ingest_ack_timeout_seconds):
                partitions = len(await self._producer.partitions_for(USAGE_RECORDED_TOPIC))
                groups: defaultdict[int, list[Incoming]] = defaultdict(list)
                for event in events:
                    groups[zlib.crc32(event.subject.encode()) % partitions].append(event)
                waiting = [
                    await self._producer.send(USAGE_RECORDED_TOPIC, value, key=group[0].subject.encode(), partition=partition)
                    for partition, group in groups.items()
                    for value in _records(group)
                ]
                await (waiting[0] if len(waiting) == 1 else asyncio.gather(*waiting))
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("usage could not be stored", error=type(error).__name__, events=len(events))
            raise RequestError(503, "not_stored", "Kafka did not acknowledge in time: send the same events again") from error


def _check_all(events: Parsed, sender: Sender, limits: Limits) -> tuple[list[Incoming], list[Result]]:
    good: list[Incoming] = []
    results: list[Result] = []
    for event in events:
        if isinstance(event, Result):
            results.append(event)
        elif (fault := check(event, sender, limits)) is None:
            good.append(event)
            results.append(Result(event.id, "accepted"))
        else:
            results.append(Result(event.id[:256], "rejected", *fault))
    return good, results


def _records(events: list[Incoming]) -> list[bytes]:
    value = _encode(events)
    if len(value) <= RECORD_MAX_BYTES or len(events) == 1:
        return [value]
    middle = len(events) // 2
    return _records(events[:middle]) + _records(events[middle:])


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int, share: Share) -> bytes:
    """Return the body, unpacked. Raises RequestError beyond a limit, before more than that is in memory."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise RequestError(415, "unsupported_encoding", "Content-Encoding must be gzip or absent")
    stated = headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    share.hold(int(stated) if stated.isdigit() else 0)
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "disconnected", "the request was not sent to its end")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise _too_large(limit)
                share.hold(len(body))
    except TimeoutError:
        raise RequestError(408, "too_slow", "the body did not arrive in time") from None
    if encoding != "identity":
        body = gunzip(body, limit)
        share.hold(len(body))
    return body


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "body_too_large", f"a request takes at most {limit} bytes: send smaller batches")


def _respond(accepted: int, results: list[Result]) -> Answer:
    status = 202
    if not accepted:
        status = 403 if all(result.reason in FORBIDDEN for result in results) else 422
    answer: dict[str, Any] = {"accepted": accepted, "rejected": len(results) - accepted, "results": results}
    return Answer(status, _encode(answer))


def _problem(error: RequestError) -> Answer:
    headers = [JSON]
    if error.status in {429, 503}:
        headers.append((b"retry-after", b"1"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 408:
        headers.append((b"connection", b"close"))  # after 413 the server reads on and throws away: a reset would hide the answer
    return Answer(error.status, _encode({"error": {"code": error.code, "message": str(error)}}), tuple(headers))


class IngestDoor:
    """Takes POST to one path out of an application's hands: on the way through a framework a single event would cost twice as much."""

    def __init__(self, app: ASGIApp, path: str, ingest: Callable[[], Ingest]) -> None:
        self._app, self._path, self._ingest = app, path, ingest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
            answer = await self._ingest()(headers, receive)
        else:
            refused = _problem(RequestError(405, "method_not_allowed", "events are sent with POST"))
            answer = refused._replace(headers=(*refused.headers, (b"allow", b"POST")))
        raw = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})
