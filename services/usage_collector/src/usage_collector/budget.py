"""How many bytes of bodies the public door holds at once, in all and of one sender: what is more is refused before it is read."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from usage_collector.cloud_events import RequestError


class Budget:
    """An event in memory takes about three times its bytes on the wire, so bytes are what has to be bounded, not requests."""

    def __init__(self, bytes_max: int, sender_bytes_max: int) -> None:
        self.bytes_max, self.sender_bytes_max = bytes_max, sender_bytes_max
        self.held = 0
        self.of_sender: Counter[str] = Counter()

    @contextmanager
    def share(self, sender_id: str) -> Iterator["Share"]:
        """Give a request its share; what it holds is free again afterwards."""
        share = Share(self, sender_id)
        try:
            yield share
        finally:
            self.held -= share.bytes
            self.of_sender[sender_id] -= share.bytes
            if not self.of_sender[sender_id]:
                del self.of_sender[sender_id]


class Share:
    """The bytes of one request."""

    def __init__(self, budget: Budget, sender_id: str) -> None:
        self._budget, self._sender_id = budget, sender_id
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Hold at least `size` bytes. Raises RequestError where that is too much: 429 for the sender's own, 503 for everybody's."""
        more = max(size - self.bytes, 0)
        budget = self._budget
        if budget.of_sender[self._sender_id] + more > budget.sender_bytes_max:
            raise RequestError(429, "too_many_requests", "too many bytes of this sender at once: try again in a second")
        if budget.held + more > budget.bytes_max:
            raise RequestError(503, "busy", "too many bytes at once: try again in a second")
        budget.held += more
        budget.of_sender[self._sender_id] += more
        self.bytes += more
