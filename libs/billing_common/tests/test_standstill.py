"""A consumer whose reading has ended without a word is started anew, and one that only takes its time is left alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from faststream import Context
from faststream.kafka import KafkaRouter

from billing_common import standstill
from billing_common.events import AccountRegistered
from billing_common.messaging import consume
from billing_common.service import Service
from billing_common.settings import ServiceSettings
from billing_common.standstill import Standstill
from billing_common.testing import drop_database, make_schema
from billing_common.topics import provision

KEY = "k" * 32


def _router(group: str) -> KafkaRouter:
    router = KafkaRouter()

    @consume(router, AccountRegistered, service=group)
    async def on_account_registered(
        event: AccountRegistered,
        seen: Annotated[list[str], Context("seen")],
        began: Annotated[asyncio.Event, Context("began")],
        go_on: Annotated[asyncio.Event, Context("go_on")],
        slow: Annotated[str, Context("slow")],
    ) -> None:
        if event.user_id == slow:
            began.set()
            await go_on.wait()
        seen.append(event.account_id)

    return router


@asynccontextmanager
async def _running(postgres_dsn: str, kafka_bootstrap: str, folder: Path) -> AsyncIterator[Service]:
    dsn = await make_schema(postgres_dsn, "checkout", folder)
    await provision({"bootstrap_servers": kafka_bootstrap}, partitions=2)
    settings = ServiceSettings(database_url=dsn, kafka_bootstrap_servers=kafka_bootstrap, internal_token_keys=KEY)
    service = Service("checkout", settings, migrations=folder, routers=[_router(f"standstill-{uuid4().hex[:8]}")])
    service.share("seen", [])
    service.share("began", asyncio.Event())
    service.share("go_on", asyncio.Event())
    service.share("slow", f"slow-{uuid4().hex}")  # each service reads what the tests before it sent, too
    try:
        async with service.running():
            async with asyncio.timeout(60):
                while await service.connections.unread():
                    await asyncio.sleep(0.05)
            yield service
    finally:
        await drop_database(postgres_dsn, dsn)


@pytest.fixture
async def service(postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr("billing_common.connections.LOOK_SECONDS", 0.1)
    monkeypatch.setattr(standstill, "STILL_SECONDS", 0.5)
    monkeypatch.setattr(standstill, "STOP_SECONDS", 0.5)
    async with _running(postgres_dsn, kafka_bootstrap, tmp_path) as running:
        yield running


def _subscriber(service: Service) -> Any:
    (subscriber,) = service.broker.subscribers
    return subscriber


async def _send(service: Service, user: str = "anybody") -> str:
    event = AccountRegistered(cause_id=str(uuid4()), occurred_at=service.clock.now(), account_id=f"account-{uuid4().hex}", user_id=user)
    headers = [(name, value.encode()) for name, value in event.headers().items()]
    await service.producer.send_and_wait(event.topic, event.model_dump_json().encode(), key=event.key.encode(), headers=headers)
    return event.account_id


async def _handled(service: Service, account_id: str) -> None:
    async with asyncio.timeout(60):
        while account_id not in service.context["seen"]:
            await asyncio.sleep(0.02)


async def _started_anew(service: Service, before: AIOKafkaConsumer) -> None:
    async with asyncio.timeout(60):
        while _subscriber(service).consumer in (before, None) or not _subscriber(service).running:
            await asyncio.sleep(0.02)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _fetching(subscriber: Any) -> Any:
    return subscriber.consumer._fetcher._fetch_task


def _coordinating(subscriber: Any) -> Any:
    return subscriber.consumer._coordinator._coordination_task


def _reading(subscriber: Any) -> Any:
    return subscriber.tasks[0]


@pytest.mark.parametrize("ended", [_fetching, _coordinating, _reading])
async def test_a_consumer_whose_reading_ended_without_a_word_reads_on(service: Service, ended: Callable[[Any], Any]) -> None:
    before = _subscriber(service).consumer
    await _end(ended(_subscriber(service)))
    await _send(service)
    await _started_anew(service, before)
    await _handled(service, await _send(service))


async def test_one_that_cannot_even_be_stopped_is_left_behind(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(consumer: AIOKafkaConsumer) -> None:
        consumer._closed = True
        await asyncio.sleep(3600)

    before = _subscriber(service).consumer
    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaConsumer, "stop", hang)
        await _end(_reading(_subscriber(service)))
        await _handled(service, await _send(service))
        await _started_anew(service, before)


async def test_one_that_waits_for_ever_for_its_commit_reads_on(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _subscriber(service).consumer
    commit, waiting = AIOKafkaConsumer.commit, asyncio.Event()

    async def hang(consumer: AIOKafkaConsumer) -> None:
        if consumer is before:
            waiting.set()
            await asyncio.sleep(3600)
        await commit(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", hang)
    first = await _send(service)
    async with asyncio.timeout(60):
        await waiting.wait()
    await _handled(service, first)
    for _ in range(4):  # into both partitions
        last = await _send(service)
    await _started_anew(service, before)
    await _handled(service, last)


async def test_one_that_cannot_be_started_at_once_is_tried_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, failures = (
        _subscriber(service).consumer,
        AIOKafkaConsumer.start,
        [KafkaConnectionError("away"), KafkaConnectionError("away")],
    )

    async def fail(consumer: AIOKafkaConsumer) -> None:
        if failures:
            raise failures.pop()
        await start(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "start", fail)
    await _end(_fetching(_subscriber(service)))
    await _started_anew(service, before)
    await _handled(service, await _send(service))
    assert not failures


@pytest.fixture
async def unwatched(postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose consumers are only looked at by the test: no look falls into a moment in which a busy machine is slow."""
    monkeypatch.setattr("billing_common.connections.LOOK_SECONDS", 3600)
    monkeypatch.setattr(standstill, "STILL_SECONDS", 1e-6)
    async with _running(postgres_dsn, kafka_bootstrap, tmp_path) as running:
        yield running


async def test_a_handler_that_takes_its_time_is_left_alone(unwatched: Service) -> None:
    watch, before = Standstill(unwatched.broker, unwatched.connections.watcher), _subscriber(unwatched).consumer
    accounts = [await _send(unwatched, unwatched.context["slow"]) for _ in range(3)]
    async with asyncio.timeout(60):
        await unwatched.context["began"].wait()
    for _ in range(3):
        await watch.heal()
    assert _subscriber(unwatched).consumer is before
    unwatched.context["go_on"].set()
    for account_id in accounts:
        await _handled(unwatched, account_id)
    assert [unwatched.context["seen"].count(account_id) for account_id in accounts] == [1, 1, 1]


async def test_one_that_has_read_everything_is_left_alone(unwatched: Service) -> None:
    watch, before = Standstill(unwatched.broker, unwatched.connections.watcher), _subscriber(unwatched).consumer
    await _handled(unwatched, await _send(unwatched))
    for _ in range(3):
        await watch.heal()
    assert _subscriber(unwatched).consumer is before
