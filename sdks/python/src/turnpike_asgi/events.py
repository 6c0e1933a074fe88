"""From an answered call to a usage event. Pure: ids and time come in as arguments."""

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Scope = MutableMapping[str, Any]
TYPE = "turnpike.usage"
SUBJECT_MAX = 256
METHOD_MAX = 32
TEMPLATE_MAX = 512
PROPERTIES_MAX = 24  # the door takes 32 members, the call's own among them
WHOLE_MAX = 10**12
STATUS_MIN, STATUS_MAX = 100, 599


class UsageError(ValueError):
    """The app's own functions returned what cannot become an event; the message says which part."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call once it is answered. `scope` is the app's own; nothing of it is sent."""

    scope: Scope
    method: str
    template: str | None
    status: int
    request_bytes: int
    response_bytes: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How a call counts: once for all meters of the plan, unless said otherwise. `properties` are whole numbers a meter may add."""

    quantity: int = 1
    meter: str | None = None
    properties: Mapping[str, int] = field(default_factory=dict)


def build(call: Call, usage: Usage, *, source: str, subject: str, event_id: str, now: datetime) -> bytes:
    """Return the event as JSON. Raises UsageError."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": TYPE,
        "subject": _subject(subject),
        "time": instant(now),
        "data": _data(call, usage),
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def instant(now: datetime) -> str:
    """Return an instant as RFC 3339 in UTC, to the millisecond."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(call: Call, usage: Usage) -> dict[str, Any]:
    data: dict[str, Any] = {
        "quantity": _whole("quantity", usage.quantity),
        "status": min(max(call.status, STATUS_MIN), STATUS_MAX),
        "method": clean(call.method, METHOD_MAX),
        "requestBytes": min(max(call.request_bytes, 0), WHOLE_MAX),
        "responseBytes": min(max(call.response_bytes, 0), WHOLE_MAX),
        "durationMs": min(max(call.duration_ms, 0), WHOLE_MAX),
    }
    if call.template:
        data["template"] = clean(call.template, TEMPLATE_MAX)
    if usage.meter is not None:
        data["meter"] = _text("meter", usage.meter, 64)
    if len(usage.properties) > PROPERTIES_MAX:
        raise UsageError(f"usage has more than {PROPERTIES_MAX} properties")
    for name, value in usage.properties.items():
        data.setdefault(_text("a property's name", name, 64), _whole(f"property {name}", value))
    return data


def clean(text: str, longest: int) -> str:
    """Return a text that the door takes: no NUL, valid Unicode, cut to its length."""
    return text.replace("\0", "").encode(errors="replace").decode()[:longest]


def _subject(subject: str) -> str:
    return _text("the subject", subject, SUBJECT_MAX)


def _text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest or clean(value, longest) != value:
        raise UsageError(f"{name} must be a text of 1 to {longest} characters without NUL")
    return value


def _whole(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= WHOLE_MAX:
        raise UsageError(f"{name} must be a whole number from 0 to {WHOLE_MAX}")
    return value
