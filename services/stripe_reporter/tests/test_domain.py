"""The rules as tables of cases."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, strategies

from stripe_reporter.domain import (
    MeterEvent,
    MeterSums,
    Window,
    compare,
    divide,
    due_at,
    judge_segment,
    meter_event,
    retry_pause,
    window_id,
)

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def row(quantity: int = 5, *, minutes: int = 0, age: timedelta | None = None) -> MeterEvent:
    return MeterEvent(
        identifier=uuid4(),
        window_id=uuid4(),
        stripe_customer_id="cus_1",
        event_name="calls",
        stripe_meter_id="mtr_1",
        event_time=NOON - timedelta(days=2) + minutes * MINUTE,
        revision=1,
        quantity=quantity,
        first_sent_at=None if age is None else NOON - age,
    )


@pytest.mark.parametrize(
    ("total", "recorded", "priced", "quantity"),
    [(5, 0, True, 5), (5, 3, True, 2), (3, 5, True, -2), (5, 5, True, None), (5, 0, False, None)],
)
def test_what_is_sent_is_the_total_minus_the_ledger(total: int, recorded: int, priced: bool, quantity: int | None) -> None:
    names: dict[str, Any] = {"event_name": "calls", "stripe_meter_id": "mtr_1"} if priced else {"event_name": None, "stripe_meter_id": None}
    window = Window(uuid4(), total, recorded, 4, NOON, "cus_1", **names)
    event = meter_event(window)
    assert (event.quantity if event else None) == quantity
    assert event == meter_event(window), "the same window and revision always make the same identifier"


def test_one_instant_in_two_zones_is_one_window() -> None:
    elsewhere = NOON.astimezone(datetime.strptime("+0530", "%z").tzinfo)
    ids = {window_id(subscription_id="s", meter_id="m", segment_start=instant, hour=instant) for instant in (NOON, elsewhere)}
    assert len(ids) == 1


@pytest.mark.parametrize(("minutes", "due"), [(-30, 61), (30, 61), (90, 91)])
def test_a_window_is_due_after_its_hour_and_a_straggler_after_a_delay(minutes: int, due: int) -> None:
    assert due_at(NOON, now=NOON + minutes * MINUTE, delay=MINUTE) == NOON + due * MINUTE


def test_old_rows_are_compared_hour_by_hour_and_others_are_sent() -> None:
    young, fresh, old = row(age=timedelta(hours=22)), row(minutes=70), row(minutes=130, age=timedelta(hours=23))
    held = row(minutes=131)
    work = divide([young, fresh, old, held], NOON)
    assert work.send == (young, fresh)
    assert list(work.compare.values()) == [(old,)]


def test_an_hour_with_a_row_that_can_still_be_repeated_is_not_compared_yet() -> None:
    old, young = row(age=timedelta(hours=30)), row(age=timedelta(hours=2))
    work = divide([old, young], NOON)
    assert (work.send, dict(work.compare)) == ((young,), {})


@pytest.mark.parametrize(
    ("quantities", "at_stripe", "rests"),
    [
        ([5], 5, []),
        ([5], 0, [5]),
        ([5, 3], 5, [3]),
        ([5, 3], 3, [5]),
        ([5, 3], 8, []),
        ([5], 2, [3]),
        ([5], 9, [-4]),
        ([-2], -2, []),
        ([-2], 0, [-2]),
    ],
)
def test_only_the_difference_to_stripes_sum_is_sent(quantities: list[int], at_stripe: int, rests: list[int]) -> None:
    found = compare([row(quantity) for quantity in quantities], at_stripe=at_stripe + 100, acknowledged=100)
    assert [one.rest.quantity for one in found if one.rest] == rests


@given(quantities=strategies.lists(strategies.integers(-99, 99).filter(bool), min_size=1), at_stripe=strategies.integers(-500, 500))
def test_whatever_stripe_has_credited_and_new_add_up_to_the_rows(quantities: list[int], at_stripe: int) -> None:
    rows = [row(quantity) for quantity in quantities]
    found = compare(rows, at_stripe=at_stripe, acknowledged=0)
    assert sum(one.credited for one in found) == at_stripe
    assert at_stripe + sum(one.rest.quantity for one in found if one.rest) == sum(quantities)
    assert not {one.rest.identifier for one in found if one.rest} & {one.identifier for one in rows}


@pytest.mark.parametrize(
    ("totals", "sums", "state"),
    [
        ({}, {}, "settled"),
        ({"calls": 0}, {}, "settled"),
        ({"calls": 5}, {"calls": (5, 5, 0)}, "settled"),
        ({"calls": 5}, {"calls": (5, 3, 0)}, "waiting"),
        ({"calls": 5}, {}, "waiting"),
        ({"calls": 5}, {"calls": (6, 6, 0)}, "waiting"),
        ({"calls": 5}, {"calls": (5, 3, 2)}, "parked"),
        ({"calls": 5, "bytes": 1}, {"calls": (5, 3, 2)}, "waiting"),
        ({"calls": 5}, {"calls": (5, 5, 0), "bytes": (1, 1, 0)}, "waiting"),
    ],
)
def test_a_segment_is_settled_when_every_meter_is_at_stripe(
    totals: dict[str, int], sums: dict[str, tuple[int, int, int]], state: str
) -> None:
    assert judge_segment(totals, {name: MeterSums(*given) for name, given in sums.items()}, free=False)[0] == state


def test_a_free_segment_waits_for_nothing() -> None:
    assert judge_segment({"calls": 5}, {}, free=True) == ("settled", "")


def test_pauses_grow_and_end_at_the_longest() -> None:
    pauses = [retry_pause(failures, longest=60, jitter=1).total_seconds() for failures in (0, 1, 2, 50)]
    assert pauses == [0.5, 1, 2, 60]
