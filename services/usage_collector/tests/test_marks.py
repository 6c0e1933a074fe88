"""Growth of distinct values and of heights: the same for every order, and taken away with the events that carry it."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usage_collector.marks import Place, Stated, see_heights, see_values

NOON = datetime(2027, 1, 10, 12, tzinfo=UTC)
SETTINGS = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=14)  # minute (several events in one), value


def places(events: list[tuple[int, int]]) -> list[tuple[Place, int]]:
    return [(Place(NOON + timedelta(minutes=minute), UUID(int=number)), value) for number, (minute, value) in enumerate(events)]


class Values:
    """The table of first events, and the growth at each event."""

    def __init__(self) -> None:
        self.known: dict[UUID, Place] = {}
        self.growth: Counter[Place] = Counter()

    def add(self, batch: list[tuple[Place, int]]) -> None:
        found = see_values(self.known, [Stated(place, UUID(int=value)) for place, value in batch])
        self.known |= found.moved
        self.growth.update(found.growth)

    def cut(self, since: datetime) -> None:
        self.known = {value: place for value, place in self.known.items() if place.at < since}


class Heights:
    """The table of records, and the growth at each event. Only what is not earlier than the batch is read, as the service does."""

    def __init__(self) -> None:
        self.known: list[Stated[int]] = []
        self.growth: Counter[Place] = Counter()

    def add(self, batch: list[tuple[Place, int]]) -> None:
        first = min(place for place, _ in batch)
        base = max((one.value for one in self.known if one.place < first), default=0)
        found = see_heights(base, [one for one in self.known if one.place >= first], [Stated(*one) for one in batch])
        self.known = [one for one in self.known if one not in found.removed] + list(found.added)
        self.growth.update(found.growth)

    def cut(self, since: datetime) -> None:
        self.known = [one for one in self.known if one.place.at < since]


def growth_of_values(events: list[tuple[Place, int]]) -> dict[Place, int]:
    seen: set[int] = set()
    return {place: 1 for place, value in sorted(events) if value not in seen and not seen.add(value)}  # type: ignore[func-returns-value]


def growth_of_heights(events: list[tuple[Place, int]]) -> dict[Place, int]:
    highest, found = 0, {}
    for place, value in sorted(events):
        if value > highest:
            found[place], highest = value - highest, value
    return found


def deliver(state: Any, events: list[tuple[Place, int]], order: random.Random) -> None:
    waiting = order.sample(events, len(events))
    while waiting:
        size = order.randint(1, len(waiting))
        state.add(waiting[:size])
        waiting = waiting[size:]


@SETTINGS
@given(EVENTS, st.integers(0, 2**32))
def test_the_growth_does_not_depend_on_the_order(drawn: list[tuple[int, int]], seed: int) -> None:
    events, order = places(drawn), random.Random(seed)
    for state, expected in ((Values(), growth_of_values(events)), (Heights(), growth_of_heights(events))):
        deliver(state, events, order)
        assert {place: grown for place, grown in state.growth.items() if grown} == expected  # type: ignore[attr-defined]


@SETTINGS
@given(EVENTS, st.integers(0, 7), st.integers(0, 2**32))
def test_without_the_events_from_an_instant_on_it_is_as_if_they_never_came(drawn: list[tuple[int, int]], minute: int, seed: int) -> None:
    events, since = places(drawn), NOON + timedelta(minutes=minute)
    order = random.Random(seed)
    kept = [(place, value) for place, value in events if place.at < since]
    again = [(place, value) for place, value in events if place.at >= since]
    for state, oracle in ((Values(), growth_of_values), (Heights(), growth_of_heights)):
        deliver(state, events, order)
        state.cut(since)
        carried = {place: grown for place, grown in state.growth.items() if grown and place.at < since}
        assert carried == oracle(kept)
        state.growth = Counter(carried)
        deliver(state, again, order)
        assert {place: grown for place, grown in state.growth.items() if grown} == oracle(events)


def test_an_earlier_event_takes_the_growth_over_and_leaves_the_sum() -> None:
    state = Values()
    (late, early) = places([(5, 3), (1, 3)])
    state.add([late])
    assert state.growth == {late[0]: 1}
    state.add([early])
    assert state.growth == {late[0]: 0, early[0]: 1}


def test_a_height_between_two_records_shares_the_rise() -> None:
    state = Heights()
    first, last, between = places([(1, 10), (9, 50), (5, 30)])
    state.add([first, last])
    assert state.growth == {first[0]: 10, last[0]: 40}
    state.add([between])
    assert state.growth == {first[0]: 10, between[0]: 20, last[0]: 20}
