"""What one meter reads from one event: whether it counts, what it adds, and which value it states. Pure functions."""

import hashlib
from uuid import UUID

from billing_common.catalogue import Meter
from billing_common.catalogue_meters import OF_THE_CALL
from usage_collector.observing import Observation


def counts(meter: Meter, seen: Observation) -> bool:
    """Tell whether the event is one that the meter counts."""
    if seen.status is None:
        return seen.origin != "stream"  # a call without a status was not answered; other sources may send plain quantities
    return meter.counts_call(method=seen.method or "", template=seen.template, status=seen.status)


def added(meter: Meter, seen: Observation) -> int:
    """Return what a counted event adds by itself: nothing for a meter with state, whose marks say it."""
    if meter.has_state:
        return 0
    if meter.aggregation == "count":
        return seen.quantity
    if meter.property_name is not None and (number := _number(meter.property_name, seen)) is not None:
        return number
    if seen.status is None and seen.origin == "ingest":
        return seen.quantity  # in the meter's own unit already
    if meter.property_name is not None:
        return 0
    return seen.quantity * meter.weight_of(method=seen.method, template=seen.template)


def stated(meter: Meter, seen: Observation) -> UUID | int | None:
    """Return the value of the meter's property: as a digest where only sameness matters; None where the event has none."""
    name = meter.property_name or ""
    if meter.aggregation == "max":
        return seen.quantity if name == "quantity" else _number(name, seen)
    value = str(getattr(seen, name) or "") if name in OF_THE_CALL else str((seen.properties or {}).get(name, ""))
    return UUID(bytes=hashlib.sha256(value.encode()).digest()[:16]) if value else None


def _number(name: str, seen: Observation) -> int | None:
    value = (seen.properties or {}).get(name)
    return value if isinstance(value, int) else None
