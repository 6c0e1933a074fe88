"""What was not taken: refusals at the HTTP door, added up in memory for a second, and all rejected events as a list."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from usage_collector import refusal_store
from usage_collector.refusal_store import Refusal

FLUSH_SECONDS = 1.0
KEPT_MAX = 1000  # sums between two flushes; beyond, subscriptions are not told apart
TEXT_MAX = 256


@dataclass(slots=True)
class _Sum:
    events: int
    last_event_id: str | None
    last_at: datetime


class Refusals:
    """Sums of refused events on their way to Postgres. A crash loses at most a second of them; nothing billable is in here."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], _Sum] = {}

    def add(self, sender_id: str, subscription_id: str, reason: str, event_id: str | None, *, now: datetime) -> None:
        found = self._sum_of((sender_id, subscription_id[:TEXT_MAX], reason), now)
        found.events += 1
        found.last_event_id, found.last_at = event_id[:TEXT_MAX] if event_id else None, now

    def _sum_of(self, key: tuple[str, str, str], now: datetime) -> _Sum:
        if key not in self._sums and len(self._sums) >= KEPT_MAX:
            key = (key[0], "", key[2])
        return self._sums.setdefault(key, _Sum(0, None, now))

    async def flush(self, pool: asyncpg.Pool) -> int:
        """Write the sums; returns how many. After a failure they wait for the next flush."""
        taken, self._sums = self._sums, {}
        if not taken:
            return 0
        rows = [Refusal(*key, one.events, one.last_event_id, one.last_at) for key, one in taken.items()]
        try:
            await refusal_store.add(pool, rows)
        except BaseException:
            self._put_back(taken)
            raise
        return len(rows)

    def _put_back(self, taken: dict[tuple[str, str, str], _Sum]) -> None:
        for key, one in taken.items():
            found = self._sum_of(key, one.last_at)
            found.events += one.events
            found.last_event_id = found.last_event_id or one.last_event_id

    async def run(self, pool: asyncpg.Pool) -> None:
        while True:
            await self.flush(pool)
            await asyncio.sleep(FLUSH_SECONDS)


async def rejected(pool: asyncpg.Pool, subscription_id: str | None, since: datetime, until: datetime, *, limit: int) -> dict[str, Any]:
    """Return rejected events, newest first, and the sums of what the door refused."""
    async with pool.acquire() as connection:
        events = await refusal_store.rejected_events(connection, subscription_id, since, until, limit)
        at_the_door = await refusal_store.refusals(connection, subscription_id, since, until, limit)
    return {"events": [dict(row) for row in events], "at_the_door": [dict(row) for row in at_the_door], "limit": limit}
