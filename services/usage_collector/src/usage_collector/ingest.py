"""The public door: POST /v1/events takes CloudEvents and answers when Kafka has them. 2xx means durable."""

import asyncio
import time
import zlib
from collections import Counter
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from billing_common.clock import BusinessClock
from billing_common.events import USAGE_RECORDED_TOPIC, InvalidEventError
from usage_collector import metrics
from usage_collector.budget import Budget, Share
from usage_collector.cloud_events import Incoming, Limits, Parsed, RequestError, Result, check, gunzip, normalise, parse
from usage_collector.refusals import Refusals
from usage_collector.senders import Sender, Senders
from usage_collector.settings import Settings

log = structlog.get_logger(__name__)
RECORD_MAX_BYTES = 400_000  # well below what brokers and Event Hubs take
BODY_TIMEOUT_SECONDS = 15.0
FORBIDDEN = frozenset({"foreign_source", "foreign_subscription"})
_encode = msgspec.json.encode


class Ingest:
    """Checks, sends to the partition of each subject, waits for the acknowledgement, answers per event."""

    def __init__(
        self, producer: AIOKafkaProducer, senders: Senders, refusals: Refusals, *, clock: BusinessClock, settings: Settings
    ) -> None:
        self._producer, self._senders, self._refusals, self._clock, self._settings = producer, senders, refusals, clock, settings
        self._in_flight: Counter[str] = Counter()
        self._requests = 0
        self._budget = Budget(settings.ingest_bytes_max, settings.ingest_sender_bytes_max)

    async def __call__(self, request: Request) -> Response:
        started = time.monotonic()
        try:
            response = await self._answer(request)
        except RequestError as error:
            response = _problem(error)
        except ClientDisconnect:
            response = _problem(RequestError(400, "disconnected", "the request was not sent to its end"))
        metrics.INGEST.labels(str(response.status_code)).observe(time.monotonic() - started)
        return response

    async def _answer(self, request: Request) -> Response:
        if self._requests >= self._settings.ingest_requests_max:
            raise RequestError(503, "busy", "too many requests at once: try again in a second")
        self._requests += 1
        try:
            sender = await self._senders.find(request.headers.get("authorization", ""))
            if sender is None:
                raise RequestError(401, "unknown_key", "send a sender's key: Authorization: Bearer tps_...")
            if self._in_flight[sender.id] >= self._settings.ingest_sender_requests_max:
                raise RequestError(429, "too_many_requests", "too many requests of this sender at once: try again in a second")
            self._in_flight[sender.id] += 1
            try:
                with self._budget.share(sender.id) as share:
                    return await self._take(request, sender, share)
            finally:
                self._in_flight[sender.id] -= 1
                if not self._in_flight[sender.id]:
                    del self._in_flight[sender.id]
        finally:
            self._requests -= 1

    async def _take(self, request: Request, sender: Sender, share: Share) -> Response:
        settings, now = self._settings, self._clock.now()
        body = await read_body(request, settings.ingest_body_max_bytes, share)
        events = parse(request.headers.get("content-type", ""), request.headers, body, events_max=settings.ingest_events_max)
        del body  # not kept while Kafka is waited for
        oldest, newest = now - settings.event_age_max, now + settings.event_ahead_max
        limits = Limits(oldest, newest, settings.quantity_max, self._senders.meters, self._senders.values)
        good, results = _check_all(events, sender, limits)
        if len(good) < len(results):
            for event, result in zip(events, results, strict=True):
                if result.reason is not None:
                    subject = event.subject if isinstance(event, Incoming) else ""
                    self._refusals.add(sender.id, subject, result.reason, result.id, now=now)
        if good:
            await self._send(good)
        metrics.INGESTED.labels("accepted", "").inc(len(good))
        for reason, count in Counter(result.reason for result in results if result.reason).items():
            metrics.INGESTED.labels("rejected", reason).inc(count)
        return _respond(len(good), results)

    async def _send(self, events: list[Incoming]) -> None:
        """Send one record per target partition, and return when all are acknowledged."""
        try:
            async with asyncio.timeout(self._settings.ingest_ack_timeout_seconds):
                partitions = len(await self._producer.partitions_for(USAGE_RECORDED_TOPIC))
                groups: dict[int, list[Incoming]] = {}
                for event in events:
                    groups.setdefault(zlib.crc32(event.subject.encode()) % partitions, []).append(event)
                waiting = [
                    await self._producer.send(USAGE_RECORDED_TOPIC, value, key=group[0].subject.encode(), partition=partition)
                    for partition, group in groups.items()
                    for value in _records(group)
                ]
                await asyncio.gather(*waiting)
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("usage could not be stored", error=type(error).__name__, events=len(events))
            raise RequestError(503, "not_stored", "Kafka did not acknowledge in time: send the same events again") from error


def _check_all(events: Parsed, sender: Sender, limits: Limits) -> tuple[list[Incoming], list[Result]]:
    good: list[Incoming] = []
    results: list[Result] = []
    for event in events:
        if isinstance(event, Result):
            results.append(event)
            continue
        if (fault := check(event, sender, limits)) is None:
            try:
                good.append(normalise(event))
            except InvalidEventError as error:
                fault = "invalid_time", str(error)
        results.append(Result(event.id, "accepted") if fault is None else Result(event.id[:256], "rejected", *fault))
    return good, results


def _records(events: list[Incoming]) -> list[bytes]:
    value = _encode(events)
    if len(value) <= RECORD_MAX_BYTES or len(events) == 1:
        return [value]
    middle = len(events) // 2
    return _records(events[:middle]) + _records(events[middle:])


async def read_body(request: Request, limit: int, share: Share) -> bytes:
    """Return the body, unpacked. Raises RequestError beyond a limit, before more than that is in memory."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise RequestError(415, "unsupported_encoding", "Content-Encoding must be gzip or absent")
    too_large = RequestError(413, "body_too_large", f"a request takes at most {limit} bytes: send smaller batches")
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > limit:
        raise too_large
    share.hold(int(stated) if stated.isdigit() else 0)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                share.hold(size)
                chunks.append(chunk)
    except TimeoutError:
        raise RequestError(408, "too_slow", "the body did not arrive in time") from None
    body = b"".join(chunks)
    if encoding == "gzip":
        body = gunzip(body, limit)
        share.hold(len(body))
    return body


def _respond(accepted: int, results: list[Result]) -> Response:
    status = 202
    if not accepted:
        status = 403 if all(result.reason in FORBIDDEN for result in results) else 422
    answer: dict[str, Any] = {"accepted": accepted, "rejected": len(results) - accepted, "results": results}
    return Response(_encode(answer), status, media_type="application/json")


def _problem(error: RequestError) -> Response:
    headers = {"Retry-After": "1"} if error.status in {429, 503} else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in {413, 408}:
        headers["Connection"] = "close"  # the rest of the body is not read
    body = _encode({"error": {"code": error.code, "message": str(error)}})
    return Response(body, error.status, headers=headers, media_type="application/json")


async def post_events(request: Request) -> Response:
    ingest: Ingest = request.app.state.ingest
    return await ingest(request)
