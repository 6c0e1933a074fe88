"""Takes events and makes them durable; owns the threads of this process. Frameworks other than ASGI can use it directly."""

import asyncio
import atexit
import os
import threading
import time
from dataclasses import replace
from uuid import uuid4

from turnpike_asgi.events import Call, Usage, UsageError, build
from turnpike_asgi.options import ConfigurationError, Options
from turnpike_asgi.reports import Reports
from turnpike_asgi.sender import Sender
from turnpike_asgi.stats import Stats
from turnpike_asgi.writer import Entry, Writer


class Recorder:
    """Starts at the first event or at `start`; a process that is forked off starts its own threads."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._stats = Stats()
        self._reports = Reports(options, self._stats)
        self._lock = threading.Lock()
        self._running: tuple[int, Writer, Sender] | None = None
        self._check_folder()
        atexit.register(self.close)

    async def record(self, call: Call) -> None:
        """Make the event of an answered call durable. Never raises; waits at most `wait_seconds`."""
        try:
            body = await self._event(call)
            if body is not None:
                await self._store(body)
        except Exception as error:  # noqa: BLE001 - nothing in here may harm the app's answer
            self._reports.error("record", f"{type(error).__name__}: {error}")

    async def _event(self, call: Call) -> bytes | None:
        options = self.options
        if options.template is not None:
            call = replace(call, template=options.template(call.scope))
        usage = Usage() if options.usage is None else options.usage(call)
        if usage is None:
            return None
        subject = options.subject(call.scope)
        if subject is not None and not isinstance(subject, str):
            subject = await subject
        if subject is None:
            self._stats.unattributed += 1
            return None
        try:
            return build(call, usage, source=options.source, subject=subject, event_id=str(uuid4()), now=options.clock())
        except UsageError as error:
            self._reports.error("usage", str(error))
            return None

    async def _store(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        entry = Entry(body, loop, loop.create_future())
        self._stats.recorded += 1
        try:
            taken = self._writer().put(entry)
        except Exception:  # e.g. no thread can be started: the caller tells why
            self._reports.dropped(1)
            raise
        if not taken:
            self._reports.dropped(1)
            return
        _, late = await asyncio.wait([entry.done], timeout=self.options.wait_seconds)
        if late:
            self._reports.error("late", f"an event is not on disk after {self.options.wait_seconds:g} s; it waits in memory")

    def stats(self) -> Stats:
        """Return a copy of this process's counters."""
        return replace(self._stats)

    def start(self) -> None:
        self._writer()

    def close(self) -> None:
        """Store what is in memory, send what can be sent within `shutdown_seconds`; the rest stays in the spool."""
        with self._lock:
            running, self._running = self._running, None
        if running is None or running[0] != os.getpid():
            return
        deadline = time.monotonic() + self.options.shutdown_seconds
        _, writer, sender = running
        lost = writer.stop(self.options.shutdown_seconds)
        if lost:
            self._reports.dropped(lost)
        sender.stop(max(deadline - time.monotonic(), 0.0))

    def _writer(self) -> Writer:
        running = self._running
        if running is None or running[0] != os.getpid():
            running = self._start()
        return running[1]

    def _start(self) -> tuple[int, Writer, Sender]:
        with self._lock:
            if self._running is None or self._running[0] != os.getpid():
                writer = Writer(self.options, self._stats, self._reports)
                sender = Sender(self.options, self._stats, self._reports)
                writer.start()
                sender.start()
                self._running = os.getpid(), writer, sender
            return self._running

    def _check_folder(self) -> None:
        folder = self.options.folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"spool_folder {folder} cannot be made ({error.strerror}): name one that outlives the process"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigurationError(f"spool_folder {folder} is not writable: give the app's user the right, or name another")
