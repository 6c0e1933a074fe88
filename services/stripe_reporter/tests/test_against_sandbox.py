"""The reporter against the sandbox's Stripe: its own rules for meter events, its own faults."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from billing_common.stripe_client import client_of, create_client
from stripe_reporter import ledger, store
from stripe_reporter.domain import hour_of
from stripe_reporter.sender import Sender
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

from .conftest import KEY

SILENT = {"kind": "drop_after_commit", "times": 1, "match": {"path_prefix": "/v1/billing/meter_events"}}
LOST = {**SILENT, "kind": "drop"}
BROKEN = {**SILENT, "kind": "status", "status": 500}
BUSY = {**SILENT, "kind": "status", "status": 429}


@dataclass
class World:
    """A customer and a meter at the sandbox, and five calls of the hour before this one."""

    customer: str
    meter: str
    hour: datetime
    gateway: StripeGateway
    doors: httpx.AsyncClient
    sender: Sender
    client: Any

    async def at_stripe(self) -> int:
        return await self.gateway.sum(
            stripe_meter_id=self.meter, stripe_customer_id=self.customer, start=self.hour, end=self.hour + timedelta(hours=1)
        )

    async def rounds(self, pool: asyncpg.Pool) -> None:
        for _ in range(100):
            await self.sender.round()
            async with pool.acquire() as connection:
                if not await store.waiting_for(connection, self.hour + timedelta(hours=2)):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError("not settled")


@pytest.fixture
async def world(sandbox: str, settings: Settings, pool: asyncpg.Pool, clock: Any, facts: Any) -> AsyncIterator[World]:
    settings = settings.model_copy(update={"stripe_api_base": sandbox, "stripe_api_key": SecretStr(KEY), "retry_max_seconds": 0.1})
    client, transport = create_client(settings)
    customer = await client.v1.customers.create_async({})
    meter = await client.v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": "turnpike_payg_calls", "default_aggregation": {"formula": "sum"}}
    )
    hour = hour_of(datetime.now(UTC)) - timedelta(hours=1)
    clock.instant = hour + timedelta(hours=2)
    async with pool.acquire() as connection:
        await store.put_meters(connection, 1, [("payg", "calls", meter.id, "turnpike_payg_calls")])
        await store.put_subscription(connection, facts.subscription(customer=customer.id))
        await store.put_window(connection, facts.usage(5, hour=hour), hour + timedelta(hours=1))
    async with httpx.AsyncClient(base_url=sandbox) as doors:
        gateway = StripeGateway(client, lambda token: client_of(settings, token, transport))
        sender = Sender(pool, gateway, clock, settings, wake=asyncio.Event(), progress=lambda _: None)
        yield World(customer.id, meter.id, hour, gateway, doors, sender, client)
    await transport.close_async()


@pytest.mark.parametrize("fault", [None, SILENT, LOST, BROKEN, BUSY], ids=["none", "silent", "lost", "broken", "busy"])
async def test_usage_is_counted_once_whatever_the_first_call_met(fault: dict[str, Any] | None, world: World, pool: asyncpg.Pool) -> None:
    if fault:
        assert (await world.doors.post("/_sandbox/faults", json=fault)).is_success
    await world.rounds(pool)
    assert await world.at_stripe() == 5
    assert await pool.fetch("select state, quantity from ledger") == [("acknowledged", 5)]


async def test_a_correction_reaches_stripe(world: World, pool: asyncpg.Pool, facts: Any) -> None:
    await world.rounds(pool)
    async with pool.acquire() as connection:
        await store.put_window(connection, facts.usage(2, 2, hour=world.hour), world.hour)
    await world.rounds(pool)
    assert await world.at_stripe() == 2


@pytest.mark.parametrize("cause", ["customer", "meter"])
async def test_what_stripe_refuses_is_parked_with_its_code(cause: str, world: World, pool: asyncpg.Pool) -> None:
    break_it: Callable[[], Any] = {
        "customer": lambda: world.client.v1.customers.delete_async(world.customer),
        "meter": lambda: world.client.v1.billing.meters.deactivate_async(world.meter),
    }[cause]
    await break_it()
    await world.rounds(pool)
    assert await pool.fetchval("select rejected from usage_window") == 5
    code = await pool.fetchval("select code from ledger where state = 'rejected'")
    assert "look the request up" not in ledger.remedy(code), f"{code} has a remedy of its own"
