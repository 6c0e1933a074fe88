"""What the batches of one process are adding right now, so that two of them do not meet at the same event in the database.

That only saves time: whether an event is new is for the database to say, which other processes write to as well.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from usage_collector.observing import Observation


class Adding:
    """Ids in open transactions of this process; a task waits only while it has none itself."""

    def __init__(self) -> None:
        self._ids: set[UUID] = set()
        self._some_ended = asyncio.Event()

    def split(self, seen: Sequence[Observation]) -> tuple[Sequence[Observation], Sequence[Observation]]:
        """Return those that nobody is adding, and those that somebody is."""
        if not self._ids or self._ids.isdisjoint([one.id for one in seen]):
            return seen, ()
        return [one for one in seen if one.id not in self._ids], [one for one in seen if one.id in self._ids]

    @contextmanager
    def claim(self, free: Sequence[Observation]) -> Iterator[None]:
        """Keep others from adding these until the block ends; `split` must have just called them free."""
        ids = {one.id for one in free}
        self._ids |= ids
        try:
            yield
        finally:
            self._ids -= ids
            self._some_ended.set()
            self._some_ended = asyncio.Event()

    async def ended(self, seen: Sequence[Observation]) -> None:
        """Wait until nobody adds any of these."""
        while not self._ids.isdisjoint([one.id for one in seen]):
            await self._some_ended.wait()
