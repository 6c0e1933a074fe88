"""CloudEvents on Kafka: structured, batched and binary records of the calls' topic. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from billing_common.events import InvalidEventError
from usage_collector.call_mapping import OWN_SOURCE
from usage_collector.cloud_events import BATCH, SINGLE, TYPE, Limits, RequestError, Result, check_data, check_envelope, parse
from usage_collector.decoding import Decoded, Recorded, convert_each, observe_recorded

DATA_TYPE = "application/json"
NO_CLOUD_EVENT = f"no CloudEvent: send the header content-type {SINGLE} or {BATCH}, or the headers ce_id, ce_source, ce_type={TYPE}, ..."


def decode_cloud_events(records: Sequence[Any], limits: Limits, events_max: int) -> Decoded:
    """Return the observations and, by place, what is poison: a record with one bad event is."""
    good: list[tuple[int, list[Recorded]]] = []
    bad: list[tuple[int, InvalidEventError]] = []
    for place, record in enumerate(records):
        try:
            good.append((place, _events(record, limits, events_max)))
        except InvalidEventError as error:
            bad.append((place, error))

    def observe(found: list[list[Recorded]]) -> list[Any]:
        return observe_recorded([event for events in found for event in events], "stream", limits.quantity_max)

    return convert_each(good, bad, observe)


def _events(record: Any, limits: Limits, events_max: int) -> list[Recorded]:
    headers = _headers(record)
    content_type = headers["content-type"]
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {SINGLE, BATCH} and "ce-id" not in headers and "ce-specversion" not in headers:
        raise InvalidEventError(NO_CLOUD_EVENT)
    try:
        found = parse(content_type, headers, record.value or b"", events_max=events_max)
    except RequestError as error:
        raise InvalidEventError(str(error)) from None
    events = []
    for event in found:
        if isinstance(event, Result):
            raise InvalidEventError(f"event {event.id}: {event.message}")
        if event.source.partition("/")[0] == OWN_SOURCE:
            raise InvalidEventError(f"event {event.id[:256]}: source: {OWN_SOURCE} and all below it are Turnpike's own")
        if (fault := check_envelope(event) or check_data(event, limits)) is not None:
            raise InvalidEventError(f"event {event.id[:256]}: {': '.join(fault)}")
        events.append(Recorded(event.id, event.source, event.subject, event.time, event.data))
    return events


def _headers(record: Any) -> Mapping[str, str]:
    """Return the headers as HTTP has them: `ce_id` is `ce-id`, and percent-encoded, which Kafka's are not."""
    try:
        given = {name.lower(): (value or b"").decode() for name, value in record.headers}
    except UnicodeDecodeError:
        raise InvalidEventError("a header is not UTF-8") from None
    attributes = {f"ce-{name[3:]}": quote(value, safe="") for name, value in given.items() if name.startswith("ce_")}
    return {"content-type": given.get("content-type", DATA_TYPE), **attributes}
