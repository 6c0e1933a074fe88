"""How many bytes of bodies the public door holds at once, in all and of one sender: what is more is refused before it is read."""

from collections import Counter
from typing import Self

from usage_collector.cloud_events import RequestError


class Budget:
    """An event in memory takes about three times its bytes on the wire, so bytes are what has to be bounded, not requests."""

    def __init__(self, bytes_max: int, sender_bytes_max: int) -> None:
        self.bytes_max, self.sender_bytes_max = bytes_max, sender_bytes_max
        self.held = 0
        self.of_sender: Counter[str] = Counter()


class Share:
    """The bytes of one request: what was held is free again where the block ends."""

    def __init__(self, budget: Budget, sender_id: str) -> None:
        self._budget, self._sender_id = budget, sender_id
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        budget, sender_id = self._budget, self._sender_id
        budget.held -= self.bytes
        budget.of_sender[sender_id] -= self.bytes
        if not budget.of_sender[sender_id]:
            del budget.of_sender[sender_id]

    def hold(self, size: int) -> None:
        """Hold at least `size` bytes. Raises RequestError where that is too much: 429 for the sender's own, 503 for everybody's."""
        more = size - self.bytes
        if more <= 0:
            return
        budget = self._budget
        if budget.of_sender[self._sender_id] + more > budget.sender_bytes_max:
            raise RequestError(429, "too_many_requests", "too many bytes of this sender at once: try again in a second")
        if budget.held + more > budget.bytes_max:
            raise RequestError(503, "busy", "too many bytes at once: try again in a second")
        budget.held += more
        budget.of_sender[self._sender_id] += more
        self.bytes += more
