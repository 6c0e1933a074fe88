"""All groups are joined or none: what one consumer's error leaves of the others, and how soon it is told."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import InvalidSessionTimeoutError, KafkaConnectionError

from billing_common import joining
from billing_common.joining import join_groups


class Subscriber:
    """Connects, then joins; like aiokafka's it goes on by itself until it is cancelled or stopped."""

    def __init__(self, *, connects: float = 0, joins: float = 0, error: Exception | None = None) -> None:
        self.connects, self.joins, self.error = connects, joins, error
        self.connected = self.consuming = self.cut_off = False
        self.stopped = 0

    async def start(self) -> None:
        try:
            await asyncio.sleep(self.connects)
        except asyncio.CancelledError:
            self.cut_off = True
            raise
        self.connected = True
        await asyncio.sleep(self.joins)
        if self.error is not None:
            raise self.error
        self.consuming = True

    async def stop(self) -> None:
        self.stopped += 1
        self.consuming = self.connected = False


class Broker:
    running = False

    def __init__(self, *subscribers: Subscriber, refuses: Exception | None = None) -> None:
        self.subscribers, self.refuses, self.connected = subscribers, refuses, False

    async def connect(self) -> None:
        self.connected = True
        if self.refuses is not None:
            raise self.refuses

    async def stop(self) -> None:
        for subscriber in self.subscribers:
            await subscriber.stop()
        self.connected = False


async def join(broker: Any) -> None:
    await join_groups(broker)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "GRACE_SECONDS", 0.1)


async def test_all_join_at_once() -> None:
    broker = Broker(*(Subscriber(joins=0.05) for _ in range(20)))
    async with asyncio.timeout(0.5):
        await join(broker)
    assert broker.running
    assert all(one.consuming and not one.stopped for one in broker.subscribers)


async def test_the_error_of_one_is_told_though_another_waits_for_ever_and_nothing_goes_on_behind_it() -> None:
    before = asyncio.all_tasks()
    hanging, joined, slow = Subscriber(joins=3600), Subscriber(), Subscriber(joins=0.05)
    broker = Broker(hanging, joined, Subscriber(joins=0.01, error=InvalidSessionTimeoutError()), slow)
    async with asyncio.timeout(1):
        with pytest.raises(InvalidSessionTimeoutError):
            await join(broker)
    assert asyncio.all_tasks() <= before
    await asyncio.sleep(0.1)  # what still joined would be there now
    assert not broker.running
    assert not broker.connected
    assert [(one.consuming, one.connected, one.stopped) for one in broker.subscribers] == [(False, False, 1)] * 4


async def test_one_that_connects_is_not_cut_off_by_the_error_of_another() -> None:
    connecting = Subscriber(connects=0.05, joins=3600)
    with pytest.raises(KafkaConnectionError):
        await join(Broker(Subscriber(error=KafkaConnectionError()), connecting))
    assert not connecting.cut_off
    assert connecting.stopped == 1


async def test_of_two_errors_the_first_is_told() -> None:
    broker = Broker(Subscriber(joins=0.02, error=KafkaConnectionError()), Subscriber(error=InvalidSessionTimeoutError()))
    with pytest.raises(InvalidSessionTimeoutError):
        await join(broker)


async def test_a_broker_that_cannot_be_reached_is_stopped_as_well() -> None:
    broker = Broker(Subscriber(), refuses=KafkaConnectionError())
    with pytest.raises(KafkaConnectionError):
        await join(broker)
    assert not broker.connected


async def test_who_is_stopped_while_it_joins_leaves_nothing_joining() -> None:
    before = asyncio.all_tasks()
    broker = Broker(Subscriber(joins=3600), Subscriber())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(join(broker), 0.05)
    assert asyncio.all_tasks() <= before
    assert [(one.consuming, one.stopped) for one in broker.subscribers] == [(False, 1)] * 2


async def test_a_stop_that_fails_does_not_hide_why_the_start_did() -> None:
    class Stubborn(Broker):
        async def stop(self) -> None:
            raise RuntimeError("cannot stop")

    with pytest.raises(InvalidSessionTimeoutError):
        await join(Stubborn(Subscriber(error=InvalidSessionTimeoutError())))


async def test_a_broker_without_subscribers_joins_nothing() -> None:
    broker = Broker()
    await join(broker)
    assert broker.running
