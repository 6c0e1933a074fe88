"""Counts calls for rate limits (sliding windows, in memory) and quotas (fixed windows, kept in the database)."""

import sqlite3
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # the end of a period that never renews
WINDOWS_MAX = 200_000
MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


@dataclass(slots=True)
class Period:
    """One quota period of one counter."""

    start: datetime
    end: datetime
    calls: int = 0
    kilobytes: float = 0.0


def period_of(now: datetime, first_start: datetime, renewal_seconds: int) -> tuple[datetime, datetime]:
    """Return the fixed window that holds `now`, counted from `first_start`; 0 seconds: one window without an end."""
    if renewal_seconds == 0:
        return first_start, NEVER
    length = timedelta(seconds=renewal_seconds)
    start = first_start + (now - first_start) // length * length
    return start, start + length


class Limits:
    """All counters. Times are business time: a jump of the clock empties windows and opens new periods."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._windows: dict[str, deque[float]] = {}
        self._periods: dict[str, Period] = {}
        self.dirty: dict[str, Period] = {}  # written together with the call that changed them

    def rate_left(self, counter: str, now: datetime, calls: int, seconds: int) -> tuple[int, int]:
        """Return how many calls are left in the window, and in how many seconds the next one is free."""
        window = self._windows.get(counter)
        if window is None:
            return calls, 0
        moment = now.timestamp()
        while window and window[0] <= moment - seconds:
            window.popleft()
        left = calls - len(window)
        return left, max(1, ceil(window[0] + seconds - moment)) if left <= 0 else 0

    def rate_add(self, counter: str, now: datetime, count: int = 1) -> None:
        if counter not in self._windows:
            if len(self._windows) >= WINDOWS_MAX:
                self._windows.pop(next(iter(self._windows)))  # the oldest counter starts anew: memory stays bounded
            self._windows[counter] = deque()
        self._windows[counter].extend([now.timestamp()] * count)

    def period(self, counter: str, now: datetime, first_start: datetime, renewal_seconds: int) -> Period:
        """Return the current quota period of a counter, read from the database after a restart."""
        start, end = period_of(now, first_start, renewal_seconds)
        known = self._periods.get(counter)
        if known is not None and known.start == start:
            known.end = end
            return known
        row = self._database.execute(
            "SELECT calls, kilobytes FROM quota_counters WHERE counter = ? AND period_start_us = ?", (counter, microseconds(start))
        ).fetchone()
        found = Period(start, end, *(row or (0, 0.0)))
        if len(self._periods) >= WINDOWS_MAX:
            self._periods.pop(next(iter(self._periods)))
        self._periods[counter] = found
        return found

    def known_period(self, counter: str) -> Period | None:
        """Return the period a counter was last used in."""
        if counter in self._periods:
            return self._periods[counter]
        row = self._database.execute(
            "SELECT period_start_us, calls, kilobytes FROM quota_counters WHERE counter = ? ORDER BY period_start_us DESC", (counter,)
        ).fetchone()
        return None if row is None else Period(EPOCH + row[0] * MICROSECOND, NEVER, row[1], row[2])

    def quota_add(self, counter: str, period: Period, calls: int, kilobytes: float) -> None:
        period.calls += calls
        period.kilobytes += kilobytes
        self.dirty[counter] = period

    def set_period(self, counter: str, period: Period, calls: int, kilobytes: float) -> None:
        """Overwrite a counter (the management API can)."""
        period.calls, period.kilobytes = calls, kilobytes
        self._periods[counter] = period
        self.dirty[counter] = period
        self.write()

    def write(self) -> None:
        """Write what changed; the caller may hold a transaction open."""
        if not self.dirty:
            return
        rows = [(counter, microseconds(period.start), period.calls, period.kilobytes) for counter, period in self.dirty.items()]
        self._database.executemany(
            "INSERT INTO quota_counters VALUES (?, ?, ?, ?) ON CONFLICT (counter, period_start_us)"
            " DO UPDATE SET calls = excluded.calls, kilobytes = excluded.kilobytes",
            rows,
        )
        self.dirty = {}


def time_span(seconds: int) -> str:
    """Show seconds as .NET's TimeSpan: 00:30:02 or 14.07:13:56."""
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}.{clock}" if days else clock
