"""What an event counts: the meters of its plan applied to one observation. Pure functions; the cache only saves time."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from billing_common.catalogue import Meter, Product
from usage_collector import readings
from usage_collector.limits import Limit, Tiers, limits_of, tiers_of
from usage_collector.observing import Observation

Outcome = Literal["counted", "filtered", "rejected", "held"]
Amounts = tuple[tuple[str, int], ...]  # (meter id, what is added)
Shape = tuple[str, str | None, str | None, int | None, str | None]  # origin, method, template, status, stated meter
Counting = Sequence[tuple[str, Meter]]  # meter id and meter, of those that count an event
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

COUNTED_MAX = 10**12  # of one event: the sum of a window must fit into what Stripe takes, 15 digits
STRIPE_TAKES = timedelta(days=35)  # the age of usage
REPORTED_IN = timedelta(hours=2)  # a window is reported by the begin of its hour, and not in the same second
BLOCKED = frozenset({401, 403, 429})
REMEMBERED_MAX = 10_000


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What an event says for a meter whose period has one number: a value that may be new (UUID), or a height."""

    meter_id: str
    period_start: datetime
    value: UUID | int


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Which of the four outcomes an event has, and why when it is not counted."""

    outcome: Outcome
    reason: str | None = None
    segment_id: int | None = None
    amounts: Amounts = ()
    marks: tuple[Mark, ...] = ()


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
    newest_first: tuple[Stretch, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "newest_first", self.stretches[::-1])


class Rules:
    """How one product of one catalogue version counts."""

    def __init__(self, product: Product, meters: dict[str, Meter]) -> None:
        self.source = product.source
        self.announced: tuple[Limit | Tiers, ...] = (*limits_of(product), *tiers_of(product))
        self.meters = {meter_id: meters[meter_id] for meter_id in product.meter_ids() if meter_id in meters}
        self.has_spend_cap = product.price is not None and product.price.spend_cap is not None
        self.with_state = {meter_id: meter for meter_id, meter in self.meters.items() if meter.has_state}
        self.late_usage = product.policies.late_usage
        self.is_free = product.is_free
        self._simple = not self.with_state and all(meter.property_name is None for meter in self.meters.values())
        self._alike: dict[Shape, tuple[Outcome, str | None, Amounts]] = {}
        self._counting: dict[Shape, tuple[tuple[str, Meter], ...]] = {}

    def judge(self, seen: Observation) -> tuple[Outcome, str | None, Amounts]:
        """Return outcome, reason and what the event adds to which meter; a meter with state is named with 0 (see `marks`)."""
        shape = (seen.origin, seen.method, seen.template, seen.status, seen.stated_meter)
        if not self._simple or seen.quantity != 1:
            return self._judge_once(seen, shape)
        known = self._alike.get(shape)
        if known is None:
            known = remember(self._alike, shape, self._judge_once(seen, shape))
        return known

    def marks(self, seen: Observation, segment_start: datetime, amounts: Amounts) -> tuple[Mark, ...]:
        """Return what a counted event says for the meters with state. A person's correction states no value: it is an amount."""
        if seen.origin == "correction":
            return ()
        period_start = segment_start
        if self.is_free:  # its segments have no end: a period is a calendar month
            period_start = max(segment_start, seen.at.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
        marks = []
        for meter_id, _ in amounts:
            if (meter := self.with_state.get(meter_id)) is not None and (value := readings.stated(meter, seen)) is not None:
                marks.append(Mark(meter_id, period_start, value))
        return tuple(marks)

    def _judge_once(self, seen: Observation, shape: Shape) -> tuple[Outcome, str | None, Amounts]:
        if seen.origin != self.source and seen.origin != "correction":  # noqa: PLR1714 - a set would be made for every event
            return "filtered", "other_source", ()
        if seen.stated_meter is not None and seen.stated_meter not in self.meters:
            return "rejected", "unknown_meter", ()
        if seen.origin == "correction":
            return "counted", None, ((seen.stated_meter or "", seen.quantity),)  # a person's word: neither filters nor weights apply
        counting = self._counting.get(shape)
        if counting is None:
            counting = remember(self._counting, shape, self._meters_that_count(seen))
        readable: Counting = counting
        if self.with_state:
            readable = [pair for pair in counting if not pair[1].has_state or readings.stated(pair[1], seen) is not None]
        if counting and not readable:
            return ("rejected", "missing_property", ()) if seen.stated_meter is not None else ("filtered", "no_property", ())
        amounts = tuple([(meter_id, readings.added(meter, seen)) for meter_id, meter in readable])
        for _, amount in amounts:
            if amount > COUNTED_MAX:
                return "rejected", "quantity_too_large", ()
        return ("counted", None, amounts) if amounts else ("filtered", _why_not(seen), ())

    def _meters_that_count(self, seen: Observation) -> tuple[tuple[str, Meter], ...]:
        meters = self.meters if seen.stated_meter is None else {seen.stated_meter: self.meters[seen.stated_meter]}
        return tuple((meter_id, meter) for meter_id, meter in meters.items() if readings.counts(meter, seen))


def remember(cache: dict[K, T], shape: K, value: T) -> T:
    """Keep a value, in a cache that starts anew when it is full: methods and templates come from outside."""
    if len(cache) >= REMEMBERED_MAX:
        cache.clear()
    cache[shape] = value
    return value


def billable_since(now: datetime | None) -> datetime | None:
    """Return from which time on usage of an open segment can be reported to Stripe."""
    return now - STRIPE_TAKES + REPORTED_IN if now is not None else None


def _why_not(seen: Observation) -> str:
    if seen.status is None:
        return "no_status"
    if seen.status in BLOCKED:
        return "blocked"
    return "failed" if seen.status >= 400 else "meter_filter"


def judge(seen: Observation, holder: Holder | None, rules: dict[tuple[str, int], Rules], *, since: datetime | None = None) -> Verdict:
    """Return what becomes of an event, given all that is known now; what is older than `since` can no longer be billed."""
    if holder is None:
        return Verdict("held", "unknown_subscription") if seen.sid else Verdict("filtered", "no_subscription")
    at = seen.at
    for stretch in holder.newest_first:
        if at >= stretch.started_at:
            break
    else:
        return Verdict("held", "before_start" if holder.stretches else "no_segment")
    if stretch.ended_at is not None and at >= stretch.ended_at:
        is_over = holder.ended and stretch is holder.stretches[-1]
        return Verdict("rejected", "subscription_ended") if is_over else Verdict("held", "no_segment")
    if stretch.closed:
        return Verdict("held", "late", stretch.id)
    known = rules.get(stretch.plan)
    if known is None:
        return Verdict("held", "unknown_catalogue")
    return _judge_by(known, seen, stretch, since)


def _judge_by(rules: Rules, seen: Observation, stretch: Stretch, since: datetime | None) -> Verdict:
    outcome, reason, amounts = rules.judge(seen)
    if outcome == "counted" and since is not None and seen.at < since and not rules.is_free:
        return Verdict("held", "too_old_to_bill")
    marks = rules.marks(seen, stretch.started_at, amounts) if rules.with_state and amounts else ()
    return Verdict(outcome, reason, stretch.id, amounts, marks)
