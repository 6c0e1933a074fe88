"""What the page of an explained invoice shows: which branch of the tree is open, where its links lead, what is left to add up. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from delegation_gateway.reporter_gateway import Bill, BilledUsage, Day, DayOfUsage, Endpoint, Events, Hour, NotCounted

DAYS_PER_PAGE = 31
ENDPOINTS_SHOWN = 50
EVENTS_PER_PAGE = 25
WORDS: Mapping[str, str] = {
    "usage": "Calls that were counted",
    "base": "The plan's fee for this time",
    "setup": "Charged once, with the first invoice",
    "rounding": "Single units brought to whole blocks, as the plan says",
    "minimum": "What the plan charges at least in a period",
    "maximum": "The plan charges no more than this in a period",
    "correction": "Usage of an earlier period that was corrected after its close",
    "unbilled": "Usage of an earlier period that is missing on the invoice of that period",
    "unknown": "Added by your provider: ask them what it stands for",
}
ORIGINS: Mapping[str, str] = {
    "stream": "Calls at the gateway",
    "ingest": "Usage sent for you",
    "reports": "Calls at the gateway, added up",
    "correction": "Correction by your provider",
}


class Asked(BaseModel):
    """Which branch of the tree is open: a usage and day, an hour of it, and the kind of events that is listed."""

    usage: str = Field(default="", max_length=300)
    page: int = Field(default=1, ge=1, le=1000)
    day: date | None = None
    hour: int | None = Field(default=None, ge=0, le=23)
    outcome: str | None = Field(default=None, max_length=40)
    reason: str | None = Field(default=None, max_length=40)
    origin: str | None = Field(default=None, max_length=40)
    method: str | None = Field(default=None, max_length=40)
    template: str | None = Field(default=None, max_length=2000)
    status: int | None = Field(default=None, ge=0, le=999)
    after: str | None = Field(default=None, max_length=100)

    @property
    def at(self) -> datetime | None:
        """The beginning of the hour whose events are asked for."""
        if self.day is None or self.hour is None or self.outcome is None:
            return None
        return datetime(self.day.year, self.day.month, self.day.day, self.hour, tzinfo=UTC)

    def wanted(self) -> dict[str, Any]:
        """The question to the reporter."""
        kind = self.model_dump(include={"usage", "outcome", "reason", "origin", "method", "template", "status", "after"})
        return {**kind, "hour": self.at.isoformat() if self.at else None, "limit": EVENTS_PER_PAGE}


@dataclass(frozen=True)
class EndpointRow:
    """One kind of calls of an hour; `address` lists them."""

    label: str
    is_endpoint: bool  # the label is its method and template
    status: str
    events: int
    quantity: int
    address: str
    is_open: bool


@dataclass(frozen=True)
class ReasonRow:
    words: str
    events: int
    address: str
    is_open: bool


@dataclass(frozen=True)
class HourRow:
    hour: Hour
    is_open: bool
    endpoints: Sequence[EndpointRow]
    further: int  # endpoints that only the CSV names
    further_events: int
    further_quantity: int
    reasons: Sequence[ReasonRow]

    @property
    def events(self) -> int:
        return sum(row.events for row in self.endpoints) + self.further_events

    @property
    def quantity(self) -> int:
        return sum(row.quantity for row in self.endpoints) + self.further_quantity


@dataclass(frozen=True)
class DayRow:
    day: DayOfUsage
    address: str
    hours: Sequence[HourRow] | None  # None: closed


@dataclass(frozen=True)
class UsageBranch:
    """One usage with the days of the page that is shown."""

    usage: BilledUsage
    anchor: str
    days: Sequence[DayRow]
    pages: int
    page: int
    previous_page: str | None
    next_page: str | None
    not_counted: Sequence[NotCounted]

    @property
    def quantity_left(self) -> int:
        """What the invoice bills beyond what was counted."""
        return self.usage.quantity - self.usage.counted

    @property
    def amount_left(self) -> int | None:
        return None if self.usage.rated_minor is None else self.usage.amount_minor - self.usage.rated_minor


@dataclass(frozen=True)
class EventsShown:
    """One page of single events."""

    events: Events
    first: str | None  # the address of the first page, where this is a further one
    next: str | None


def remainder(bill: Bill) -> int:
    """Return what the total has beyond the lines: tax and discounts."""
    return bill.total_minor - sum(line.amount_minor for line in bill.lines)


def branches(bill: Bill, asked: Asked, opened: Day | None) -> list[UsageBranch]:
    """Build the tree; `opened` is the day that `asked` names."""
    told: set[tuple[str, datetime, datetime]] = set()  # what did not count stands once for each time, not once for each meter
    found = []
    for number, usage in enumerate(bill.usage, 1):
        time = usage.product_id, usage.period_start, usage.period_end
        found.append(_branch(usage, f"usage-{number}", asked, opened, usage.not_counted if time not in told else ()))
        told.add(time)
    return found


def _branch(usage: BilledUsage, anchor: str, asked: Asked, opened: Day | None, not_counted: Sequence[NotCounted]) -> UsageBranch:
    pages = max(1, -(-len(usage.days) // DAYS_PER_PAGE))
    is_asked = asked.usage == usage.key
    page = min(asked.page, pages) if is_asked else 1
    rows = []
    for day in usage.days[(page - 1) * DAYS_PER_PAGE : page * DAYS_PER_PAGE]:
        place = {"usage": usage.key, "page": page, "day": _date(day.start)}
        is_open = is_asked and opened is not None and asked.day == day.start.astimezone(UTC).date()
        hours = [_hour(hour, place, asked) for hour in opened.hours] if is_open and opened else None
        rows.append(DayRow(day, f"{_link(place)}#day-{_date(day.start)}", hours))
    return UsageBranch(
        usage=usage,
        anchor=anchor,
        days=rows,
        pages=pages,
        page=page,
        previous_page=f"{_link({'usage': usage.key, 'page': page - 1})}#{anchor}" if page > 1 else None,
        next_page=f"{_link({'usage': usage.key, 'page': page + 1})}#{anchor}" if page < pages else None,
        not_counted=not_counted,
    )


def _hour(hour: Hour, place: Mapping[str, Any], asked: Asked) -> HourRow:
    number = hour.start.astimezone(UTC).hour
    here = {**place, "hour": number}
    is_open = asked.hour == number
    listed = sorted(hour.endpoints, key=lambda one: (-one.quantity, one.template, one.method, one.status))
    shown, rest = listed[:ENDPOINTS_SHOWN], listed[ENDPOINTS_SHOWN:]
    return HourRow(
        hour=hour,
        is_open=is_open,
        endpoints=[_endpoint(one, here, asked if is_open else None) for one in shown],
        further=len(rest),
        further_events=sum(one.events for one in rest),
        further_quantity=sum(one.quantity for one in rest),
        reasons=[_reason(one, here, asked if is_open else None) for one in hour.not_counted],
    )


def _endpoint(one: Endpoint, here: Mapping[str, Any], asked: Asked | None) -> EndpointRow:
    kind = {"outcome": "counted", "reason": "", "origin": one.origin, "method": one.method, "template": one.template, "status": one.status}
    endpoint = f"{one.method} {one.template}".strip()
    return EndpointRow(
        label=endpoint or ORIGINS.get(one.origin, one.origin),
        is_endpoint=bool(endpoint),
        status=str(one.status or "none"),
        events=one.events,
        quantity=one.quantity,
        address=f"{_link({**here, **kind})}#events",
        is_open=_is_asked(kind, asked),
    )


def _reason(one: NotCounted, here: Mapping[str, Any], asked: Asked | None) -> ReasonRow:
    kind = {"outcome": one.outcome, "reason": one.reason}
    return ReasonRow(one.words, one.events, f"{_link({**here, **kind})}#events", is_open=_is_asked(kind, asked))


def _is_asked(kind: Mapping[str, Any], asked: Asked | None) -> bool:
    return asked is not None and all(getattr(asked, name) == value for name, value in kind.items())


def events_shown(events: Events, asked: Asked, usage: BilledUsage) -> EventsShown:
    """Keep to the time of the usage: an hour in which the plan changed has events of both."""
    within = tuple(event for event in events.events if usage.period_start <= event.at < usage.period_end)
    place = asked.model_dump(mode="json", exclude={"after"}, exclude_none=True)
    return EventsShown(
        events=events.model_copy(update={"events": within}),
        first=f"{_link(place)}#events" if asked.after else None,
        next=f"{_link({**place, 'after': events.next})}#events" if events.next else None,
    )


def hour_span(start: datetime) -> str:
    """`22:00` to `23:00`, as one text."""
    at = start.astimezone(UTC)
    return f"{at:%H:%M} \N{EN DASH} {at + timedelta(hours=1):%H:%M}"


def _date(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def _link(values: Mapping[str, Any]) -> str:
    return f"?{urlencode(values)}"
