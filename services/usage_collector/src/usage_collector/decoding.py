"""From bytes on a topic to observations: gateway calls and recorded CloudEvents. What is not an event is named as poison."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from hashlib import sha1
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto

from billing_common.events import NAMESPACE, InvalidEventError
from usage_collector.observing import Observation, Origin
from usage_collector.properties import NUMBER_MAX, is_kept

T = TypeVar("T")
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]

CALL_SOURCE = "apim"
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
Decoded = tuple[list[Observation], list[tuple[int, InvalidEventError]]]  # and by place what is poison
UUID_KEPT = bytes.fromhex("ffffffffffff0fff3fffffffffffffff")
UUID_VERSION = bytes.fromhex("00000000000050008000000000000000")
_namespace_hashed = sha1(NAMESPACE.bytes, usedforsecurity=False)
_calls = msgspec.json.Decoder(list[Call])
_call = msgspec.json.Decoder(Call)
_recorded_many = msgspec.json.Decoder(list[list[Recorded]])
_recorded = msgspec.json.Decoder(list[Recorded])


def decode_calls(values: Sequence[bytes]) -> Decoded:
    """Return the observations and, by place, what is poison."""
    good, bad = decode_each(values, _calls.decode, _call.decode)
    return convert_each(good, bad, observe_calls)


def decode_recorded(values: Sequence[bytes]) -> Decoded:
    """Return the observations and, by place, what is poison. A record holds an array of events."""
    good, bad = decode_each(values, _recorded_many.decode, _recorded.decode)
    return convert_each(good, bad, lambda records: observe_recorded([event for record in records for event in record]))


def decode_each(
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


def convert_each(
    good: list[tuple[int, T]], bad: list[tuple[int, InvalidEventError]], convert: Callable[[list[T]], list[Observation]]
) -> Decoded:
    """Convert all at once, and one by one only when that fails."""
    try:
        return convert([decoded for _, decoded in good]), bad
    except InvalidEventError:
        pass  # it is looked for below
    seen: list[Observation] = []
    for place, decoded in good:
        try:
            seen += convert([decoded])
        except InvalidEventError as error:
            bad.append((place, error))
    return seen, bad


def observe_calls(calls: Sequence[Call]) -> list[Observation]:
    """Return gateway calls as observations."""
    times = [in_utc(call.time) for call in calls]
    days = [at.date() for at in times]
    names = _names(days)
    ids = identities([f"{CALL_SOURCE}\x1f{call.id}{names[day]}" for call, day in zip(calls, days, strict=True)])
    seen = []
    for call, at, day, identity in zip(calls, times, days, ids, strict=True):
        if NUL in f"{call.id}{call.sid}{call.method}{call.template}":
            raise InvalidEventError("a text holds the character NUL")
        sizes: dict[str, int | str] = {}
        if call.request_bytes:
            sizes["requestBytes"] = call.request_bytes
        if call.response_bytes:
            sizes["responseBytes"] = call.response_bytes
        one = Observation(
            identity,
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
        seen.append(one)
    return seen


def observe_recorded(events: Sequence[Recorded], origin: Origin = "ingest", quantity_max: int | None = None) -> list[Observation]:
    """Return events as observations; what HTTP ingest recorded, unless another origin is named."""
    times = [in_utc(event.time) for event in events]
    days = [at.date() for at in times]
    names = _names(days)
    ids = identities([f"{event.source}\x1f{event.id}{names[day]}" for event, day in zip(events, days, strict=True)])
    seen = []
    for event, at, day, identity in zip(events, times, days, ids, strict=True):
        usage, properties = read_usage(event.data)
        if quantity_max is not None and usage.quantity > quantity_max:
            raise InvalidEventError(f"data: quantity must be at most {quantity_max}")
        if NUL in f"{event.id}{event.source}{event.subject}{usage.meter}{usage.method}{usage.template}":
            raise InvalidEventError("a text holds the character NUL")
        one = Observation(
            identity,
            day,
            at,
            origin,
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
        seen.append(one)
    return seen


def read_usage(data: dict[str, Any]) -> tuple[Usage, dict[str, int | str]]:
    """Return what `data` says and its properties. Raises InvalidEventError with the field and what it must be."""
    try:
        usage = msgspec.convert({name: value for name, value in data.items() if name in NAMED}, Usage)
    except msgspec.ValidationError as error:
        raise InvalidEventError(f"data: {error}"[:300]) from None
    properties = {name: value for name, value in data.items() if name not in NAMED and is_kept(value)}
    return usage, properties


def _names(days: Iterable[date]) -> dict[date, str]:
    """Return the end of the names of a day's events."""
    return {day: f"\x1f{day}" for day in set(days)}


def identities(names: Sequence[str]) -> list[UUID]:
    """Return the uuid5 of each name (see `derive_id`), without the standard library's detours: they are needed for every event.

    Version and variant are set in all of them at once: one long number is far cheaper than three bytes of each.
    """
    digests = []
    for name in names:
        hashed = _namespace_hashed.copy()  # cheaper than a new one, which looks up its algorithm
        hashed.update(name.encode())
        digests.append(hashed.digest()[:16])
    joined = int.from_bytes(b"".join(digests))
    many = len(digests)
    raw = (joined & int.from_bytes(UUID_KEPT * many) | int.from_bytes(UUID_VERSION * many)).to_bytes(16 * many)
    return [pgproto.UUID(raw[start : start + 16]) for start in range(0, len(raw), 16)]


def in_utc(time: datetime) -> datetime:
    """Return the instant in UTC. Raises InvalidEventError where that leaves the calendar."""
    if time.tzinfo is UTC:
        return time
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError("the time lies outside of the calendar") from None
