"""From bytes on a topic to observations: gateway calls and recorded CloudEvents. What is not an event is named as poison."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from hashlib import sha1
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto

from billing_common.events import NAMESPACE, InvalidEventError
from usage_collector.observing import Observation

T = TypeVar("T")
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]

CALL_SOURCE = "apim"
DIGEST_LENGTH = 32  # of a text's digest, in hexadecimal digits
NUL = "\x00"  # Postgres takes no such text


class Call(msgspec.Struct, rename="camel", gc=False):
    """One call, as the policy log-to-eventhub writes it."""

    id: Id
    time: Instant
    v: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    sid: Text | None = None
    method: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    template: Text | None = None
    status: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    request_bytes: Count | None = None
    response_bytes: Count | None = None


class Recorded(msgspec.Struct, gc=False):
    """One CloudEvent of the topic usage.recorded; ingest has checked it."""

    id: Id
    source: Id
    subject: Id
    time: Instant
    data: dict[str, Any]


class Usage(msgspec.Struct, gc=False):
    """What `data` of a usage event may say; further whole numbers, and digests of texts, are properties."""

    quantity: Count = 1
    meter: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    method: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    template: Text | None = None
    status: Annotated[int, msgspec.Meta(ge=100, le=999)] | None = None


NAMED = frozenset(Usage.__struct_fields__)
_namespace_hashed = sha1(NAMESPACE.bytes, usedforsecurity=False)
_calls = msgspec.json.Decoder(list[Call])
_call = msgspec.json.Decoder(Call)
_recorded_many = msgspec.json.Decoder(list[list[Recorded]])
_recorded = msgspec.json.Decoder(list[Recorded])


def decode_calls(values: Sequence[bytes]) -> tuple[list[Observation], list[tuple[int, InvalidEventError]]]:
    """Return the observations and, by place, what is poison."""
    good, bad = _decode(values, _calls.decode, _call.decode)
    return _convert(good, bad, lambda call: [observe_call(call)])


def decode_recorded(values: Sequence[bytes]) -> tuple[list[Observation], list[tuple[int, InvalidEventError]]]:
    """Return the observations and, by place, what is poison. A record holds an array of events."""
    good, bad = _decode(values, _recorded_many.decode, _recorded.decode)
    return _convert(good, bad, lambda events: [observe_recorded(event) for event in events])


def _decode(
    values: Sequence[bytes], decode_all: Callable[[bytes], list[T]], decode_one: Callable[[bytes], T]
) -> tuple[list[tuple[int, T]], list[tuple[int, InvalidEventError]]]:
    """Decode all at once, and one by one only when that fails."""
    try:
        found = decode_all(b"[" + b",".join(values) + b"]")
        if len(found) == len(values):
            return list(enumerate(found)), []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # somewhere is poison: looked for below
    good, bad = [], []
    for place, value in enumerate(values):
        try:
            good.append((place, decode_one(value)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            bad.append((place, InvalidEventError(f"not a usage event: {error}"[:300])))
    return good, bad


def _convert(
    good: list[tuple[int, T]], bad: list[tuple[int, InvalidEventError]], convert: Callable[[T], list[Observation]]
) -> tuple[list[Observation], list[tuple[int, InvalidEventError]]]:
    seen: list[Observation] = []
    for place, decoded in good:
        try:
            seen += convert(decoded)
        except InvalidEventError as error:
            bad.append((place, error))
    return seen, bad


def observe_call(call: Call) -> Observation:
    """Return a gateway call as an observation."""
    at = in_utc(call.time)
    day = at.date()
    if NUL in f"{call.id}{call.sid}{call.method}{call.template}":
        raise InvalidEventError("a text holds the character NUL")
    sizes: dict[str, int | str] = {}
    if call.request_bytes:
        sizes["requestBytes"] = call.request_bytes
    if call.response_bytes:
        sizes["responseBytes"] = call.response_bytes
    return Observation(
        identity(CALL_SOURCE, call.id, day),
        day,
        at,
        "stream",
        CALL_SOURCE,
        call.id,
        call.sid or "",
        1,
        call.status,
        call.method,
        call.template,
        None,
        sizes or None,
    )


def observe_recorded(event: Recorded) -> Observation:
    """Return a recorded CloudEvent as an observation."""
    at = in_utc(event.time)
    day = at.date()
    usage, properties = read_usage(event.data)
    if NUL in f"{event.id}{event.source}{event.subject}{usage.meter}{usage.method}{usage.template}":
        raise InvalidEventError("a text holds the character NUL")
    return Observation(
        identity(event.source, event.id, day),
        day,
        at,
        "ingest",
        event.source,
        event.id,
        event.subject,
        usage.quantity,
        usage.status,
        usage.method,
        usage.template,
        usage.meter,
        properties or None,
    )


def read_usage(data: dict[str, Any]) -> tuple[Usage, dict[str, int | str]]:
    """Return what `data` says and its properties. Raises InvalidEventError with the field and what it must be."""
    try:
        usage = msgspec.convert({name: value for name, value in data.items() if name in NAMED}, Usage)
    except msgspec.ValidationError as error:
        raise InvalidEventError(f"data: {error}"[:300]) from None
    properties = {name: value for name, value in data.items() if name not in NAMED and _is_property(value)}
    return usage, properties


def _is_property(value: object) -> bool:
    return (type(value) is int and 0 <= value <= 10**12) or (type(value) is str and len(value) == DIGEST_LENGTH and value.isalnum())


def identity(source: str, external_id: str, day: date) -> UUID:
    """Return `derive_id(source, external_id, day)`, made without the standard library's detours: it is needed for every event."""
    hashed = _namespace_hashed.copy()  # cheaper than a new one, which looks up its algorithm
    hashed.update(f"{source}\x1f{external_id}\x1f{day}".encode())
    raw = bytearray(hashed.digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    return pgproto.UUID(bytes(raw))


def in_utc(time: datetime) -> datetime:
    """Return the instant in UTC. Raises InvalidEventError where that leaves the calendar."""
    if time.tzinfo is UTC:
        return time
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError("the time lies outside of the calendar") from None
