"""Group commit: a thread that stores what has gathered, in one transaction, and wakes the requests that wait for it."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass

from turnpike_asgi.options import Options
from turnpike_asgi.reports import Reports
from turnpike_asgi.spool import Spool, SpoolFullError, SpoolReplacedError
from turnpike_asgi.stats import Stats

GROUP_MAX = 1000
RETRY_SECONDS = 0.1


@dataclass(slots=True)
class Entry:
    """One event on its way to the disk. `loop` and `done` are those of the request that waits."""

    body: bytes
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Owns what is in memory only."""

    def __init__(self, options: Options, stats: Stats, reports: Reports) -> None:
        self._options, self._stats, self._reports = options, stats, reports
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._stop_at: float | None = None
        self._limit = GROUP_MAX
        self._thread = threading.Thread(target=self._run, name="turnpike-writer", daemon=True)
        self._spool: Spool | None = None

    def start(self) -> None:
        self._thread.start()

    def put(self, entry: Entry) -> bool:
        """Take an event over; returns False when there is no room even in memory."""
        with self._changed:
            if self._stop_at is not None or len(self._waiting) >= self._options.memory_events_max:
                return False
            self._waiting.append(entry)
            self._stats.in_memory += 1
            self._changed.notify()
        return True

    def stop(self, seconds: float) -> int:
        """Store what is left, within a limit of time; returns how many events could not be stored."""
        with self._changed:
            self._stop_at = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 1)
        return len(self._waiting)

    def _run(self) -> None:
        while group := self._next_group():
            try:
                self._opened().append([entry.body for entry in group])
            except SpoolFullError:
                self._full(group)
            except SpoolReplacedError as error:
                self._reports.error("spool", str(error))
                self._close()
            except (sqlite3.Error, OSError) as error:
                self._close()
                self._reports.failed("spool", error)
                self._pause()
            else:
                self._limit = min(self._limit * 2, GROUP_MAX)
                self._finish(group, stored=True)
        self._close()

    def _opened(self) -> Spool:
        """Return the spool, in this thread: no request waits for a lock of the file, and what cannot be opened is tried again."""
        if self._spool is None:
            options = self._options
            self._spool = Spool(options.folder, bytes_max=options.spool_bytes_max, durability=options.durability)
        return self._spool

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool = None

    def _full(self, group: list[Entry]) -> None:
        """A part of a group may still fit; when not even one event does, wait for room or drop it."""
        if len(group) > 1:
            self._limit = (len(group) + 1) // 2
            return
        self._reports.error("spool_full", "the spool is full, or the disk is")
        if self._options.when_full == "drop":
            self._finish(group, stored=False)
        else:
            self._pause()

    def _next_group(self) -> list[Entry]:
        """Wait for events; an empty list means stop. Events stay in the queue until they are stored."""
        with self._changed:
            while not self._waiting and self._stop_at is None:
                self._changed.wait()
            if self._stop_at is not None and time.monotonic() > self._stop_at:
                return []
            return [self._waiting[place] for place in range(min(len(self._waiting), self._limit))]

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait(RETRY_SECONDS)

    def _finish(self, group: list[Entry], *, stored: bool) -> None:
        with self._changed:
            for _ in group:
                self._waiting.popleft()
            self._stats.in_memory -= len(group)
            if stored:
                self._stats.spooled += len(group)
        if not stored:
            self._reports.dropped(len(group))
        for loop in {entry.loop for entry in group}:
            futures = [entry.done for entry in group if entry.loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
