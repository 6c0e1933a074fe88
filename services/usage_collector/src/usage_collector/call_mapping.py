"""Calls as another gateway logs them: which place of its JSON holds what Turnpike wants to know. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from billing_common.events import InvalidEventError
from usage_collector.decoding import Decoded, Recorded, convert_each, decode_each, observe_recorded, read_usage
from usage_collector.properties import NUMBER_MAX, TEXT_MAX, PropertyError, kept

REQUIRED = ("id", "time", "sid")
NUMBERS = ("status", "quantity", "requestBytes", "responseBytes")
OPTIONAL = ("source", "method", "template", "meter", *NUMBERS)
PROPERTIES = "properties"
PROPERTIES_MAX = 32
DEFAULT_SOURCE = "calls"
OWN_SOURCE = "turnpike"  # of corrections by a person
MILLISECONDS_FROM = 10**11  # as seconds: the year 5138; as milliseconds: 1973
REMEDY = 'a path ("request.id", or ["request", "id"] where names hold dots), or {"constant": value}'

_object = msgspec.json.Decoder(dict[str, Any])
_objects = msgspec.json.Decoder(list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: a path into the record, or, without one, always the same."""

    path: tuple[str, ...]
    constant: str | int | None = None

    def read(self, record: Any) -> Any:
        """Return the value, or None where the record has none."""
        if not self.path:
            return self.constant
        for step in self.path:
            if isinstance(record, dict):
                record = record.get(step)
            elif isinstance(record, list) and step.isdecimal():
                record = record[int(step)] if len(step) < 9 and int(step) < len(record) else None
            else:
                return None
        return record


@dataclass(frozen=True, slots=True)
class CallMapping:
    """Turnpike's fields, and properties for meters, with the place of each."""

    fields: Mapping[str, Place]
    properties: Mapping[str, Place]

    def read(self, record: dict[str, Any], values: frozenset[str] = frozenset()) -> Recorded:
        """Return a record as a usage event. Raises InvalidEventError with the field, its place and what it must be.

        `values`: properties whose different values some meter counts.
        """
        found = {name: value for name, place in self.fields.items() if (value := place.read(record)) is not None}
        name = self._text(found, "id")
        source = self._text(found, "source") if "source" in found else DEFAULT_SOURCE
        if source.partition("/")[0] == OWN_SOURCE:
            raise self._wrong("source", f"{OWN_SOURCE} and all below it are Turnpike's own")
        sid = self._text(found, "sid") if found.get("sid", "") != "" else ""
        data: dict[str, Any] = {key: found[key] for key in ("method", "template", "meter") if key in found}
        data |= {key: self._whole(key, self.fields[key], found[key]) for key in NUMBERS if key in found}
        if data.get("status") == 0:
            del data["status"]  # a gateway's word for: there was none
        for key, place in self.properties.items():
            if (stands := _property(key, place, place.read(record), counted=key in values)) is not None:
                data[key] = stands
        return Recorded(name, source, sid, self._time(found.get("time")), data)

    def _text(self, found: Mapping[str, Any], field: str) -> str:
        value = found.get(field)
        if type(value) is int:
            value = str(value)
        if type(value) is not str or not 0 < len(value) <= TEXT_MAX:
            raise self._wrong(field, f"a text of 1 to {TEXT_MAX} characters is needed")
        return value

    def _time(self, value: Any) -> datetime:
        try:
            if type(value) in {int, float}:
                return datetime.fromtimestamp(value / 1000 if value >= MILLISECONDS_FROM else value, UTC)
            at = msgspec.convert(value, datetime)
        except (msgspec.ValidationError, ValueError, OverflowError, OSError):
            at = None
        if at is None or at.tzinfo is None:
            raise self._wrong("time", "RFC 3339 with an offset, or seconds or milliseconds since 1970, is needed")
        return at

    def _whole(self, field: str, place: Place, value: Any) -> int:
        if (number := _number(value)) is None:
            raise _at(field, place, f"a whole number from 0 to {NUMBER_MAX} is needed")
        return number

    def _wrong(self, field: str, needed: str) -> InvalidEventError:
        return _at(field, self.fields.get(field, Place(())), needed)


def _number(value: Any) -> int | None:
    """Return a whole number; some gateways log them as texts."""
    try:
        number: int = msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError:
        return None
    return number if 0 <= number <= NUMBER_MAX and type(value) is not bool else None


def _property(name: str, place: Place, value: Any, *, counted: bool) -> int | str | None:
    """Return what stands for a value: it is a text where its different values are counted, or where it is no number.

    Empty is a gateway's word for: there was none.
    """
    if value == "":
        return None
    if type(value) is float or (type(value) is str and not counted):
        number = _number(value)
        value = value if number is None else number
    try:
        return kept(name, value, as_text=counted or (type(value) is str and len(value) <= TEXT_MAX))
    except PropertyError as error:
        raise _at(f"{PROPERTIES}.{name}", place, f"{error} is needed") from None


def _at(field: str, place: Place, needed: str) -> InvalidEventError:
    where = f'at "{".".join(place.path)}"' if place.path else "a constant"
    return InvalidEventError(f"{field} ({where}): {needed}")


def parse_mapping(text: str) -> CallMapping:
    """Read the setting. Raises ValueError with the key and the remedy."""
    try:
        given = _object.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError('it must be a JSON object from a field to its place, e.g. {"id": "request.id", ...}') from None
    if "\\u0000" in text:
        raise ValueError("it must not hold the character NUL: leave it out")
    known = (*REQUIRED, *OPTIONAL)
    if unknown := [key for key in given if key not in known and key != PROPERTIES]:
        raise ValueError(f'"{unknown[0]}" is no field: use {", ".join(known)}, or name it below "{PROPERTIES}"')
    if missing := [key for key in REQUIRED if key not in given]:
        raise ValueError(f'"{missing[0]}" is missing: add {REMEDY}')
    more = given.pop(PROPERTIES, {})
    if not isinstance(more, dict) or len(more) > PROPERTIES_MAX:
        raise ValueError(f'"{PROPERTIES}" must be an object of at most {PROPERTIES_MAX} names, each with its place')
    for name in more:
        if not 0 < len(name) <= 64 or name in known:
            raise ValueError(f'"{PROPERTIES}.{name}": a name has 1 to 64 characters and is not one of {", ".join(known)}')
    fields = {key: _place(key, value) for key, value in given.items()}
    found = CallMapping(fields, {name: _place(f"{PROPERTIES}.{name}", value) for name, value in more.items()})
    _check_constants(found)
    return found


def _place(key: str, value: Any) -> Place:
    if isinstance(value, dict) and value.keys() == {"constant"} and type(value["constant"]) in {str, int} and value["constant"] != "":
        return Place((), value["constant"])
    path = value.split(".") if isinstance(value, str) else value
    if not isinstance(path, list) or not path or not all(isinstance(step, str) and step for step in path):
        raise ValueError(f'"{key}" has no place: give {REMEDY}')
    return Place(tuple(path))


def _check_constants(mapping: CallMapping) -> None:
    """Refuse at start what would make every record poison."""
    if same := [key for key in ("id", "time") if not mapping.fields[key].path]:
        raise ValueError(f'"{same[0]}" must be a path: with a constant all records would be one event')
    constant = {key: place for key, place in mapping.fields.items() if not place.path}
    try:
        sample = CallMapping(constant, {key: place for key, place in mapping.properties.items() if not place.path})
        made = CallMapping({**sample.fields, "id": Place((), "x"), "time": Place((), 0)}, sample.properties).read({})
        read_usage(made.data)
    except InvalidEventError as error:
        raise ValueError(f"a constant is wrong: {error}") from None


def decode_mapped(records: Sequence[bytes], mapping: CallMapping, quantity_max: int, values: frozenset[str]) -> Decoded:
    """Return the observations and, by place, what is poison. `values`: properties whose different values some meter counts."""

    def observe(found: list[dict[str, Any]]) -> list[Any]:
        return observe_recorded([mapping.read(record, values) for record in found], "stream", quantity_max)

    good, bad = decode_each(records, _objects.decode, _object.decode)
    return convert_each(good, bad, observe)
