"""Usage made up by a seed, with a count of its own. Shares no code with what counts it in the product."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal

DUPLICATE_SHARE = 0.10
LATE_SHARE = 0.05
STATUSES = (200, 200, 200, 200, 201, 204, 200, 200, 404, 500)  # one of these for each call
BILLED = frozenset({200, 201, 204})
QUANTITY_MAX = 50


@dataclass(frozen=True)
class Meterer:
    """Whose usage it is, and by which road it comes: lines of the gateway on Kafka, or CloudEvents over HTTP."""

    subscription_id: str
    road: Literal["stream", "ingest"]
    source: str
    start: datetime


@dataclass
class Tally:
    """What the generator itself knows of one subscription: distinct events, what they should be billed as, and how often one went twice."""

    events: int = 0
    billed: int = 0
    repeats: int = 0
    late: int = 0


@dataclass(frozen=True)
class Usage:
    """One event; the same number always gives the same event."""

    number: int
    meterer: Meterer
    time: datetime
    status: int
    quantity: int

    def encoded(self) -> bytes:
        stamp = self.time.isoformat()
        if self.meterer.road == "stream":
            line: dict[str, Any] = {
                "v": 1,
                "id": f"call-{self.number}",
                "time": stamp,
                "sid": self.meterer.subscription_id,
                "api": "orders",
            }
            line |= {"method": "GET", "template": "/orders/{id}", "status": self.status, "requestBytes": 0, "responseBytes": 10}
            return json.dumps(line).encode()
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"use-{self.number}",
            "source": self.meterer.source,
            "type": "turnpike.usage",
            "time": stamp,
        }
        event |= {"subject": self.meterer.subscription_id, "data": {"meter": "calls", "quantity": self.quantity}}
        return json.dumps(event).encode()


@dataclass
class Generator:
    """Makes usage in portions. All randomness comes from the seed, so a run that fails can be repeated."""

    seed: int
    meterers: Sequence[Meterer]
    tallies: dict[str, Tally] = field(default_factory=dict)
    _made: list[tuple[int, datetime, datetime]] = field(default_factory=list)  # first number, since, until of each portion
    _next: int = 0

    def portion(self, size: int, since: datetime, until: datetime) -> list[Usage]:
        """Return `size` new events of [since, until), late ones among them, and repeats of any event made so far, in no order."""
        first, self._next = self._next, self._next + size
        self._made.append((first, since, until))
        order = Random(f"{self.seed}:order:{first}")
        found = list(self._new(first, size))
        for _ in range(round(size * DUPLICATE_SHARE)):
            repeat = self._event(order.randrange(first + size))
            self._tally(repeat).repeats += 1
            found.append(repeat)
        order.shuffle(found)
        return found

    def _new(self, first: int, size: int) -> Iterator[Usage]:
        since = self._made[-1][1]
        for number in range(first, first + size):
            event = self._event(number)
            tally = self._tally(event)
            tally.events += 1
            tally.late += event.time < since
            if event.status in BILLED:
                tally.billed += event.quantity
            yield event

    def _event(self, number: int) -> Usage:
        _, since, until = self._made[self._portion_of(number)]
        chance = Random(f"{self.seed}:{number}")
        meterer = self.meterers[chance.randrange(len(self.meterers))]
        begin = meterer.start if chance.random() < LATE_SHARE else since
        time = begin + timedelta(microseconds=chance.randrange(max(1, round((until - begin).total_seconds() * 1e6))))
        if meterer.road == "stream":
            return Usage(number, meterer, time, STATUSES[chance.randrange(len(STATUSES))], 1)
        return Usage(number, meterer, time, 200, chance.randint(1, QUANTITY_MAX))

    def _portion_of(self, number: int) -> int:
        return next(place for place in reversed(range(len(self._made))) if self._made[place][0] <= number)

    def _tally(self, event: Usage) -> Tally:
        return self.tallies.setdefault(event.meterer.subscription_id, Tally())
