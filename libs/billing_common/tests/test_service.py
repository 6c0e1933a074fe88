"""A whole service process on real Kafka and Postgres: handled once, held in an outage of its own, parked when poisonous."""

import asyncio
import gc
import sys
import warnings
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, InvalidSessionTimeoutError
from faststream import AckPolicy, Context
from faststream.kafka import KafkaRouter
from pydantic_settings import SettingsConfigDict

from billing_common import lag, messaging
from billing_common.db import MigrationError, Pool, migrate
from billing_common.events import AccountClosed, AccountRegistered, InvalidEventError
from billing_common.inbox import claim
from billing_common.internal_auth import issue_token
from billing_common.joining import refusal
from billing_common.messaging import consume
from billing_common.outbox import announce
from billing_common.refusals import BODY_BYTES_MAX
from billing_common.service import Service
from billing_common.settings import ServiceSettings
from billing_common.telemetry import LAG
from billing_common.testing import drop_database, make_schema
from billing_common.topics import provision

KEY = "k" * 32
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def make_router(service: str) -> KafkaRouter:
    router = KafkaRouter()

    @consume(router, AccountRegistered, service=service)
    async def on_account_registered(
        event: AccountRegistered, pool: Pool, behaviour: Annotated[dict[str, Any], Context("behaviour")]
    ) -> None:
        if event.user_id == "poison":
            raise InvalidEventError("no such user can exist")
        if behaviour["failures"] > 0:
            behaviour["failures"] -= 1
            raise RuntimeError("not now")
        async with pool.acquire() as connection, connection.transaction():
            if not await claim(connection, event, consumer=service):
                return
            await connection.execute("insert into seen values ($1)", event.account_id)
            await announce(
                connection, AccountClosed(cause_id=str(event.event_id), occurred_at=event.occurred_at, account_id=event.account_id)
            )

    return router


@asynccontextmanager
async def running_service(postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Service]:
    (tmp_path / "0001_seen.sql").write_text("create table seen (account_id text not null);")
    name = "delegation_gateway"
    dsn = await make_schema(postgres_dsn, name, tmp_path)
    await provision({"bootstrap_servers": kafka_bootstrap}, partitions=2)
    settings = ServiceSettings(
        database_url=dsn, kafka_bootstrap_servers=kafka_bootstrap, internal_token_keys=KEY, clock_offset_allowed=True
    )  # type: ignore[arg-type]  # plain strings become secrets
    service = Service(name, settings, migrations=tmp_path, routers=[make_router(name)])
    service.share("behaviour", {"failures": 0})
    try:
        async with service.running():
            yield service
    finally:
        await drop_database(postgres_dsn, dsn)


@pytest.fixture
async def service(postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(postgres_dsn, kafka_bootstrap, tmp_path) as running:
        yield running


async def settled(service: Service) -> None:
    async with asyncio.timeout(30):
        last = -1
        while not (status := await service.status())["settled"] or status["activity"] != last:
            last = status["activity"]
            await asyncio.sleep(0.1)


async def send(service: Service, event: AccountRegistered, *, body: bytes | None = None) -> None:
    await settled(service)
    producer: AIOKafkaProducer = service.producer
    await producer.send_and_wait(
        event.topic,
        body or event.model_dump_json().encode(),
        key=event.key.encode(),
        headers=[(k, v.encode()) for k, v in event.headers().items()],
    )


def registered(user: str = "user-1") -> AccountRegistered:
    return AccountRegistered(cause_id=str(uuid4()), occurred_at=NOON, account_id=f"account-{uuid4().hex[:8]}", user_id=user)


async def ask(service: Service, method: str, path: str, *scopes: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {issue_token([KEY], caller='test', scopes=scopes)}"} if scopes else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.internal), base_url="http://service") as client:
        return await client.request(method, path, headers=headers, **options)


async def test_an_event_delivered_twice_is_handled_once_and_its_outgoing_event_reaches_kafka(service: Service) -> None:
    event = registered()
    await send(service, event)
    await send(service, event)
    await settled(service)
    assert await service.pool.fetchval("select count(*) from seen where account_id = $1", event.account_id) == 1
    assert await service.pool.fetchval("select count(*) from outbox") == 0


async def test_a_failing_handler_holds_its_event_until_it_works_and_parks_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "HELD_SHOWN_AFTER", timedelta(0))
    service.context["behaviour"]["failures"] = 3
    event = registered()
    await send(service, event)
    async with asyncio.timeout(30):
        while not (held := (await ask(service, "GET", "/health/ready")).json()["held"]):
            await asyncio.sleep(0.02)
    assert [(one["topic"], one["error"]) for one in held] == [(event.topic, "RuntimeError")]
    assert [one["topic"] for one in (await ask(service, "GET", "/status", "status:read")).json()["held"]] == [event.topic]
    await settled(service)
    assert (await ask(service, "GET", "/health/ready")).json()["held"] == []
    assert await service.pool.fetchval("select count(*) from seen where account_id = $1", event.account_id) == 1
    letters = (await ask(service, "GET", "/dead-letters", "dead_letters:read")).json()["dead_letters"]
    assert event.account_id not in {letter["key"] for letter in letters}


@pytest.mark.parametrize(
    "body", [None, b"{broken", b'{"account_id": 7}', b"\xff\xfe"], ids=["refused by the handler", "bad JSON", "wrong shape", "not UTF-8"]
)
async def test_poison_goes_to_the_dead_letter_topic_with_its_cause_and_the_partition_goes_on(service: Service, body: bytes | None) -> None:
    poison, good = registered("poison"), registered()
    good = good.model_copy(update={"account_id": poison.account_id})
    await send(service, poison, body=body)
    await send(service, good)
    await settled(service)
    assert await service.pool.fetchval("select count(*) from seen where account_id = $1", good.account_id) == 1
    letters = (await ask(service, "GET", "/dead-letters", "dead_letters:read")).json()["dead_letters"]
    letter = next(one for one in letters if one["key"] == poison.account_id)
    assert letter["topic"] == "account.registered"
    assert letter["error"]
    shown = (await ask(service, "GET", f"/dead-letters/{letter['id']}", "dead_letters:read")).json()
    assert shown["value"] == (body.decode("utf-8", "replace") if body else poison.model_dump_json())


async def test_a_dead_letter_can_be_sent_again_once_the_cause_is_mended(service: Service) -> None:
    event = registered("poison")
    await send(service, event)
    await settled(service)
    before = (await ask(service, "GET", "/dead-letters", "dead_letters:read")).json()["dead_letters"]
    letter = next(one for one in before if one["key"] == event.account_id)
    answer = await ask(service, "POST", f"/dead-letters/{letter['id']}/requeue", "dead_letters:write")
    assert answer.json() == {"requeued": letter["id"], "topic": "account.registered"}
    await settled(service)
    after = (await ask(service, "GET", "/dead-letters", "dead_letters:read")).json()["dead_letters"]
    mine = [one for one in after if one["key"] == event.account_id]
    assert [one["requeued"] for one in mine] == [False, True]  # it failed again, for the cause is still there
    assert (await ask(service, "POST", "/dead-letters/0-999999/requeue", "dead_letters:write")).status_code == 404


async def test_the_clock_moves_through_its_door_and_only_with_the_scope(service: Service) -> None:
    assert (await ask(service, "PUT", "/clock", json={"offset_seconds": 60})).status_code == 401
    assert (await ask(service, "PUT", "/clock", "status:read", json={"offset_seconds": 60})).status_code == 403
    assert (await ask(service, "PUT", "/clock", "clock:write", json={"offset_seconds": 60})).json()["offset_seconds"] == 60
    assert (await ask(service, "PUT", "/clock", "clock:write", json={"offset_seconds": 10})).status_code == 409
    assert (await ask(service, "PUT", "/clock", "clock:write", json={"offset_seconds": -1})).status_code == 422


@pytest.mark.parametrize("number", ["NaN", "1e400", "1e15", "1e11"])
async def test_a_number_that_would_break_the_clock_is_refused_and_not_repeated(service: Service, number: str) -> None:
    answer = await ask(service, "PUT", "/clock", "clock:write", content=f'{{"offset_seconds": {number}}}')
    assert answer.status_code == 422
    assert "input" not in answer.json()["detail"][0]
    assert (await service.status())["now"].startswith(str(datetime.now(UTC).year))


async def test_what_names_nothing_is_refused_and_no_failure_of_ours(service: Service) -> None:
    @service.internal.get("/accounts/{account_id}")
    async def account(account_id: str) -> bool:
        return await service.pool.fetchval("select 1 from seen where account_id = $1", account_id) is not None

    refused = await ask(service, "GET", "/accounts/a%00b")
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (400, "`account_id` holds a zero byte")
    for place in ("0-²", f"0-{10**18}", "0-" + "9" * 5000):
        assert (await ask(service, "GET", f"/dead-letters/{place}", "dead_letters:read")).status_code == 404


async def test_a_body_beyond_any_use_is_refused_before_it_is_all_in_memory(service: Service) -> None:
    assert (await ask(service, "PUT", "/clock", content=b"[" + b"0," * BODY_BYTES_MAX)).status_code == 413


async def test_it_is_ready_when_kafka_and_postgres_answer(service: Service) -> None:
    await settled(service)
    assert (await ask(service, "GET", "/health/ready")).json() == {"ready": True, "reasons": [], "held": []}
    metrics = (await ask(service, "GET", "/metrics")).text
    assert "turnpike_outbox_rows 0.0" in metrics


class QuickSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="QUICK_", frozen=True)

    session_timeout_ms: int = 1000  # our test broker allows 2000


async def test_a_broker_that_refuses_the_session_time_out_is_told_with_both_settings(
    postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await provision({"bootstrap_servers": kafka_bootstrap}, partitions=2)
    dsn = await make_schema(postgres_dsn, "quick", tmp_path)
    router = KafkaRouter()

    @router.subscriber(AccountRegistered.topic, group_id="quick", ack_policy=AckPolicy.NACK_ON_ERROR, session_timeout_ms=1000)
    async def on_account_registered(event: AccountRegistered) -> None: ...

    settings = QuickSettings(database_url=dsn, kafka_bootstrap_servers=kafka_bootstrap, internal_token_keys=KEY)  # type: ignore[arg-type]
    service = Service("quick", settings, migrations=tmp_path, routers=[router])
    wanted = (
        "Kafka refuses consumers with a session time-out of 1000 ms: set the broker's group.min.session.timeout.ms to 1000 or less, "
        "or QUICK_SESSION_TIMEOUT_MS to what the broker allows (from 6000 unless it was changed)"
    )
    with structlog.testing.capture_logs() as logs:
        async with service.running(), asyncio.timeout(60):
            while wanted not in await service.readiness():
                await asyncio.sleep(0.1)
    await drop_database(postgres_dsn, dsn)
    assert wanted in {entry.get("detail") for entry in logs if entry.get("task") == "kafka"}


def test_what_a_broker_refuses_names_the_settings_of_the_broker_it_is() -> None:
    class ElsewhereSettings(QuickSettings):
        calls_kafka_session_timeout_ms: int = 4000

    settings = ElsewhereSettings(database_url="x", kafka_bootstrap_servers="x", internal_token_keys=KEY)  # type: ignore[arg-type]
    plain = ServiceSettings(database_url="x", kafka_bootstrap_servers="x", internal_token_keys=KEY)  # type: ignore[arg-type]
    assert "4000 ms" in refusal(InvalidSessionTimeoutError(), "calls", settings)
    assert "QUICK_CALLS_KAFKA_SESSION_TIMEOUT_MS" in refusal(InvalidSessionTimeoutError(), "calls", settings)
    assert refusal(InvalidSessionTimeoutError(), "kafka", plain).endswith(
        "of 6000 ms: set the broker's group.min.session.timeout.ms to 6000 or less"
    )
    assert not refusal(GroupAuthorizationFailedError(), "kafka", settings)


@pytest.mark.parametrize("after_seconds", [0.0, 0.005, 0.02, 0.1])
async def test_a_service_that_is_stopped_while_it_connects_leaves_nothing_open(
    postgres_dsn: str, kafka_bootstrap: str, tmp_path: Path, after_seconds: float
) -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        async with running_service(postgres_dsn, kafka_bootstrap, tmp_path):
            await asyncio.sleep(after_seconds)
        gc.collect()
    assert [str(one.message) for one in seen if issubclass(one.category, ResourceWarning)] == []


async def test_an_edited_migration_is_refused(postgres_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "0001_a.sql"
    file.write_text("create table a (x int);")
    dsn = await make_schema(postgres_dsn, "checkout", tmp_path)
    assert await migrate(dsn, "checkout", tmp_path) == []
    file.write_text("create table a (x bigint);")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was edited"):
        await migrate(dsn, "checkout", tmp_path)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("select count(*) from checkout.schema_migrations") == 2
    await connection.close()
    await drop_database(postgres_dsn, dsn)


async def test_the_lag_of_each_partition_is_told_and_forgotten_with_the_partition(service: Service) -> None:
    await send(service, registered())
    await settled(service)
    behind = await lag.measure(lag.consumers(service.broker), service.connections.watcher)
    assert {place.topic for place in behind} == {AccountRegistered.topic}
    assert set(behind.values()) == {0}
    place = min(behind)
    lag.publish({place: 7})
    assert LAG.labels(place.topic, str(place.partition))._value.get() == 7
    lag.publish({})
    told = [sample.labels for family in LAG.collect() for sample in family.samples]
    assert {"topic": place.topic, "partition": str(place.partition)} not in told


async def test_events_that_nobody_takes_up_are_counted(service: Service) -> None:
    await settled(service)
    subscriber = lag.consumers(service.broker)[0]
    subscriber.pause(*subscriber.assignment())
    await asyncio.sleep(0.5)  # a poll that is under way may still bring something
    before = sum((await lag.measure([subscriber], service.connections.watcher)).values())
    events = [registered() for _ in range(5)]
    for event in events:
        await service.producer.send_and_wait(event.topic, event.model_dump_json().encode(), key=event.key.encode())
    assert sum((await lag.measure([subscriber], service.connections.watcher)).values()) == before + 5
    subscriber.resume(*subscriber.paused())
    await settled(service)


STARTING = """
import asyncio, sys
from pathlib import Path
from billing_common.service import Service
from billing_common.settings import ServiceSettings
settings = ServiceSettings(database_url=sys.argv[1], kafka_bootstrap_servers="127.0.0.1:1", internal_token_keys="k" * 32, internal_port=0)
asyncio.run(Service("checkout", settings, migrations=Path("."), public=False).serve())
"""


async def test_a_service_that_still_waits_for_its_database_stops_when_asked() -> None:
    unreachable = "postgresql://nobody:wrong@127.0.0.1:1/nothing"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTING, unreachable, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"CHECKOUT_DATABASE_URL" not in (line := await process.stdout.readline()):
            assert line, "it ended before it was asked to"
        process.terminate()
        assert await process.wait() == 0
