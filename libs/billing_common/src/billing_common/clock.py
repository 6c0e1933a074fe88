"""The business clock: wall time plus an offset that only grows. Production refuses an offset."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

WAIT_MAX_SECONDS = 60.0  # a sleeper looks at the wall clock again at least this often


class ClockError(Exception):
    """The clock cannot be moved as asked; the message says why."""


class BusinessClock:
    """Tells business time (aware UTC) and wakes sleepers when it jumps.

    `offset` is 0 in production. Signatures, tokens, sessions, leases and retries use wall or monotonic time instead.
    """

    def __init__(self, offset: timedelta = timedelta(0), *, offset_allowed: bool = False) -> None:
        if offset and not offset_allowed:
            raise ClockError("this process runs on wall time: CLOCK_OFFSET_ALLOWED is off")
        self._offset = offset
        self._offset_allowed = offset_allowed
        self._jumped = asyncio.Event()

    @property
    def offset(self) -> timedelta:
        return self._offset

    @property
    def offset_allowed(self) -> bool:
        return self._offset_allowed

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def set_offset(self, offset: timedelta) -> None:
        """Move forward to `offset`; the same offset again is fine. Raises ClockError backwards or where it is not allowed."""
        if not self._offset_allowed:
            raise ClockError("this process runs on wall time: CLOCK_OFFSET_ALLOWED is off")
        if offset < self._offset:
            raise ClockError(
                f"the clock only moves forward: it is at +{self._offset.total_seconds():.3f} s, asked was +{offset.total_seconds():.3f} s"
            )
        self._offset = offset
        jumped, self._jumped = self._jumped, asyncio.Event()
        jumped.set()

    async def sleep_until(self, when: datetime) -> None:
        """Return when business time has reached `when`, also when a jump passes it."""
        while (left := (when - self.now()).total_seconds()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._jumped.wait(), min(left, WAIT_MAX_SECONDS))

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of business time."""
        await self.sleep_until(self.now() + timedelta(seconds=seconds))
