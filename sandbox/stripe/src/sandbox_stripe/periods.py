"""Billing periods: pure arithmetic on an anchor, to the second, in UTC."""

import calendar
from datetime import UTC, datetime, timedelta

DAY = 86_400
SPANS = {"day": DAY, "week": 7 * DAY}
AVERAGES = {"month": 30.436875 * DAY, "year": 365.2425 * DAY}


def boundary(anchor: int, interval: str, count: int, index: int, *, day: int | None = None) -> int:
    """Return the boundary `index` intervals after the anchor; month ends clamp (31st -> last day)."""
    if interval in SPANS:
        return anchor + index * count * SPANS[interval]
    start = datetime.fromtimestamp(anchor, UTC)
    months = index * count * (12 if interval == "year" else 1) + start.year * 12 + start.month - 1
    year, month = months // 12, months % 12 + 1
    wanted = day or start.day
    return int(start.replace(year=year, month=month, day=min(wanted, calendar.monthrange(year, month)[1])).timestamp())


def _index(anchor: int, interval: str, count: int, at: int, day: int | None) -> int:
    """Return the largest index whose boundary is not after `at`."""
    span = SPANS.get(interval) or AVERAGES[interval]
    index = int((at - anchor) // (span * count)) - 1
    while boundary(anchor, interval, count, index + 1, day=day) <= at:
        index += 1
    while boundary(anchor, interval, count, index, day=day) > at:
        index -= 1
    return index


def next_boundary(anchor: int, interval: str, count: int, after: int, *, day: int | None = None) -> int:
    """Return the first boundary strictly after a moment."""
    return boundary(anchor, interval, count, _index(anchor, interval, count, after, day) + 1, day=day)


def last_boundary(anchor: int, interval: str, count: int, at: int, *, day: int | None = None) -> int:
    """Return the last boundary at or before a moment."""
    return boundary(anchor, interval, count, _index(anchor, interval, count, at, day), day=day)


def anchor_from_config(config: dict[str, int | None], start: int, interval: str) -> int:
    """Return the first moment after `start` that fits the day of month and time of a billing_cycle_anchor_config."""
    begin = datetime.fromtimestamp(start, UTC)
    day = int(config["day_of_month"] or 1)

    def part(unit: str) -> int:
        given = config.get(unit)
        return int(getattr(begin, unit)) if given is None else given

    month = begin.replace(day=1, hour=part("hour"), minute=part("minute"), second=part("second"))
    months_wanted = config.get("month") if interval == "year" else None
    for _ in range(14):
        candidate = month.replace(day=min(day, calendar.monthrange(month.year, month.month)[1]))
        if candidate.timestamp() > start and months_wanted in {None, candidate.month}:
            return int(candidate.timestamp())
        month = (month + timedelta(days=32)).replace(day=1)
    raise ValueError("a billing_cycle_anchor_config always has a match within 14 months")
