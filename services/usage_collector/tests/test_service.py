"""The whole collector on real Kafka and Postgres: calls and events in, totals and closings out, poison parked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from billing_common.events import Event, UsageCollected, UsageSegmentClosed
from billing_common.internal_auth import issue_token
from billing_common.service import Service
from billing_common.testing import drop_database, make_schema
from billing_common.topics import provision
from usage_collector.app import MIGRATIONS, SERVICE, create_service
from usage_collector.settings import Settings

from .conftest import catalogue_applied, state, suspended

KEY = "k" * 32
BATCH_MAX = 20
NOW = datetime.now(UTC).replace(microsecond=0)
START, END = NOW - timedelta(hours=3), NOW + timedelta(days=20)


@dataclass
class Running:
    """The service and the hands that feed it."""

    service: Service
    producer: AIOKafkaProducer
    bootstrap: str

    async def send(self, event: Event) -> None:
        headers = [(name, value.encode()) for name, value in event.headers().items()]
        await self.producer.send_and_wait(event.topic, event.model_dump_json().encode(), key=event.key.encode(), headers=headers)

    async def call(self, name: str, at: datetime, sub: str = "sub-1", status: int = 200) -> None:
        record = {"v": 1, "id": name, "time": at.isoformat(), "sid": sub, "method": "GET", "template": "/orders", "status": status}
        await self.producer.send_and_wait("gateway.calls", json.dumps(record).encode())

    def door(self, *scopes: str) -> httpx.AsyncClient:
        token = issue_token((KEY,), caller="test", scopes=scopes)
        transport = httpx.ASGITransport(app=self.service.internal)
        return httpx.AsyncClient(transport=transport, base_url="http://inside", headers={"authorization": f"Bearer {token}"})

    async def new_sender(self, source: str) -> str:
        async with self.door("senders:write") as door:
            return str((await door.post("/v1/senders", json={"name": "Gateway", "source": source})).json()["key"])

    async def post(self, key: str, events: list[dict[str, Any]]) -> Any:
        """Send events of the time START as somebody outside would; all must be taken."""
        common = {"specversion": "1.0", "type": "turnpike.usage", "time": START.isoformat()}
        headers = {"authorization": f"Bearer {key}", "content-type": "application/cloudevents-batch+json"}
        transport = httpx.ASGITransport(app=self.service.front)
        async with httpx.AsyncClient(transport=transport, base_url="http://outside", headers=headers) as sender:
            answer = await sender.post("/v1/events", content=json.dumps([common | event for event in events]))
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def events(self, kind: type[Event]) -> list[Any]:
        """Read a topic from its beginning to its present end."""
        consumer = AIOKafkaConsumer(kind.topic, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        try:
            await consumer.start()
            found = []
            while records := await consumer.getmany(timeout_ms=500):
                found += [kind.model_validate_json(record.value) for batch in records.values() for record in batch]
            return found
        finally:
            await consumer.stop()


async def until(check: Callable[[], Awaitable[Any]], *, seconds: float = 60) -> Any:
    end = asyncio.get_running_loop().time() + seconds
    while not (found := await check()):
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.1)
    return found


def make_settings(dsn: str, bootstrap: str, **more: Any) -> Settings:
    return Settings(
        database_url=SecretStr(dsn),
        kafka_bootstrap_servers=bootstrap,
        internal_token_keys=SecretStr(KEY),
        straggler_grace_seconds=0.3,
        publish_interval_seconds=0.2,
        late_interval_seconds=0.2,
        clock_offset_allowed=True,
        **more,
    )


@asynccontextmanager
async def started(postgres_dsn: str, kafka_bootstrap: str, **more: Any) -> AsyncIterator[Running]:
    await provision({"bootstrap_servers": kafka_bootstrap})
    dsn = await make_schema(postgres_dsn, SERVICE, MIGRATIONS)
    service = create_service(make_settings(dsn, kafka_bootstrap, **more))
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)

    async def ready() -> bool:
        return not await service.readiness()

    try:
        await producer.start()
        async with service.running():
            await until(ready)
            yield Running(service, producer, kafka_bootstrap)
    finally:
        await producer.stop()
        await drop_database(postgres_dsn, dsn)


async def test_cloud_events_of_another_topic_are_collected_and_what_is_none_is_parked(postgres_dsn: str, kafka_bootstrap: str) -> None:
    attributes = {"specversion": "1.0", "id": "e1", "source": "/kafka/gw", "type": "turnpike.usage", "subject": "sub-1"}
    attributes["time"] = START.isoformat()
    binary = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    single = [("content-type", b"application/cloudevents+json")]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic := f"calls-{uuid4().hex}", num_partitions=1, replication_factor=1)])
    await admin.close()
    async with started(postgres_dsn, kafka_bootstrap, calls_topic=topic, calls_format="cloudevents") as one:
        await one.producer.send_and_wait(topic, b'{"quantity": 2}', headers=binary)
        await one.producer.send_and_wait(topic, b'{"v": 1, "id": "of another form"}')
        await one.producer.send_and_wait(topic, json.dumps({**attributes, "id": "e2", "data": {"status": 200}}).encode(), headers=single)

        async def collected() -> bool:
            rows = await one.service.pool.fetch("select external_id, quantity, origin from usage_event order by 1")
            return [tuple(row) for row in rows] == [("e1", 2, "stream"), ("e2", 1, "stream")]

        async def parked() -> list[str]:
            async with one.door("dead_letters:read") as door:
                letters = (await door.get("/dead-letters")).json()["dead_letters"]
            return [letter["message"] for letter in letters if letter["topic"] == topic]

        await until(collected)
        (message,) = await until(parked)
        assert "no CloudEvent: send the header content-type" in message


@pytest.fixture(scope="module")
async def running(postgres_dsn: str, kafka_bootstrap: str) -> AsyncIterator[Running]:
    async with started(postgres_dsn, kafka_bootstrap, batch_max=BATCH_MAX) as one:
        yield one


async def test_calls_and_events_become_totals_and_a_closed_segment(running: Running) -> None:
    await running.send(catalogue_applied())
    for sub, product in (("sub-1", "payg"), ("sub-2", "enterprise")):
        dates = {"started_at": START, "current_period_start": START, "current_period_end": END, "occurred_at": START}
        await running.send(state(sub=sub, product_id=product, **dates))
    for n in range(40):
        await running.call(f"call-{n % 30}", START + timedelta(minutes=n % 30), status=500 if n % 30 == 7 else 200)
    await running.producer.send_and_wait("gateway.calls", b'{"v": 1, "id": "cut off')

    key = await running.new_sender("/gateways/one")
    event = {"id": "e1", "source": "/gateways/one", "subject": "sub-2", "data": {"meter": "calls", "quantity": 2_000_000}}
    for _ in range(2):
        assert await running.post(key, [event]) == {"accepted": 1, "rejected": 0, "results": [{"id": "e1", "status": "accepted"}]}

    async def counted() -> bool:
        totals = await running.service.pool.fetch(
            "select s.subscription_id, sum(quantity)::bigint as n from usage_window w join segment s on s.id = w.segment_id group by 1"
        )
        return {row["subscription_id"]: row["n"] for row in totals} == {"sub-1": 29, "sub-2": 2_000_000}

    await until(counted)
    await until(lambda: _dead_letters(running))

    cut = START + timedelta(hours=2)
    await running.send(suspended(cut))

    async def closed() -> list[Any]:
        return await running.events(UsageSegmentClosed)

    (closing,) = await until(closed)
    assert (closing.subscription_id, closing.segment_start, closing.segment_end, closing.reason, closing.totals) == (
        "sub-1",
        START,
        cut,
        "cancellation",
        {"calls": 29},
    )
    latest = {}
    for told in sorted(await running.events(UsageCollected), key=lambda event: event.revision):
        latest[told.subscription_id, told.hour] = told
    assert sum(told.quantity for told in latest.values() if told.subscription_id == "sub-1") == 29
    assert all(told.timestamp >= START for told in latest.values())

    await running.call("too late", START + timedelta(hours=1))

    async def late() -> bool:
        return bool(
            await running.service.pool.fetchval("select count(*) from usage_event where reason = 'late_billed' and outcome = 'counted'")
        )

    await until(late)

    async def settled() -> dict[str, Any] | None:
        async with running.door("status:read") as door:
            status: dict[str, Any] = (await door.get("/status")).json()
        return status if status["settled"] else None

    status = await until(settled)
    assert status["next_due"] is None

    hour = START.replace(minute=0, second=0)
    span = {"from": hour.isoformat(), "to": (hour + timedelta(hours=4)).isoformat()}
    async with running.door("usage:read") as door:
        reconciled = (await door.get("/v1/reconciliation", params={"subscription_id": "sub-1", **span})).json()
        usage = (await door.get("/v1/usage/sub-1", params={**span, "by": "day"})).json()
    assert reconciled["events"] == {"received": 31, "counted": 30, "filtered": 1, "rejected": 0, "held": 0, "duplicates": 10}
    assert reconciled["meters"] == {"calls": {"counted": 30, "windows": 29, "late_billed": 1, "late_waived": 0}}
    assert reconciled["balanced"] is True
    assert usage["totals"] == {"calls": 29}
    assert usage["freshness"]["staleness_seconds"] < 60


async def _dead_letters(running: Running) -> list[Any]:
    async with running.door("dead_letters:read") as door:
        letters: list[Any] = (await door.get("/dead-letters")).json()["dead_letters"]
    assert all(letter["error"] == "InvalidEventError" for letter in letters)
    return [letter for letter in letters if letter["topic"] == "gateway.calls"]


async def test_a_period_that_ends_is_closed_with_zeros_when_nothing_was_used(running: Running) -> None:
    dates = {"started_at": START, "current_period_start": START, "current_period_end": NOW - timedelta(minutes=5), "occurred_at": START}
    await running.send(state(sub="sub-3", product_id="hybrid", **dates))

    async def closed() -> list[Any]:
        return [event for event in await running.events(UsageSegmentClosed) if event.subscription_id == "sub-3"]

    (closing,) = await until(closed)
    assert (closing.reason, closing.totals) == ("period_end", {"calls": 0, "traffic": 0})


async def test_one_transaction_takes_as_many_events_as_the_setting_says(running: Running) -> None:
    key = await running.new_sender("/gateways/two")
    data = {"meter": "calls", "quantity": 1}
    many = 2 * BATCH_MAX + 1
    await running.post(key, [{"id": str(n), "source": "/gateways/two", "subject": "sub-9", "data": data} for n in range(many)])

    async def transactions() -> list[int]:
        rows = await running.service.pool.fetch(
            "select count(*) as events from usage_event where source = '/gateways/two' group by xmin::text order by 1"
        )
        found = [row["events"] for row in rows]
        return found if sum(found) == many else []

    assert await until(transactions) == [1, BATCH_MAX, BATCH_MAX]
