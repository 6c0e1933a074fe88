"""What goes wrong is counted, logged when it changes, and told to the app's hooks."""

import contextlib
import json
import logging
import time
from collections.abc import Callable

from turnpike_asgi.options import Options
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

    def dropped(self, events: int) -> None:
        self._stats.dropped += events
        self._log("dropped", "usage events were dropped: the spool is full")
        _call(self._options.on_dropped, events)

    def rejected(self, body: bytes, reason: str, message: str) -> None:
        self._log(f"rejected: {reason}", f"{message}; such events are kept aside in the spool")
        if self._options.on_rejected is not None:
            _call(self._options.on_rejected, json.loads(body), reason, message)

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
