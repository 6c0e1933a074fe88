"""48,000 subscription-hours to a Stripe with its live limits: by v1, one call each, and by the v2 stream, 100 a call and summaries."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import stripe
from pydantic import SecretStr

from bench import machine
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import SubscriptionCreated, UsageCollected
from billing_common.stripe_client import client_of, create_client
from billing_common.testing import make_schema
from embedded_servers.ports import free_port
from embedded_servers.postgres import Postgres
from stripe_reporter import metrics, store
from stripe_reporter.app import MIGRATIONS, NAME
from stripe_reporter.domain import hour_of
from stripe_reporter.sender import Sender
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

SUBSCRIPTIONS, HOURS = 2_000, 24
EVENT_NAME = "turnpike_payg_calls"
API_KEY = "sk_test_turnpike_sandbox"
LIVE_LIMITS = {"RATE_LIMIT_PER_SECOND": "100", "RATE_LIMIT_METER_EVENTS_PER_SECOND": "1000"}
SECONDS_MAX = 600.0
CUSTOMER_PAUSE_SECONDS = 0.0125  # the general limit is 100 calls a second
PROBE_CALLS, PROBE_AT_ONCE = 600, 16
WAYS = {"v1, one row a call": 0, "v2 stream, confirmed by summaries": 1000}


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is the number of subscriptions, each with 24 hours."""
    return asyncio.run(_measure(runs or SUBSCRIPTIONS))


async def _measure(subscriptions: int) -> dict[str, Any]:
    facts = machine.facts()
    figures: dict[str, Any] = {}
    limits: dict[str, int] = {}
    with _postgres() as (postgres, folder):
        for number, (name, from_rows) in enumerate(WAYS.items()):
            dsn = await make_schema(postgres.dsn(), NAME, MIGRATIONS)
            with _sandbox(folder / f"stripe-{number}") as address:
                figures[name], limits[f"single calls and nothing else, a second ({name[:2]})"] = await _report(
                    dsn, address, subscriptions, from_rows
                )
    return {"machine": facts | {"load_after": machine.load()}, "limits": limits, "figures": figures}


@contextmanager
def _postgres() -> Iterator[tuple[Postgres, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="turnpike-bench-reporting-"))
    folder.chmod(0o711)  # under root, Postgres runs as a user without rights and must get through
    (folder / "postgres").mkdir(mode=0o711)
    postgres = Postgres(folder / "postgres")
    try:
        postgres.start()
        yield postgres, folder
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _sandbox(folder: Path) -> Iterator[str]:
    """Run a sandbox Stripe that enforces the live limits, in a process of its own."""
    folder.mkdir()
    port = free_port()
    settings = {"HTTP_PORT": str(port), "DATA_PATH": str(folder / "stripe.sqlite3"), "LOG_LEVEL": "ERROR"} | LIVE_LIMITS
    environment = os.environ | {f"SANDBOX_STRIPE_{name}": value for name, value in settings.items()}
    with subprocess.Popen([sys.executable, "-m", "sandbox_stripe"], env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def _report(dsn: str, address: str, subscriptions: int, from_rows: int) -> tuple[dict[str, Any], int]:
    """Report everything; returns the figures, and how many single calls a second the same sandbox takes when nothing else is done."""
    settings = Settings(
        database_url=SecretStr(dsn),
        kafka_bootstrap_servers="127.0.0.1:1",  # the outbox keeps what would be announced
        internal_token_keys=SecretStr("k" * 32),
        collector_url="http://127.0.0.1:1",
        stripe_api_key=SecretStr(API_KEY),
        stripe_api_base=address,
        stream_from_rows=from_rows,
        summary_lag_seconds=0 if from_rows else 900,  # the sandbox's summaries do not lag; at Stripe the lag is added once
    )
    async with _stripe(settings) as (client, gateway):
        start = hour_of(datetime.now(UTC)) - timedelta(hours=HOURS + 1)
        pool = await create_pool(dsn, schema=NAME, size=8)
        customer, meter = await _windows(pool, client, start, subscriptions)
        bare = await _bare(client, customer, start)
        before = _answers()
        began = time.monotonic()
        await _until_reported(Sender(pool, gateway, BusinessClock(), settings, wake=asyncio.Event(), progress=lambda _: None), pool)
        seconds = time.monotonic() - began
        calls = {kind: count - before.get(kind, 0) for kind, count in _answers().items()}
        at_stripe = await gateway.sum(stripe_meter_id=meter, stripe_customer_id=customer, start=start, end=start + timedelta(hours=HOURS))
        assert at_stripe == sum(range(1, HOURS + 1)) + PROBE_CALLS, "the first customer's usage is at Stripe, once"
        await pool.close()
    too_fast = sum(count for kind, count in calls.items() if kind.endswith("too_fast"))
    return {
        "seconds": round(seconds, 1),
        "hours_per_second": round(subscriptions * HOURS / seconds),
        "subscription_hours": subscriptions * HOURS,
        "answers": sum(calls.values()),
        "of_them_429_percent": round(100 * too_fast / max(sum(calls.values()), 1), 2),
        "target": "48,000 in less than 120 s, at most 1 % of answers 429",
    }, bare


@asynccontextmanager
async def _stripe(settings: Settings) -> AsyncIterator[tuple[stripe.StripeClient, StripeGateway]]:
    client, transport = create_client(settings)
    async with httpx.AsyncClient(base_url=settings.stripe_api_base or "", trust_env=False) as door:
        while True:
            try:
                (await door.get("/health/ready")).raise_for_status()
                break
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
    yield client, StripeGateway(client, lambda token: client_of(settings, token, transport))
    await transport.close_async()  # type: ignore[no-untyped-call]


async def _windows(pool: asyncpg.Pool, client: stripe.StripeClient, start: datetime, subscriptions: int) -> tuple[str, str]:
    """Make customers, and windows of all hours that are due; returns the first customer and the meter."""
    meter = await client.v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": EVENT_NAME, "default_aggregation": {"formula": "sum"}}
    )
    customers = []
    for _ in range(subscriptions):
        customers.append((await client.v1.customers.create_async({})).id)
        await asyncio.sleep(CUSTOMER_PAUSE_SECONDS)
    async with pool.acquire() as connection, connection.transaction():
        await store.put_meters(connection, 1, [("payg", "calls", meter.id, EVENT_NAME)])
        for number, customer in enumerate(customers):
            await store.put_subscription(connection, _subscription(number, customer, start))
            for hour in range(HOURS):
                await store.put_window(connection, _usage(number, start, start + timedelta(hours=hour), hour + 1), start)
    return customers[0], meter.id


def _subscription(number: int, customer: str, start: datetime) -> SubscriptionCreated:
    return SubscriptionCreated(
        cause_id=f"sub-{number}",
        occurred_at=start,
        subscription_id=f"sub-{number}",
        account_id=f"account-{number}",
        revision=1,
        user_id="user",
        product_id="payg",
        catalogue_version=1,
        display_name="Mine",
        status="active",
        currency="usd",
        started_at=start,
        current_period_start=start,
        current_period_end=start + timedelta(days=30),
        stripe_customer_id=customer,
        stripe_subscription_id=f"sub_{number}",
    )


def _usage(number: int, start: datetime, hour: datetime, quantity: int) -> UsageCollected:
    return UsageCollected(
        cause_id=f"{number}-{hour.isoformat()}",
        occurred_at=hour,
        subscription_id=f"sub-{number}",
        account_id=f"account-{number}",
        product_id="payg",
        catalogue_version=1,
        meter_id="calls",
        segment_start=start,
        hour=hour,
        timestamp=hour,
        quantity=quantity,
        revision=1,
    )


async def _bare(client: stripe.StripeClient, customer: str, start: datetime) -> int:
    """Send meter events with nothing around them; one each, so that they can be told from the others."""
    slots = asyncio.Semaphore(PROBE_AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await client.v1.billing.meter_events.create_async(
                {
                    "event_name": EVENT_NAME,
                    "identifier": f"probe-{number}",
                    "timestamp": int(start.timestamp()),
                    "payload": {"stripe_customer_id": customer, "value": "1"},
                },
                {"idempotency_key": f"probe-{number}"},
            )

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(PROBE_CALLS)))
    return round(PROBE_CALLS / (time.monotonic() - began))


def _answers() -> dict[str, float]:
    """Return kind of answer -> how many, since this process began."""
    samples = (sample for one in metrics.ANSWERS.collect() for sample in one.samples)
    return {sample.labels["answer"]: sample.value for sample in samples if sample.name.endswith("_total")}


async def _until_reported(sender: Sender, pool: asyncpg.Pool) -> None:
    running = asyncio.create_task(sender.run())
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while await pool.fetchval("select exists (select 1 from usage_window where due_at is not null or recorded <> acknowledged)"):
                assert not running.done(), running.exception()
                await asyncio.sleep(0.2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
