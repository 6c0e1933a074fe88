"""Meters whose period has one number: how a distinct value or a new height makes it grow, whatever the order of events.

The growth stands at the earliest event that explains it: the first with a value, the first that is higher than all before it. So the
hours of a period always add up to its number, and taking the events after an instant away takes exactly their growth away. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

Value = TypeVar("Value", UUID, int)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """An event in time; events of the same instant are ordered by their ids, so the order is the same for everybody."""

    at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Stated(Generic[Value]):
    """What one event states."""

    place: Place
    value: Value


@dataclass(frozen=True, slots=True)
class Firsts:
    """New first events of values, and by how much the growth at each event changes."""

    moved: Mapping[UUID, Place]
    growth: Mapping[Place, int]


def see_values(known: Mapping[UUID, Place], stated: Iterable[Stated[UUID]]) -> Firsts:
    """Compare new events with the known first event of each of their values."""
    moved: dict[UUID, Place] = {}
    for one in stated:
        before = moved.get(one.value) or known.get(one.value)
        if before is None or one.place < before:
            moved[one.value] = one.place
    growth: Counter[Place] = Counter(moved.values())
    growth.subtract(known[value] for value in moved if value in known)
    return Firsts(moved, {place: change for place, change in growth.items() if change})


@dataclass(frozen=True, slots=True)
class Records:
    """Records that are new, those that are none any more, and by how much the growth at each event changes."""

    added: Sequence[Stated[int]]
    removed: Sequence[Stated[int]]
    growth: Mapping[Place, int]


def see_heights(base: int, known: Sequence[Stated[int]], stated: Iterable[Stated[int]]) -> Records:
    """Compare new events with the records that are not earlier than them; `base` is the height before these."""
    before = _records(base, known)
    after = _records(base, [*known, *stated])
    growth: Counter[Place] = Counter({one.place: rise for one, rise in after.items()})
    growth.subtract({one.place: rise for one, rise in before.items()})
    return Records(
        added=[one for one in after if one not in before],
        removed=[one for one in before if one not in after],
        growth={place: change for place, change in growth.items() if change},
    )


def _records(base: int, stated: Iterable[Stated[int]]) -> dict[Stated[int], int]:
    """Return the events that are higher than all before them, each with its rise."""
    found: dict[Stated[int], int] = {}
    highest = base
    for one in sorted(stated, key=lambda one: one.place):
        if one.value > highest:
            found[one] = one.value - highest
            highest = one.value
    return found
