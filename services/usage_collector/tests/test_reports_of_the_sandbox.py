"""The third source end to end: calls at the sandbox's gateway, the real SDK asks its reports, windows hold what the gateway counted."""

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.apimanagement.aio import ApiManagementClient
from pydantic import SecretStr

from billing_common.apim_client import create_client
from billing_common.clock import BusinessClock
from sandbox_apim.app import Sandbox, running
from sandbox_apim.doors import Fault, FaultMatch
from sandbox_apim.settings import Settings as SandboxSettings
from usage_collector.apim_gateway import CallCount, calls_by_day, successful_calls
from usage_collector.report_polling import ReportPolling
from usage_collector.settings import Settings

from .conftest import CATALOGUE, FEBRUARY, START, Publish, catalogue_applied, make_collector, state, windows

LAG = timedelta(minutes=30)
PLACE = ("turnpike", "turnpike")
SUBSCRIPTION = {"scope": "/products/payg", "displayName": "Mine", "state": "active"}


@dataclass
class Azure:
    """The sandbox, a key of it, and its reports through the real SDK."""

    sandbox: Sandbox
    clock: BusinessClock
    client: ApiManagementClient
    settings: Settings
    gateway: httpx.AsyncClient

    def at(self, when: datetime) -> None:
        self.clock.set_offset(when - datetime.now(UTC))

    async def call(self, *paths: str) -> None:
        for path in paths:
            await self.gateway.get(path)

    async def ask(self, since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        return await successful_calls(self.client, self.settings, since, until, sid)

    def polling(self, pool: asyncpg.Pool) -> ReportPolling:
        """A collector that has just started: it knows what Postgres knows."""
        times = {"interval": timedelta(minutes=5), "overlap": timedelta(hours=3), "lag": timedelta(minutes=45)}
        return ReportPolling(pool, make_collector(pool), self.ask, clock=self.clock, **times)

    async def poll(self, pool: asyncpg.Pool) -> int:
        return await self.polling(pool).read_round(now=self.clock.now())


@pytest.fixture(scope="module")
async def azure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azure]:
    clock = BusinessClock(offset_allowed=True)
    folder = tmp_path_factory.mktemp("apim")
    lagging = {"data_dir": folder, "arm_port": 0, "portal_port": 0, "gateway_port": 0, "report_lag_seconds": LAG.total_seconds()}
    async with running(SandboxSettings.model_validate(lagging), clock) as sandbox:
        settings = Settings(
            database_url=SecretStr("postgresql://nowhere"),
            kafka_bootstrap_servers="nowhere:9092",
            internal_token_keys=SecretStr("k" * 32),
            apim_base_url=sandbox.management_url,
            apim_subscription_id="00000000-0000-0000-0000-000000000000",
            apim_resource_group=PLACE[0],
            apim_service_name=PLACE[1],
            apim_ca_file=Path(sandbox.certificate.ca_file),
            apim_static_token=SecretStr("sandbox-arm-token"),
        )
        client = create_client(settings)
        product: Any = {"properties": {"displayName": "Pay", "state": "published"}}
        await client.product.create_or_update(*PLACE, "payg", product)
        await client.product_api.create_or_update(*PLACE, "payg", "orders")
        keys = []
        for sid in ("sub-1", "not-ours"):
            subscription: Any = {"properties": SUBSCRIPTION}
            await client.subscription.create_or_update(*PLACE, sid, subscription)
            keys.append((await client.subscription.list_secrets(*PLACE, sid)).primary_key)
        async with httpx.AsyncClient(base_url=sandbox.gateway_url) as gateway:
            gateway.headers["Ocp-Apim-Subscription-Key"] = str(keys[1])
            await gateway.get("/orders")
            gateway.headers["Ocp-Apim-Subscription-Key"] = str(keys[0])
            yield Azure(sandbox, clock, client, settings, gateway)
        await client.close()


async def counted(pool: asyncpg.Pool) -> dict[datetime, int]:
    return {hour: quantity for (_, _, _, hour), (quantity, _) in (await windows(pool)).items()}


async def test_what_the_gateway_answered_well_is_counted_once(azure: Azure, pool: asyncpg.Pool, publish: Publish) -> None:
    document: dict[str, Any] = deepcopy(CATALOGUE)
    document["products"][0]["source"] = "reports"
    del document["meters"]["calls"]["weights"]
    await publish(catalogue_applied(document))
    await publish(state())
    noon, one = START.replace(minute=0), START.replace(minute=0) + timedelta(hours=1)

    azure.at(START + timedelta(minutes=5))
    await azure.call("/orders", "/orders/7", "/orders", "/orders/99999", "/status/500", "/status/404")
    assert await azure.poll(pool) == 0, "the reports trail by half an hour"

    azure.at(START + timedelta(minutes=28))  # 12:58: the hour grows after it has been asked for
    await azure.call("/orders", "/orders")
    azure.at(START + timedelta(minutes=40))
    await azure.call("/orders")
    assert await azure.poll(pool) == 3
    assert await azure.poll(pool) == 0, "restarted: what was counted stays counted"

    azure.at(START + timedelta(minutes=59))
    assert sorted(await asyncio.gather(azure.poll(pool), azure.poll(pool))) == [0, 2], "two collectors at once"
    assert await counted(pool) == {noon: 5}

    azure.at(START + timedelta(minutes=75))
    behind = azure.polling(pool)
    azure.sandbox.faults.waiting.extend(
        Fault(match=FaultMatch(method="GET", path_prefix="/reports"), status=status, times=3) for status in (500, 503)
    )
    for _ in range(2):
        with pytest.raises(HttpResponseError):
            await behind.read_round(now=azure.clock.now())
    assert await counted(pool) == {noon: 5}, "no answer is not the answer zero"
    assert await behind.is_behind(now=azure.clock.now())
    assert await behind.read_round(now=azure.clock.now()) == 1
    assert not await behind.is_behind(now=azure.clock.now())

    assert await counted(pool) == {noon: 5, one: 1}
    assert sum((await counted(pool)).values()) == (await azure.ask(START, FEBRUARY))["sub-1"] == 6
    assert await pool.fetchval("select count(*) from usage_event where sid <> 'sub-1'") == 0


async def test_the_second_opinion_is_the_same_for_one_key_and_for_all(azure: Azure) -> None:
    day = START.replace(hour=0, minute=0) + timedelta(days=3)
    azure.at(day + timedelta(hours=9))
    await azure.call("/orders", "/orders/99999", "/status/500")
    azure.at(day + timedelta(days=1, hours=2))
    await azure.call("/orders")
    azure.at(day + timedelta(days=1, hours=4))
    span = (day, day + timedelta(days=1, hours=3))
    one = await calls_by_day(azure.client, azure.settings, *span, "sub-1")
    everybody = await calls_by_day(azure.client, azure.settings, *span)
    first, second = day.date(), day.date() + timedelta(days=1)
    assert one == {("sub-1", first): CallCount(3, 1), ("sub-1", second): CallCount(1, 1)}
    assert {key: count for key, count in everybody.items() if key[0] == "sub-1"} == one
