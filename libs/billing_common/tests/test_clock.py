"""The business clock moves forward only, and wakes those who sleep on it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from billing_common.clock import BusinessClock, ClockError


def test_without_an_offset_it_is_wall_time() -> None:
    assert abs(BusinessClock().now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_production_refuses_an_offset() -> None:
    with pytest.raises(ClockError, match="wall time"):
        BusinessClock().set_offset(timedelta(days=1))
    with pytest.raises(ClockError, match="wall time"):
        BusinessClock(timedelta(days=1))


def test_it_does_not_go_back() -> None:
    clock = BusinessClock(timedelta(days=2), offset_allowed=True)
    with pytest.raises(ClockError, match="forward"):
        clock.set_offset(timedelta(days=1))
    clock.set_offset(timedelta(days=2))
    assert clock.offset == timedelta(days=2)


async def test_a_jump_wakes_a_sleeper_at_once() -> None:
    clock = BusinessClock(offset_allowed=True)
    sleeper = asyncio.create_task(clock.sleep_until(clock.now() + timedelta(days=3)))
    await asyncio.sleep(0)
    clock.set_offset(timedelta(days=1))
    await asyncio.sleep(0.01)
    assert not sleeper.done()
    clock.set_offset(timedelta(days=3, seconds=1))
    await asyncio.wait_for(sleeper, 1)


async def test_without_a_jump_a_sleeper_wakes_in_time() -> None:
    clock = BusinessClock()
    await asyncio.wait_for(clock.sleep(0.02), 1)
