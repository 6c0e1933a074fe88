"""The whole service without Kafka's servers: events through a broker in memory, the internal doors, and the sandbox's API Management."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from azure.mgmt.apimanagement.aio import ApiManagementClient
from pydantic import SecretStr

from billing_common import testing
from billing_common.internal_auth import InternalAuth
from billing_common.service import Service
from billing_common.settings import ApimSettings
from subscription_enforcer import store
from subscription_enforcer.app import create_service
from subscription_enforcer.handlers import router
from subscription_enforcer.settings import Settings

KEYS = "k" * 32


@pytest.fixture
async def service(database: str, pool: asyncpg.Pool, apim_settings: ApimSettings, client: ApiManagementClient) -> AsyncIterator[Service]:
    settings = Settings(
        database_url=SecretStr(database),
        kafka_bootstrap_servers="127.0.0.1:1",  # nobody listens: events wait in the outbox, where the tests read them
        internal_token_keys=SecretStr(KEYS),
        **apim_settings.model_dump(),
    )
    service = create_service(settings)
    async with service.running():
        yield service


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    headers = InternalAuth([KEYS], caller="operator", scopes=["access:read", "access:write", "status:read"]).headers()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.internal), base_url="http://enforcer", headers=headers) as client:
        yield client


async def rested(pool: asyncpg.Pool) -> None:
    async with asyncio.timeout(60):
        while (await store.backlog(pool)).pending:
            await asyncio.sleep(0.002)


async def test_an_event_becomes_access_at_api_management_at_once(
    service: Service, pool: asyncpg.Pool, http: httpx.AsyncClient, samples: Any
) -> None:
    async with testing.memory_kafka(router, pool=pool, clock=service.clock) as publish:
        await asyncio.sleep(0.2)  # the comparison at the start has opened the connection
        await publish(samples.catalogue())
        took = []
        for revision, status in enumerate(["active", "unpaid", "active"], 1):
            started = time.monotonic()
            await publish(samples.state(status, revision))
            await rested(pool)
            took.append(time.monotonic() - started)
    assert min(took) < 0.5, took  # about 20 ms on an idle machine
    answer = (await http.get("/v1/access/s-1")).json()
    assert (answer["desired"], answer["applied"], answer["applied_revision"], answer["pending"]) == ("granted", "granted", 3, False)
    assert [change["reason"] for change in answer["changes"]] == ["subscribed", "payment_failed", "subscribed"]
    assert await testing.topics_in_outbox(pool) == ["access.granted", "access.suspended", "access.restored"]


async def test_the_doors_ask_for_a_token_and_say_what_is_not_there(service: Service, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/access/unknown")).status_code == 404
    assert (await http.get("/v1/access/unknown", headers={"authorization": ""})).status_code == 401
    reader = InternalAuth([KEYS], caller="x", scopes=["access:read"]).headers()
    assert (await http.post("/v1/suspensions/approve", headers=reader)).status_code == 403


async def test_held_suspensions_are_shown_and_approved(service: Service, pool: asyncpg.Pool, http: httpx.AsyncClient, samples: Any) -> None:
    async with testing.memory_kafka(router, pool=pool, clock=service.clock) as publish:
        await publish(samples.catalogue())
        for number in range(7):
            await publish(samples.state(subscription_id=f"s-{number}"))
        await rested(pool)
        for number in range(7):
            await publish(samples.state("unpaid", 2, subscription_id=f"s-{number}"))
        await rested(pool)
    held = [one["subscription_id"] for one in (await http.get("/v1/suspensions")).json()["held"]]
    assert len(held) == 2
    assert [note.split(" ")[0] for note in (await http.get("/status")).json()["notes"]] == ["2"]
    assert (await http.post("/v1/suspensions/approve", json={"subscription_id": held[0]})).status_code == 422  # a slip approves nothing
    assert (await http.post("/v1/suspensions/approve", json={"subscription_ids": held[:1]})).json() == {"approved": held[:1]}
    assert (await http.post("/v1/suspensions/approve")).json() == {"approved": held[1:]}
    await rested(pool)
    states = await pool.fetch("select applied, approved_by from access where subscription_id = any($1::text[])", held)
    assert {tuple(row) for row in states} == {("suspended", "operator")}
