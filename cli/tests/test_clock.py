"""The walk of the business clock against doors in memory: it stops at every due transition and waits until all is quiet."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from turnpike_cli.clock import BusinessTime
from turnpike_cli.clock_commands import parse_duration, parse_moment
from turnpike_cli.errors import CommandError, DoorClosedError


class Process:
    """One process with a list of things to do, each done at the first status asked for after its time has come."""

    def __init__(self, name: str, *dues: datetime, restarts: int = 0) -> None:
        self.name, self.dues, self.offset, self.activity, self.busy = name, sorted(dues), 0.0, 0, 0
        self.done_at: list[datetime] = []
        self.closed, self.closed_how = restarts, DoorClosedError

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset)

    def status(self) -> dict[str, Any]:
        if self.closed:
            self.closed -= 1
            raise self.closed_how(f"{self.name} does not answer")
        while self.dues and self.dues[0] <= self.now:
            self.done_at.append(self.now)
            self.dues.pop(0)
            self.busy = 2
        if self.busy:
            self.busy -= 1
            self.activity += 1
        due = self.dues[0].isoformat() if self.dues else None
        waiting = ["an invoice"] if self.busy else []
        return {"settled": not self.busy, "activity": self.activity, "next_due": due, "waiting_for": waiting, "now": self.now.isoformat()}


class Doors:
    def __init__(self, *processes: Process) -> None:
        self.processes = {process.name: process for process in processes}
        self.moves: list[str] = []
        self.before_move: Callable[[str], None] = lambda _: None

    @property
    def names(self) -> list[str]:
        return list(self.processes)

    async def status(self, name: str) -> dict[str, Any]:
        return self.processes[name].status()

    async def clock(self, name: str) -> dict[str, Any]:
        return {"offset_seconds": self.processes[name].offset}

    async def set_clock(self, name: str, offset_seconds: float) -> None:
        self.before_move(name)
        assert offset_seconds >= self.processes[name].offset
        self.moves.append(name)
        self.processes[name].offset = offset_seconds


def in_hours(hours: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


async def test_the_walk_stops_at_each_due_transition_of_anybody_in_order() -> None:
    stripe, reporter = Process("sandbox_stripe", in_hours(5), in_hours(30)), Process("stripe_reporter", in_hours(1), in_hours(20))
    steps = await BusinessTime(Doors(stripe, reporter)).advance_by(timedelta(days=2))
    assert [step.cause for step in steps] == ["stripe_reporter", "sandbox_stripe", "stripe_reporter", "sandbox_stripe", "the end"]
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    for process in (stripe, reporter):
        assert not process.dues
        assert process.now > in_hours(47.9)


async def test_each_transition_is_seen_at_its_own_time_and_not_at_the_end() -> None:
    due = in_hours(10)
    stripe = Process("sandbox_stripe", due)
    await BusinessTime(Doors(stripe)).advance_by(timedelta(days=30))
    assert timedelta(0) <= stripe.done_at[0] - due < timedelta(seconds=5)


async def test_the_master_copy_moves_last() -> None:
    doors = Doors(Process("sandbox_stripe"), Process("sandbox_apim"), Process("checkout"))
    await BusinessTime(doors).advance_by(timedelta(hours=1))
    assert doors.moves == ["checkout", "sandbox_apim", "sandbox_stripe"]


async def test_who_never_settles_is_named_with_the_reason_and_the_clock_stays() -> None:
    stripe, stuck = Process("sandbox_stripe"), Process("checkout")
    stuck.busy = 10**9
    doors = Doors(stripe, stuck)
    with pytest.raises(CommandError, match=r"Not settled within 0 s.*checkout: an invoice"):
        await BusinessTime(doors, settle_seconds=0.2).advance_by(timedelta(hours=1))
    assert doors.moves == []


async def test_work_that_is_due_and_not_begun_counts_as_unsettled() -> None:
    class Late(Process):
        def status(self) -> dict[str, Any]:
            due = (self.now - timedelta(hours=1)).isoformat()
            return {"settled": True, "activity": 0, "next_due": due, "waiting_for": [], "now": self.now.isoformat()}

    with pytest.raises(CommandError, match="is due since"):
        await BusinessTime(Doors(Late("sandbox_stripe")), settle_seconds=0.2).settle()


async def test_a_stack_that_is_never_quiet_is_not_settled() -> None:
    class Restless(Process):
        def status(self) -> dict[str, Any]:
            self.activity += 1
            return super().status()

    with pytest.raises(CommandError, match="usage_collector: it is never quiet"):
        await BusinessTime(Doors(Process("sandbox_stripe"), Restless("usage_collector")), settle_seconds=0.2).settle()


async def test_a_process_that_is_restarted_during_the_walk_is_waited_for_and_brought_up_to_the_others() -> None:
    stripe, checkout = Process("sandbox_stripe", in_hours(2)), Process("checkout")
    doors = Doors(stripe, checkout)
    crashed: list[str] = []

    def crash(name: str) -> None:
        if name == "sandbox_stripe" and not crashed:
            crashed.append(name)
            checkout.closed, checkout.offset = 3, 0.0  # it lost its clock just after it had been set

    doors.before_move = crash
    await BusinessTime(doors).advance_by(timedelta(hours=4))
    assert abs(checkout.now - stripe.now) < timedelta(seconds=1)


async def test_a_service_whose_database_is_away_is_waited_for() -> None:
    slow = Process("sandbox_stripe", restarts=5)
    slow.closed_how = CommandError  # its status door answers, with 500
    await BusinessTime(Doors(slow)).settle()
    assert slow.closed == 0


async def test_going_back_is_refused() -> None:
    with pytest.raises(CommandError, match="only moves forward"):
        await BusinessTime(Doors(Process("sandbox_stripe"))).advance_to(in_hours(-1))


@pytest.mark.parametrize(
    ("text", "duration"),
    [("90s", timedelta(seconds=90)), ("30m", timedelta(minutes=30)), ("1d12h", timedelta(days=1, hours=12)), ("2w", timedelta(weeks=2))],
)
def test_durations_are_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "3", "d", "-1d", "3 days", "1y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no duration"):
        parse_duration(text)


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_moment("2026-12-01") == datetime(2026, 12, 1, tzinfo=UTC)
    assert parse_moment("2026-12-01T02:00:00+02:00") == datetime(2026, 12, 1, tzinfo=UTC)
    with pytest.raises(CommandError, match="is no time"):
        parse_moment("tomorrow")
