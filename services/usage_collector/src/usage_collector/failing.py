"""What of a task has failed keeps the rest of it from nothing: it is told once, counted, and tried again after a pause."""

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import asyncpg
import structlog

from usage_collector import metrics

log = structlog.get_logger(__name__)
K = TypeVar("K", bound=Hashable)
PAUSE_SECONDS, PAUSE_GROWTH, PAUSE_MAX_SECONDS = 1.0, 4, 300.0
FORGOTTEN_SECONDS = 900.0  # not tried again for so long after its pause: another process has done it, or it is gone


def concerns_all(error: Exception) -> bool:
    """Tell whether nothing else would work either. A statement that takes too long is not that: it is the fault of what it reads."""
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
        return False
    return isinstance(error, OSError | asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError | asyncpg.InterfaceError)


@dataclass
class _Failed:
    tries: int = 0
    rests_until: float = 0.0


class Failing(Generic[K]):
    """One task's memory of what failed, by key; of this process only: another one tries everything at once."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._failed: dict[K, _Failed] = {}

    def resting(self) -> list[K]:
        """Return what is not to be tried now."""
        now = time.monotonic()
        self._failed = {key: one for key, one in self._failed.items() if now - one.rests_until < FORGOTTEN_SECONDS}
        self._count()
        return [key for key, one in self._failed.items() if now < one.rests_until]

    @contextmanager
    def one(self, key: K) -> Iterator[None]:
        """Take an error of what is done for a key as its own; one that concerns everybody is raised."""
        try:
            yield
        except Exception as error:  # unforeseen by its nature
            if concerns_all(error):
                raise
            self._note(key, error)
        else:
            self._failed.pop(key, None)
            self._count()

    async def together(self, keys: Sequence[K], do: Callable[[Sequence[K]], Awaitable[int]]) -> int:
        """Do it for all at once, or where that fails for each alone; returns how much was done."""
        try:
            return await do(keys)
        except Exception as error:
            if concerns_all(error):
                raise
            log.warning("a round failed: each is tried alone", task=self._task, error=type(error).__name__)
        done = 0
        for key in keys:
            with self.one(key):
                done += await do([key])
        return done

    def _note(self, key: K, error: Exception) -> None:
        known = self._failed.setdefault(key, _Failed())
        if known.tries == 0:
            log.error("one failed: the others go on, and it is tried again", task=self._task, key=str(key), exc_info=error)
        known.rests_until = time.monotonic() + min(PAUSE_SECONDS * PAUSE_GROWTH ** min(known.tries, 9), PAUSE_MAX_SECONDS)
        known.tries += 1
        self._count()

    def _count(self) -> None:
        metrics.FAILING.labels(self._task).set(len(self._failed))
