"""What an event counts: the meters of its plan applied to one observation. Pure functions; the cache only saves time."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal
from uuid import UUID

import msgspec

from billing_common.catalogue import Meter, Product
from usage_collector.limits import limits_of

Origin = Literal["stream", "ingest", "reports", "correction"]  # a correction was made by a person
Outcome = Literal["counted", "filtered", "rejected", "held"]
Amounts = tuple[tuple[str, int], ...]  # (meter id, what is added)

COUNTED_MAX = 10**15  # of one event: the sum of a window must fit into 64 bits
BLOCKED = frozenset({401, 403, 429})
REMEMBERED_MAX = 10_000


class Observation(msgspec.Struct, frozen=True, gc=False):  # a struct: made for every event, in a quarter of a dataclass's time
    """One event as a source sent it. `id` is derived from source, external id and UTC day."""

    id: UUID
    day: date
    at: datetime
    origin: Origin
    source: str
    external_id: str
    sid: str
    quantity: int = 1
    status: int | None = None
    method: str | None = None
    template: str | None = None
    stated_meter: str | None = None
    properties: dict[str, int] | None = None


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Which of the four outcomes an event has, and why when it is not counted."""

    outcome: Outcome
    reason: str | None = None
    segment_id: int | None = None
    amounts: Amounts = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """A segment as the judgement needs it."""

    id: int
    started_at: datetime
    ended_at: datetime | None
    closed: bool
    plan: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Holder:
    """What is known of the subscription behind a sid; `stretches` in order of time."""

    subscription_id: str
    ended: bool
    stretches: tuple[Stretch, ...]


class Rules:
    """How one product of one catalogue version counts."""

    def __init__(self, product: Product, meters: dict[str, Meter]) -> None:
        self.source = product.source
        self.limits = limits_of(product)
        self.meters = {meter_id: meters[meter_id] for meter_id in product.meter_ids() if meter_id in meters}
        self._fixed = all(meter.property_name is None for meter in self.meters.values())
        self._remembered: dict[tuple[str, str | None, str | None, int | None, str | None], tuple[Outcome, str | None, Amounts]] = {}

    def judge(self, seen: Observation) -> tuple[Outcome, str | None, Amounts]:
        """Return outcome, reason and what the event adds to which meter."""
        if not self._fixed:
            return self._judge_once(seen)
        shape = (seen.origin, seen.method, seen.template, seen.status, seen.stated_meter)
        if seen.quantity != 1:
            return self._judge_once(seen)
        known = self._remembered.get(shape)
        if known is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            known = self._remembered[shape] = self._judge_once(seen)
        return known

    def _judge_once(self, seen: Observation) -> tuple[Outcome, str | None, Amounts]:
        if seen.origin not in {self.source, "correction"}:
            return "filtered", "other_source", ()
        if seen.stated_meter is not None and seen.stated_meter not in self.meters:
            return "rejected", "unknown_meter", ()
        if seen.origin == "correction":
            return "counted", None, ((seen.stated_meter or "", seen.quantity),)  # a person's word: neither filters nor weights apply
        meters = self.meters if seen.stated_meter is None else {seen.stated_meter: self.meters[seen.stated_meter]}
        if any(meter.aggregation in {"unique", "max"} for meter in meters.values()):
            return "held", "aggregation_not_supported", ()
        amounts = tuple((meter_id, _amount(meter, seen)) for meter_id, meter in meters.items() if _counts(meter, seen))
        if any(amount > COUNTED_MAX for _, amount in amounts):
            return "rejected", "quantity_too_large", ()
        return ("counted", None, amounts) if amounts else ("filtered", _why_not(seen), ())


def _counts(meter: Meter, seen: Observation) -> bool:
    if seen.status is None:
        return seen.origin != "stream"  # a call without a status was not answered; other sources may send plain quantities
    return meter.counts_call(method=seen.method or "", template=seen.template, status=seen.status)


def _amount(meter: Meter, seen: Observation) -> int:
    if meter.aggregation == "count":
        return seen.quantity
    if meter.property_name is not None and meter.property_name in (seen.properties or {}):
        return (seen.properties or {})[meter.property_name]
    if seen.status is None and seen.origin == "ingest":
        return seen.quantity  # in the meter's own unit already
    return seen.quantity * meter.quantity_of(method=seen.method, template=seen.template, properties=dict(seen.properties or {}))


def _why_not(seen: Observation) -> str:
    if seen.status is None:
        return "no_status"
    if seen.status in BLOCKED:
        return "blocked"
    return "failed" if seen.status >= 400 else "meter_filter"


def find_stretch(holder: Holder | None, at: datetime) -> Stretch | Verdict:
    """Return the segment of an instant, or the verdict where there is none."""
    if holder is None:
        return Verdict("held", "unknown_subscription")
    for stretch in reversed(holder.stretches):
        if at >= stretch.started_at:
            if stretch.ended_at is None or at < stretch.ended_at:
                return stretch
            if holder.ended and stretch is holder.stretches[-1]:
                return Verdict("rejected", "subscription_ended")
            return Verdict("held", "no_segment")
    return Verdict("held", "before_start" if holder.stretches else "no_segment")


def judge(seen: Observation, holder: Holder | None, rules: dict[tuple[str, int], Rules]) -> Verdict:
    """Return what becomes of an event, given all that is known now."""
    if not seen.sid:
        return Verdict("filtered", "no_subscription")
    stretch = find_stretch(holder, seen.at)
    if isinstance(stretch, Verdict):
        return stretch
    if stretch.closed:
        return Verdict("held", "late", stretch.id)
    known = rules.get(stretch.plan)
    if known is None:
        return Verdict("held", "unknown_catalogue")
    outcome, reason, amounts = known.judge(seen)
    return Verdict(outcome, reason, stretch.id if outcome != "held" else None, amounts)
