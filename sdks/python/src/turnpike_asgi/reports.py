"""What goes wrong is counted, logged when it changes, and told to the app's hooks."""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime

from turnpike_asgi.options import Options
from turnpike_asgi.spool import is_damaged, readable, set_damaged_aside
from turnpike_asgi.stats import Stats

log = logging.getLogger("turnpike_asgi")
SAME_PROBLEM_SECONDS = 60.0


class Reports:
    """Called from every thread; never raises."""

    def __init__(self, options: Options, stats: Stats) -> None:
        self._options, self._stats = options, stats
        self._told: dict[str, tuple[str, float]] = {}

    def error(self, kind: str, problem: str) -> None:
        """Tell a problem. It never holds a payload or a key."""
        self._stats.errors += 1
        self._log(kind, problem)
        _call(self._options.on_error, kind, problem)

    def failed(self, kind: str, error: Exception) -> None:
        """Tell what went wrong; a damaged spool is set aside, so that whoever opens it next begins a new one."""
        self.error(kind, f"{type(error).__name__}: {error}")
        if not is_damaged(error):
            return
        try:
            name = set_damaged_aside(self._options.folder, datetime.now(UTC))
        except (sqlite3.Error, OSError) as problem:
            self.error("damaged", f"the spool is damaged and cannot be set aside: {type(problem).__name__}: {problem}")
        else:
            if name is not None:
                self.error("damaged", f"the spool was damaged: it is kept as {name}, what is in it is not sent; a new one is begun")

    def dropped(self, events: int) -> None:
        self._stats.dropped += events
        self._log("dropped", "usage events were dropped: neither the spool nor memory took them")
        _call(self._options.on_dropped, events)

    def rejected(self, body: bytes, reason: str, message: str) -> None:
        self._log(f"rejected: {reason}", f"{message}; such events are kept aside in the spool")
        if self._options.on_rejected is not None:
            _call(self._options.on_rejected, readable(body), reason, message)

    def _log(self, kind: str, problem: str) -> None:
        """Log when something changes, and the same at most once a minute."""
        last, at = self._told.get(kind, ("", 0.0))
        now = time.monotonic()
        if last != problem or now - at > SAME_PROBLEM_SECONDS:
            self._told[kind] = problem, now
            log.warning("%s: %s", kind, problem)


def _call(hook: Callable[..., None] | None, *arguments: object) -> None:
    if hook is not None:
        with contextlib.suppress(Exception):
            hook(*arguments)
