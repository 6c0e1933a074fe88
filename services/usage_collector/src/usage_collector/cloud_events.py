"""CloudEvents over HTTP: structured, batched and binary bodies become events, and each event is checked. No I/O."""

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from billing_common.events import InvalidEventError
from usage_collector.decoding import Id, Instant, in_utc
from usage_collector.properties import PropertyError
from usage_collector.properties import kept as kept_property
from usage_collector.senders import Sender

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
TYPE = "turnpike.usage"
PROPERTIES_MAX = 32
NAME_MAX = 64  # of a property: longer ones are dropped
METERS_NAMED = 20
BACKSLASH, ESCAPED_NUL = b"\\", b"\\u0000"
NUL = "\x00"
QUOTED = re.compile(rb"\\(.)")
NO_DATA = 'data is missing: send "data": {} for one call; what was used is never guessed'
GZIP_MEMBERS_MAX = 64
NAMES = {"specversion", "id", "source", "type", "subject", "time"}


class RequestError(Exception):
    """The whole request is refused: status, stable code and a sentence with the remedy."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Incoming(msgspec.Struct, gc=False):
    """The attributes that matter; others are legal and dropped."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: Instant
    data: dict[str, Any]


class Usual(Incoming, gc=False):
    """An event whose envelope needs no further check: what most are, checked while they are decoded."""

    specversion: Literal["1.0"]
    id: Id
    source: Id
    type: Literal["turnpike.usage"]
    subject: Id


class Result(msgspec.Struct, omit_defaults=True, gc=False):
    """The answer for one event."""

    id: str | None
    status: str
    reason: str | None = None
    message: str | None = None


class Limits(msgspec.Struct, frozen=True):
    """What an event may say at this instant."""

    oldest: datetime
    newest: datetime
    quantity_max: int
    meters: frozenset[str]
    values: frozenset[str] = frozenset()  # properties whose different values some meter counts: these may be texts


class _Named(msgspec.Struct):
    id: str | None = None


_single = msgspec.json.Decoder(Incoming)
_many = msgspec.json.Decoder(list[Usual])
_raw = msgspec.json.Decoder(list[msgspec.Raw])
_named = msgspec.json.Decoder(_Named)
_object = msgspec.json.Decoder(dict[str, Any])
Parsed = list[Incoming | Result]


def gunzip(body: bytes, limit: int) -> bytes:
    """Unpack at most `limit` bytes, of several members too; a bomb costs no more memory than that."""
    plain = b""
    for _ in range(GZIP_MEMBERS_MAX):
        unpacker = zlib.decompressobj(wbits=31)
        try:
            plain += unpacker.decompress(body, limit - len(plain) + 1)
        except zlib.error:
            raise RequestError(
                400, "bad_gzip", "the body is not gzip, though Content-Encoding says so, or has something after its end"
            ) from None
        if len(plain) > limit or unpacker.unconsumed_tail:
            raise RequestError(413, "body_too_large", f"the body has more than {limit} bytes after gunzip: send smaller batches")
        if not unpacker.eof:
            raise RequestError(400, "bad_gzip", "the gzip body is cut off")
        if not (body := unpacker.unused_data):
            return plain
    raise RequestError(400, "bad_gzip", f"the gzip body has more than {GZIP_MEMBERS_MAX} members: pack it as one")


def parse(content_type: str, headers: Mapping[str, str], body: bytes, *, events_max: int) -> Parsed:
    """Return the events of a request, or for those that cannot be read their answer. Raises RequestError."""
    media_type = content_type.partition(";")[0].strip().lower()
    events = _parse(media_type, headers, body, events_max)
    escapes = BACKSLASH in body  # one byte is looked for much faster than six
    if (escapes and ESCAPED_NUL in body) or media_type not in {SINGLE, BATCH}:  # nothing else makes a NUL: JSON takes no bare one
        return [_without_nul(event) for event in events]
    return events


def _parse(media_type: str, headers: Mapping[str, str], body: bytes, events_max: int) -> Parsed:
    try:
        body.decode()
        if media_type == BATCH:
            return _parse_batch(body, events_max)
        if media_type == SINGLE:
            return [_single.decode(body)]
        if "ce-specversion" in headers or "ce-id" in headers:
            return [_parse_binary(media_type, headers, body)]
    except msgspec.ValidationError as error:
        raise RequestError(400, "invalid_event", f"not a usage event: {_why(error)}"[:300]) from None
    except msgspec.DecodeError:
        raise RequestError(400, "malformed_json", "the body is not JSON") from None
    except UnicodeDecodeError:
        raise RequestError(400, "malformed_json", "the body is not UTF-8") from None
    except RecursionError:
        raise RequestError(400, "malformed_json", "the JSON is nested too deeply") from None
    raise RequestError(415, "unsupported_media_type", f"send {SINGLE}, {BATCH}, or binary mode (ce-* headers with application/json)")


def _parse_batch(body: bytes, events_max: int) -> Parsed:
    try:
        events: Parsed = list(_many.decode(body))
    except msgspec.ValidationError:
        events = [_parse_one(bytes(raw)) for raw in _raw.decode(body)[: events_max + 1]]
    if len(events) > events_max:
        raise RequestError(413, "too_many_events", f"a request takes at most {events_max} events: send several")
    if not events:
        raise RequestError(400, "empty_batch", "the batch holds no events")
    return events


def _parse_one(body: bytes) -> Incoming | Result:
    try:
        return _single.decode(body)
    except msgspec.ValidationError as error:
        return Result(_id_of(body), "rejected", "invalid_event", _why(error)[:300])


def _why(error: msgspec.ValidationError) -> str:
    return NO_DATA if str(error) == "Object missing required field `data`" else str(error)


def _without_nul(event: Incoming | Result) -> Incoming | Result:
    """Return the event, or its refusal where a text that is kept holds NUL, which Postgres does not take."""
    if isinstance(event, Result):
        event.id = _shown(event.id)
        return event
    texts: dict[str, Any] = {"id": event.id, "source": event.source, "subject": event.subject}
    texts |= {f"data.{name}": event.data.get(name) for name in ("meter", "method", "template")}
    found = [name for name, text in texts.items() if isinstance(text, str) and NUL in text]
    if not found and any(NUL in name for name in event.data):
        found = ["a name in data"]
    if not found:
        return event
    return Result(_shown(event.id), "rejected", "bad_text", f"{found[0]} must not hold the character NUL: leave it out")


def _shown(event_id: str | None) -> str | None:
    return event_id and event_id.replace(NUL, "\ufffd")[:256]


def _id_of(body: bytes) -> str | None:
    try:
        found = _named.decode(body).id
    except msgspec.MsgspecError:
        return None
    return found[:256] if found else None


def _parse_binary(media_type: str, headers: Mapping[str, str], body: bytes) -> Incoming:
    if media_type != "application/json":
        raise RequestError(415, "unsupported_media_type", "in binary mode the Content-Type of the data is application/json")
    attributes: dict[str, Any] = {name: _header(f"ce-{name}", headers[f"ce-{name}"]) for name in NAMES if f"ce-{name}" in headers}
    if not body:
        raise RequestError(400, "invalid_event", f"not a usage event: {NO_DATA} (in binary mode the body is data)")
    return msgspec.convert({**attributes, "data": _object.decode(body)}, Incoming)


def _header(name: str, value: str) -> str:
    """Return an attribute as the HTTP binding of CloudEvents has it read: unquoted, then percent-decoded once, as UTF-8."""
    raw = value.encode("latin-1")
    if len(raw) > 1 and raw[:1] == raw[-1:] == b'"':
        raw = QUOTED.sub(rb"\1", raw[1:-1])
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RequestError(400, "bad_text", f"the header {name} is not UTF-8 once it is percent-decoded: encode it again") from None


def check(event: Incoming, sender: Sender, limits: Limits) -> tuple[str, str] | None:
    """Return why an event is refused (code, sentence), or None. A good event's `data` keeps only what counts, and its time is UTC."""
    if type(event) is not Usual and (fault := check_envelope(event)) is not None:
        return fault
    own = sender.source_prefix
    if event.source != own and not sender.speaks_for(event.source):
        return "foreign_source", f"this key speaks only for its own source: set source to {own} or to one below it ({own}/...)"
    if sender.subscriptions is not None and event.subject not in sender.subscriptions:
        return "foreign_subscription", "this key may not send for this subscription"
    if sender.meters is not None and (fault := _check_scope(event.data.get("meter"), sender.meters)) is not None:
        return fault
    if not limits.oldest <= event.time <= limits.newest:
        return ("too_old", "the event is too old") if event.time < limits.oldest else ("in_the_future", "the time lies in the future")
    fault = check_data(event, limits)
    return fault if fault is not None or event.time.tzinfo is UTC else _in_utc(event)


def _check_scope(meter: object, allowed: frozenset[str]) -> tuple[str, str] | None:
    """Refuse also what names no meter: all meters of the plan would count it."""
    if meter is not None and (type(meter) is not str or meter in allowed):
        return None  # what is no text is refused with the rest of `data`
    named = ", ".join(sorted(allowed)[:METERS_NAMED]) + (", ..." if len(allowed) > METERS_NAMED else "")
    given = "without one all meters of the plan would count the event" if meter is None else "it may send for no other"
    return "foreign_meter", f"this key is bound to meters: set data.meter to one of {named}; {given}"


def check_envelope(event: Incoming) -> tuple[str, str] | None:
    """Return why an event is none of ours or has no identity."""
    if event.specversion != "1.0" or event.type != TYPE:
        return "unknown_type", f"specversion must be 1.0 and type {TYPE}"
    if not (0 < len(event.id) <= 256 and 0 < len(event.subject) <= 256 and 0 < len(event.source) <= 256):
        return "invalid_attribute", "id, source and subject need 1 to 256 characters"
    return None


def check_data(event: Incoming, limits: Limits) -> tuple[str, str] | None:
    """Return why `data` is refused; of good ones only what counts is kept."""
    given = event.data
    quantity = given.get("quantity", 1)
    if type(quantity) is not int or not 0 <= quantity <= limits.quantity_max:
        return "invalid_quantity", f"data.quantity must be a whole number from 0 to {limits.quantity_max}"
    meter = given.get("meter")
    if meter is not None and (type(meter) is not str or (limits.meters and meter not in limits.meters)):
        return "unknown_meter", "data.meter is no meter of the catalogue"
    if len(given) > PROPERTIES_MAX:
        return "too_many_properties", f"data takes at most {PROPERTIES_MAX} members"
    if len(given) == ("quantity" in given) + ("meter" in given):
        return None  # there is nothing else in it
    return _check_call(event, given, limits)


def _check_call(event: Incoming, given: dict[str, Any], limits: Limits) -> tuple[str, str] | None:
    status = given.get("status", 200)
    if type(status) is not int or not 100 <= status <= 599:
        return "invalid_status", "data.status must be an HTTP status"
    for name, longest in (("method", 32), ("template", 512)):
        text = given.get(name)
        if text is not None and (type(text) is not str or len(text) > longest):
            return f"invalid_{name}", f"data.{name} must be a text of at most {longest} characters"
    kept = {name: given[name] for name in ("quantity", "meter", "status", "method", "template") if given.get(name) is not None}
    for name, value in given.items():  # whole numbers may be a meter's property; anything else does not belong on a topic
        if name in kept or (len(name) > NAME_MAX and name not in limits.values):
            continue
        try:
            stands = kept_property(name, value, as_text=name in limits.values)
        except PropertyError as error:
            return "invalid_property", f"data.{name} must be {error}"
        if stands is not None:
            kept[name] = stands
    event.data = kept
    return None


def _in_utc(event: Incoming) -> tuple[str, str] | None:
    """Put the event's time in UTC, or return why that cannot be."""
    try:
        event.time = in_utc(event.time)
    except InvalidEventError as error:
        return "invalid_time", str(error)
    return None
