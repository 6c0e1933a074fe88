"""What the page of a subscription's usage shows: which time, its days or hours, endpoints and statuses, each with its sum. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pydantic import BaseModel, Field

from billing_common.reasons import WAITS, WORDS
from delegation_gateway.bill_page import ORIGINS
from delegation_gateway.collector_gateway import SplitRow
from turnpike_ui.charts import Bar, BarChart, bar_chart

DAYS_MAX = 92
ROWS_SHOWN = 100
DAY = timedelta(days=1)


class Asked(BaseModel):
    """First and last day, as the form sends them; empty: the running period."""

    since: str = Field(default="", alias="from", max_length=20)
    to: str = Field(default="", max_length=20)


@dataclass(frozen=True)
class Range:
    """Whole days, first and last included."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        return datetime.combine(self.last, time(), UTC) + DAY

    @property
    def by(self) -> str:
        return "hour" if self.first == self.last else "day"


@dataclass(frozen=True)
class Row:
    """One day, hour, endpoint or status: what counted for each meter, and how many events did not."""

    label: str
    quantities: Sequence[int]
    events: int
    not_counted: int
    note: str = ""
    address: str = ""


@dataclass(frozen=True)
class Table:
    rows: Sequence[Row]
    total: Row
    further: Row | None = None  # what the shown rows leave out


def range_of(asked: Asked, *, period_start: datetime, now: datetime) -> tuple[Range, dict[str, str]]:
    """Return the days to show, and what is wrong with those that were asked for, by field."""
    whole = Range(max(period_start, now - (DAYS_MAX - 1) * DAY).astimezone(UTC).date(), now.astimezone(UTC).date())
    if not asked.since and not asked.to:
        return whole, {}
    try:
        first = date.fromisoformat(asked.since)
    except ValueError:
        return whole, {"from": "Enter the first day as year-month-day, such as 2027-03-01"}
    try:
        last = date.fromisoformat(asked.to) if asked.to else first
    except ValueError:
        return whole, {"to": "Enter the last day as year-month-day, such as 2027-03-31"}
    if not first <= last < first + DAYS_MAX * DAY or first.year < 2000:
        return whole, {"to": f"Choose a last day that is the first or one of the {DAYS_MAX - 1} days after it"}
    return Range(first, last), {}


def by_time(rows: Iterable[SplitRow], meters: Sequence[str], chosen: Range) -> Table:
    """Divide by day, or by hour where one day is shown; days lead to their hours."""
    found = list(rows)
    if chosen.by == "hour":
        return _table(found, meters, lambda row: _at(row.hour), label=lambda key: f"{key[11:16]} UTC")
    return _table(
        found, meters, lambda row: _at(row.day), label=lambda key: key[:10], address=lambda key: f"?from={key[:10]}&to={key[:10]}"
    )


def by_endpoint(rows: Iterable[SplitRow], meters: Sequence[str]) -> Table:
    def name(row: SplitRow) -> str:
        return f"{row.method or ''} {row.template or ''}".strip() or ORIGINS.get(row.origin or "", row.origin or "other")

    return _table(rows, meters, name, largest_first=True)


def by_status(rows: Iterable[SplitRow], meters: Sequence[str]) -> Table:
    return _table(rows, meters, lambda row: str(row.status or "none"))


def reasons(rows: Iterable[SplitRow]) -> list[tuple[str, int]]:
    """Return why events did not count, and how many."""
    sums: dict[str, int] = {}
    for row in rows:
        if not _counts(row):
            text = WORDS.get(row.reason, WAITS)
            sums[text] = sums.get(text, 0) + row.distinct
    return sorted(sums.items(), key=lambda one: (-one[1], one[0]))


def chart_of(table: Table, chosen: Range, unit: str, now: datetime) -> BarChart | None:
    """Draw the first meter, with the days or hours in which nothing counted."""
    if not any(row.quantities and row.quantities[0] for row in table.rows):
        return None
    known = {row.label: row.quantities[0] for row in table.rows}
    if chosen.by == "hour":
        hours = [f"{hour:02}:00" for hour in range(24)]
        running = f"{now.astimezone(UTC):%H}:00" if now.astimezone(UTC).date() == chosen.first else ""
        bars = [Bar(hour, known.get(f"{hour} UTC", 0), unfinished=hour == running) for hour in hours]
        return bar_chart(f"{unit} per hour (UTC)", bars, heading="Hour", unit=unit, every=6)
    days = [chosen.first + offset * DAY for offset in range((chosen.last - chosen.first).days + 1)]
    bars = [Bar(f"{day.day} {day:%b}", known.get(day.isoformat(), 0), unfinished=day == now.astimezone(UTC).date()) for day in days]
    return bar_chart(f"{unit} per day (UTC)", bars, heading="Day", unit=unit)


def _at(value: datetime | None) -> str:
    return "" if value is None else value.astimezone(UTC).isoformat()


def _counts(row: SplitRow) -> bool:
    """What came late counts too, but stands on a line of its own."""
    return row.outcome == "counted" and row.reason != "late_billed"


def _table(
    rows: Iterable[SplitRow],
    meters: Sequence[str],
    key_of: Callable[[SplitRow], str],
    *,
    label: Callable[[str], str] = str,
    address: Callable[[str], str] | None = None,
    largest_first: bool = False,
) -> Table:
    groups: dict[str, list[SplitRow]] = {}
    for row in rows:
        groups.setdefault(key_of(row), []).append(row)
    listed = [_row(label(key), group, meters, address(key) if address else "") for key, group in sorted(groups.items())]
    if largest_first:
        listed.sort(key=lambda row: (-sum(row.quantities), -row.events, row.label))
    shown, rest = listed[:ROWS_SHOWN], listed[ROWS_SHOWN:]
    further = _sum(f"{len(rest)} further", rest, meters) if rest else None
    return Table(shown, _sum("Sum", listed, meters), further)


def _row(label: str, group: Sequence[SplitRow], meters: Sequence[str], address: str) -> Row:
    return Row(
        label=label,
        quantities=[sum(row.quantity for row in group if _counts(row) and row.meter_id == meter) for meter in meters],
        events=sum(row.distinct for row in group),
        not_counted=sum(row.distinct for row in group if not _counts(row)),
        address=address,
    )


def _sum(label: str, rows: Sequence[Row], meters: Sequence[str]) -> Row:
    quantities = [sum(row.quantities[index] for row in rows) for index in range(len(meters))]
    return Row(label, quantities, sum(row.events for row in rows), sum(row.not_counted for row in rows))
