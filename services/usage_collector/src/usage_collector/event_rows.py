"""Usage events as Postgres's binary COPY takes them. Made here: the driver would look at each of eighteen values of every event."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, date, datetime
from struct import Struct

import msgspec

from usage_collector.metering import Verdict, remember
from usage_collector.observing import Observation

Judged = tuple[Observation, Verdict]
Alike = tuple[str | int | None, ...]

COLUMNS = (
    "day", "id", "at", "counted", "quantity", "segment_id", "external_id", "sid", "properties", "status", "outcome", "origin", "source",
    "method", "template", "stated_meter", "meter_id", "reason",
)  # fmt: skip

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # its signature, no flags, no extension
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # Postgres counts from here: days of a date, microseconds of a time
EPOCH_DAY = EPOCH.toordinal()
DAY_SECONDS = 86400
NO_AMOUNT: tuple[str | None, int] = (None, 0)
_numbers = Struct(">hii i16s iq iq iq").pack  # how many columns; then each value after its length: day, id, at, counted, quantity
_segment = Struct(">iq").pack
_status = Struct(">ih").pack
_encode = msgspec.json.encode
_alike: dict[Alike, bytes] = {}


async def copy_of(judged: Iterable[Judged]) -> AsyncIterator[bytes]:
    """Yield the data of a COPY of `COLUMNS`, all at once: bytes alone the driver would take for the name of a file.

    Rows are in order of day and id, for everybody alike: two who add the same events do not wait for each other in a circle.
    """
    rows = []
    many = len(COLUMNS)
    days: dict[date, int] = {}
    for one, verdict in judged:
        meter_id, counted = verdict.amounts[0] if verdict.amounts else NO_AMOUNT
        if (day := days.get(one.day)) is None:
            day = days[one.day] = one.day.toordinal() - EPOCH_DAY
        at = one.at - EPOCH
        external_id, sid = one.external_id.encode(), one.sid.encode()
        alike = (
            one.status, verdict.outcome, one.origin, one.source, one.method, one.template, one.stated_meter, meter_id, verdict.reason,
        )  # fmt: skip
        row = (
            _numbers(
                many,
                4,
                day,
                16,
                one.id.bytes,
                8,
                (at.days * DAY_SECONDS + at.seconds) * 1_000_000 + at.microseconds,
                8,
                counted,
                8,
                one.quantity,
            ),
            NULL if verdict.segment_id is None else _segment(8, verdict.segment_id),
            len(external_id).to_bytes(4),
            external_id,
            len(sid).to_bytes(4),
            sid,
            _text(_encode(one.properties)) if one.properties else NULL,
            _alike.get(alike) or remember(_alike, alike, _last_columns(alike)),
        )
        rows.append(b"".join(row))
    rows.sort()
    yield b"".join((HEADER, *rows, TRAILER))


def _last_columns(alike: Alike) -> bytes:
    """Return the columns that are the same for very many events: a number, then texts."""
    status, *texts = alike
    number = NULL if status is None else _status(2, status)
    return number + b"".join(NULL if text is None else _text(str(text).encode()) for text in texts)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(4) + value
