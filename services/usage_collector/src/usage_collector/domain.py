"""Segments: the stretches of time in which a subscription had one plan. Derived from all that is known, in whatever order it came."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

Reason = Literal["period_end", "cancellation", "change"]
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Fact:
    """What one revision of a subscription says about its plan and period."""

    revision: int
    occurred_at: datetime
    product_id: str
    catalogue_version: int
    period_start: datetime
    period_end: datetime | None
    ended_at: datetime | None = None
    plan_since: datetime | None = None

    @property
    def plan(self) -> tuple[str, int]:
        return self.product_id, self.catalogue_version


@dataclass(frozen=True, slots=True)
class Cut:
    """A change of plan whose old usage is closed at an instant, before Stripe makes the change."""

    at: datetime
    product_id: str
    catalogue_version: int

    @property
    def plan(self) -> tuple[str, int]:
        return self.product_id, self.catalogue_version


@dataclass(frozen=True, slots=True)
class Planned:
    """A segment as the facts have it; `ended_at` may lie ahead and is None for free products.

    `stamped_from` is the earliest second its meter events may carry, where that is later than its start.
    """

    started_at: datetime
    ended_at: datetime | None
    product_id: str
    catalogue_version: int
    reason: Reason = "period_end"
    stamped_from: datetime | None = None

    @property
    def plan(self) -> tuple[str, int]:
        return self.product_id, self.catalogue_version


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment as the table has it."""

    id: int
    planned: Planned
    closed: bool


@dataclass(frozen=True, slots=True)
class Recount:
    """Events of a segment, from an instant on, that have to be judged again."""

    segment_id: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Revision:
    """What has to change in the table so that it says what the facts say. Closed segments stay as they are."""

    add: tuple[Planned, ...] = ()
    change: tuple[tuple[int, Planned], ...] = ()
    remove: tuple[int, ...] = ()
    recount: tuple[Recount, ...] = ()
    since: datetime | None = field(default=None, compare=False)  # the first instant that belongs elsewhere than before


def to_next_second(when: datetime) -> datetime:
    """Segments are cut to the second, upwards: a call before the cut stays inside."""
    return when if when.microsecond == 0 else when.replace(microsecond=0) + SECOND


def plan_segments(facts: Iterable[Fact], cut_at: datetime | None = None, cuts: Sequence[Cut] = ()) -> list[Planned]:
    """Return the segments in order of time. `cut_at` is when calls were refused because the subscription was cancelled.

    From a cut on, usage waits until a fact says that the subscription is on the new plan.
    """
    ordered = sorted(facts, key=lambda fact: fact.revision)
    segments: list[Planned] = []
    previous: Fact | None = None
    for fact in ordered:
        if previous is None or fact.period_start >= previous.period_start:  # a newer revision never goes back to an older period
            segments = _with_fact(segments, previous, fact, cuts)
            previous = fact
    for cut in sorted(cuts, key=lambda one: one.at):
        made = any(fact.plan == cut.plan and to_next_second(fact.occurred_at) >= cut.at for fact in ordered)
        segments = _closed_at(segments, cut, made=made)
    ended_at = next((fact.ended_at for fact in reversed(ordered) if fact.ended_at), None)
    return _limited(segments, to_next_second(ended_at) if ended_at else None, to_next_second(cut_at) if cut_at else None)


def _with_fact(segments: list[Planned], previous: Fact | None, fact: Fact, cuts: Sequence[Cut]) -> list[Planned]:
    fresh = Planned(fact.period_start, fact.period_end, fact.product_id, fact.catalogue_version)
    if previous is None:
        return [fresh]
    if fact.period_start > previous.period_start:
        kept = [segment for segment in segments if segment.started_at < fact.period_start]
        kept = [*kept[:-1], *(_ending(segment, fact.period_start, "period_end") for segment in kept[-1:])]
        if not kept or fact.plan == kept[-1].plan or not _changed_within(fact, cuts):
            return [*kept, fresh]
        begun = replace(fresh, product_id=kept[-1].product_id, catalogue_version=kept[-1].catalogue_version)
        return _within_period([*kept, begun], fact, fresh, cuts)
    return _within_period(segments, fact, fresh, cuts)


def _changed_within(fact: Fact, cuts: Sequence[Cut]) -> bool:
    """Whether a plan that comes with a new period began later than it: the change and the new period were told in one."""
    return _cut_of(fact, cuts) is not None or (fact.plan_since is not None and fact.plan_since > fact.period_start)


def _cut_of(fact: Fact, cuts: Sequence[Cut]) -> Cut | None:
    """Return the cut that a fact carries out."""
    found = [cut for cut in cuts if cut.plan == fact.plan and cut.at <= to_next_second(fact.occurred_at)]
    return max(found, key=lambda cut: cut.at, default=None)


def _within_period(segments: list[Planned], fact: Fact, fresh: Planned, cuts: Sequence[Cut]) -> list[Planned]:
    *before, last = segments
    ended_at = max(fact.period_end, last.started_at) if fact.period_end else None
    if fact.plan == last.plan:
        return [*before, replace(last, ended_at=ended_at)]
    made_at = to_next_second(fact.occurred_at)
    cut = _cut_of(fact, cuts)
    changed_at, stamped_from = (cut.at, made_at) if cut else (made_at, None)
    if changed_at <= last.started_at:
        new = replace(
            last, product_id=fact.product_id, catalogue_version=fact.catalogue_version, ended_at=ended_at, stamped_from=stamped_from
        )
        return [*before, new]
    if last.ended_at is not None and changed_at >= last.ended_at:
        return segments
    ends = max(fact.period_end, changed_at) if fact.period_end else None
    return [*before, _ending(last, changed_at, "change"), replace(fresh, started_at=changed_at, ended_at=ends, stamped_from=stamped_from)]


def _closed_at(segments: list[Planned], cut: Cut, *, made: bool) -> list[Planned]:
    """End the old plan at a cut. Until the change is made nothing follows, but the rest of a period that has passed: Stripe billed that."""
    found: list[Planned] = []
    for segment in segments:
        if segment.started_at < cut.at and (segment.ended_at is None or cut.at < segment.ended_at):
            found += [_ending(segment, cut.at, "change"), replace(segment, started_at=cut.at)]
        else:
            found.append(segment)
    if made or not found:
        return found
    running = found[-1].started_at
    return [segment for segment in found if segment.started_at < cut.at or (segment.ended_at is not None and segment.ended_at <= running)]


def _ending(segment: Planned, at: datetime, reason: Reason) -> Planned:
    if segment.ended_at is not None and segment.ended_at <= at:
        return segment
    return replace(segment, ended_at=at, reason=reason)


def _limited(segments: list[Planned], ended_at: datetime | None, cut_at: datetime | None) -> list[Planned]:
    """End everything at the earlier of both. A cut always leaves a segment, if an empty one: somebody waits for its closing."""
    limits = [limit for limit in (ended_at, cut_at) if limit is not None]
    if not limits:
        return segments
    limit = min(limits)
    kept = [segment for segment in segments if segment.started_at < limit or (segment.started_at == limit == cut_at)] or segments[:1]
    return [_ending(segment, max(limit, segment.started_at), "cancellation") for segment in kept]


def revise(stored: Sequence[Stored], planned: Sequence[Planned]) -> Revision:
    """Compare the table with the facts. Only open segments move; what they counted and no longer hold is judged again."""
    horizon = max((s.planned.ended_at for s in stored if s.closed and s.planned.ended_at), default=None)
    wanted = {p.started_at: p for p in (_beyond(segment, horizon) for segment in planned) if p is not None}
    closed_starts = {s.planned.started_at for s in stored if s.closed}
    add, change, remove, recount, longer = [], [], [], [], []
    for segment in stored:
        if segment.closed:
            continue
        now = wanted.pop(segment.planned.started_at, None)
        if now is None:
            remove.append(segment.id)
            recount.append(Recount(segment.id, segment.planned.started_at))
        elif now != segment.planned:
            change.append((segment.id, now))
            if (since := _first_doubtful(segment.planned, now)) is not None:
                recount.append(Recount(segment.id, since))
            elif segment.planned.ended_at is not None and segment.planned.ended_at != now.ended_at:
                longer.append(segment.planned.ended_at)
    add = [segment for start, segment in wanted.items() if start not in closed_starts]
    since = min([*longer, *(one.started_at for one in add), *(one.since for one in recount)], default=None)
    return Revision(tuple(add), tuple(change), tuple(remove), tuple(recount), since)


def _beyond(segment: Planned, horizon: datetime | None) -> Planned | None:
    if horizon is None or segment.started_at >= horizon:
        return segment
    if segment.ended_at is not None and segment.ended_at <= horizon:
        return None
    return replace(segment, started_at=horizon)


def _first_doubtful(was: Planned, now: Planned) -> datetime | None:
    if was.plan != now.plan:
        return was.started_at
    if now.ended_at is not None and (was.ended_at is None or now.ended_at < was.ended_at):
        return now.ended_at
    return None
