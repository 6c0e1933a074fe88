"""A service whose start fails or never ends leaves nothing behind: no consumer, no task, no connection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from faststream import AckPolicy
from faststream.kafka import KafkaRouter

from billing_common import connections
from billing_common.events import AccountClosed, AccountRegistered
from billing_common.service import Service
from billing_common.settings import ServiceSettings
from billing_common.telemetry import LOOP_FAILURES
from billing_common.testing import drop_database, make_schema
from billing_common.topics import provision

TRIES = (1, 3)


@pytest.fixture
async def settings(postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[ServiceSettings]:
    await provision({"bootstrap_servers": kafka_bootstrap}, partitions=2)
    dsn = await make_schema(postgres_dsn, "starting", tmp_path)
    yield ServiceSettings(database_url=dsn, kafka_bootstrap_servers=kafka_bootstrap, internal_token_keys="k" * 32)  # type: ignore[arg-type]
    await drop_database(postgres_dsn, dsn)


def make_service(settings: ServiceSettings, migrations: Path, *, refused: bool = False) -> Service:
    router = KafkaRouter()

    @router.subscriber(AccountRegistered.topic, group_id="starting.a", ack_policy=AckPolicy.NACK_ON_ERROR)
    async def on_account_registered(event: AccountRegistered) -> None: ...

    @router.subscriber(
        AccountClosed.topic, group_id="starting.b", ack_policy=AckPolicy.NACK_ON_ERROR, session_timeout_ms=1000 if refused else 6000
    )
    async def on_account_closed(event: AccountClosed) -> None: ...

    return Service("starting", settings, migrations=migrations, routers=[router])


async def test_consumers_do_not_pile_up_while_one_is_refused_again_and_again(
    settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(settings, tmp_path, refused=True)
    slow = service.broker.subscribers[0]
    start, starting = slow.start, set()

    async def starts_slowly() -> None:
        starting.add(this := asyncio.current_task())
        try:
            await asyncio.sleep(0.2)  # by now the other one is refused
            await start()
        finally:
            starting.remove(this)

    monkeypatch.setattr(slow, "start", starts_slowly)
    failures = LOOP_FAILURES.labels("kafka")._value
    before, running = failures.get(), []
    async with service.running(), asyncio.timeout(30):
        for tries in TRIES:
            while failures.get() < before + tries:
                await asyncio.sleep(0.01)
            running.append(len(asyncio.all_tasks()))
            assert not starting
            assert [one.consumer for one in service.broker.subscribers] == [None, None], "a failed start stops those that joined too"
    assert running[0] == running[1]


async def test_a_start_hook_that_fails_closes_what_was_opened_before_it(settings: ServiceSettings, tmp_path: Path) -> None:
    service, stopped = make_service(settings, tmp_path), []
    before = asyncio.all_tasks()

    async def opens() -> None:
        async def close() -> None:
            stopped.append("opened first")

        service.on_stop(close)

    async def fails() -> None:
        raise LookupError("no such thing")

    service.on_start(opens)
    service.on_start(fails)
    with pytest.raises(LookupError):
        async with service.running():
            pytest.fail("it must not run")
    assert stopped == ["opened first"]
    assert asyncio.all_tasks() <= before
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await service.pool.fetchval("select 1")


async def test_a_service_that_is_stopped_while_a_consumer_joins_for_ever_stops_that_as_well(
    settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.1)
    service = make_service(settings, tmp_path)
    joining, may_go_on = asyncio.Event(), asyncio.Event()
    waiting, other = service.broker.subscribers
    start, stop = waiting.start, other.stop

    async def waits_for_its_group() -> None:
        joining.set()
        await may_go_on.wait()
        await start()

    async def stops_slowly() -> None:
        may_go_on.set()  # the group lets it in while the service stops
        await asyncio.sleep(0.5)
        await stop()

    monkeypatch.setattr(waiting, "start", waits_for_its_group)
    monkeypatch.setattr(other, "stop", stops_slowly)
    before = asyncio.all_tasks()
    async with service.running(), asyncio.timeout(60):
        await joining.wait()
    assert asyncio.all_tasks() <= before
    assert waiting.consumer is None
