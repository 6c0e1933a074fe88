"""A real Postgres, and a Stripe of a few lines that the real SDK talks to over HTTP and that fails on demand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from billing_common import testing
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import (
    CatalogueApplied,
    Event,
    SubscriptionCreated,
    UsageCollected,
    UsageSegmentClosed,
)
from billing_common.stripe_client import client_of, create_client
from sandbox_stripe.app import build
from sandbox_stripe.service import open_sandbox
from sandbox_stripe.settings import Settings as SandboxSettings
from stripe_reporter import handlers
from stripe_reporter.app import MIGRATIONS, NAME
from stripe_reporter.sender import Sender, wall_now
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

KEY = "sk_test_turnpike_sandbox"
TABLES = (
    "subscription, catalogue, stripe_meter, usage_window, ledger, lane, segment, period_close, invoice, invoice_line, stripe_price, "
    "difference, reconciliation_run, unbilled, inbox, outbox"
)
START = datetime(2027, 3, 1, tzinfo=UTC)
HOUR = START + timedelta(hours=9)
IN_HOUR = HOUR + timedelta(minutes=30)
AFTER_HOUR = HOUR + timedelta(minutes=62)


class FixedClock(BusinessClock):
    """Business time that a test sets."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.instant = now

    def now(self) -> datetime:
        return self.instant


@dataclass
class StripeStandIn:
    """Meter events by identifier, what was asked, and the failures to come, one per call."""

    base: str = ""
    events: dict[str, tuple[str, str, int, int]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    replays: dict[str, JSONResponse] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    together: Counter[tuple[str, str]] = field(default_factory=Counter)
    most_together: int = 0

    def total(self, event_name: str = "calls", customer: str = "cus_1") -> int:
        return sum(value for name, whose, value, _ in self.events.values() if (name, whose) == (event_name, customer))

    def store(self, identifier: str, event_name: str, customer: str, value: int, timestamp: int) -> None:
        self.known.add(identifier)
        self.events[identifier] = (event_name, customer, value, timestamp)


def refusal(status: int, message: str, **more: Any) -> JSONResponse:
    kind = "invalid_request_error" if status in (400, 404) else "api_error"
    return JSONResponse({"error": {"type": kind, "message": message, **more}}, status, {"Stripe-Should-Retry": "false"})


async def _take(stripe: StripeStandIn, form: dict[str, str], key: str) -> JSONResponse:
    identifier, name, customer = form["identifier"], form["event_name"], form["payload[stripe_customer_id]"]
    stripe.calls.append(identifier)
    stripe.keys.append(key)
    if key in stripe.replays:
        return stripe.replays[key]
    failure = stripe.failures.pop(0) if stripe.failures else ""
    if failure in {"429", "401", "500"}:
        answer = refusal(int(failure), "not now")
        if failure == "500":
            stripe.replays[key] = answer
        return answer
    if customer in stripe.refused:
        return refusal(400, "refused", code=stripe.refused[customer])
    if identifier in stripe.known:
        return refusal(400, f"An event already exists with identifier {identifier}.")
    if failure != "lost":
        stripe.store(identifier, name, customer, int(form["payload[value]"]), int(form["timestamp"]))
    stripe.stored.set()
    if failure in {"silent", "lost"}:
        await asyncio.sleep(5)
    body = {"object": "billing.meter_event", "identifier": identifier, "event_name": name, "created": 1, "timestamp": 1}
    return JSONResponse({**body, "livemode": False, "payload": {}})


def _stripe_app(stripe: StripeStandIn) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/billing/meter_events")
    async def take(request: Request) -> JSONResponse:
        form = {name: str(value) for name, value in (await request.form()).items()}
        lane = (form["event_name"], form["payload[stripe_customer_id]"])
        stripe.together[lane] += 1
        stripe.most_together = max(stripe.most_together, stripe.together[lane])
        await asyncio.sleep(0.002)
        try:
            return await _take(stripe, form, request.headers["idempotency-key"])
        finally:
            stripe.together[lane] -= 1

    @app.get("/v1/billing/meters/{meter}/event_summaries")
    async def summaries(request: Request, meter: str) -> JSONResponse:
        query = request.query_params
        low, high = int(query["start_time"]), int(query["end_time"])
        if low % 60 or high % 60:
            return refusal(400, "times are on full minutes")
        if stripe.failures:
            return refusal(int(stripe.failures.pop(0)), "not now")
        if step := {"hour": 3_600, "day": 86_400}.get(query.get("value_grouping_window", "")):
            return _grouped(stripe, meter, query["customer"], low, high, step)
        total = sum(
            value
            for name, customer, value, at in stripe.events.values()
            if f"mtr_{name}" == meter and customer == query["customer"] and low <= at < high
        )
        row = {"id": "s", "object": "billing.meter_event_summary", "aggregated_value": float(total), "start_time": low, "end_time": high}
        return JSONResponse({"object": "list", "url": request.url.path, "has_more": False, "data": [{**row, "meter": meter}]})

    return app


def _grouped(stripe: StripeStandIn, meter: str, customer: str, low: int, high: int, step: int) -> JSONResponse:
    sums: Counter[int] = Counter()
    for name, whose, value, at in stripe.events.values():
        if f"mtr_{name}" == meter and whose == customer and low <= at < high:
            sums[at // step * step] += value
    rows = [
        {
            "id": f"s{at}", "object": "billing.meter_event_summary", "aggregated_value": float(total), "start_time": at,
            "end_time": at + step, "meter": meter,
        }
        for at, total in sorted(sums.items(), reverse=True)
    ]  # fmt: skip
    return JSONResponse({"object": "list", "url": "/", "has_more": False, "data": rows})


@pytest.fixture
async def stripe() -> AsyncIterator[StripeStandIn]:
    stand_in = StripeStandIn()
    async with testing.served(_stripe_app(stand_in)) as stand_in.base:
        yield stand_in


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[str]:
    sandbox = open_sandbox(SandboxSettings(data_path=tmp_path / "stripe.sqlite3", api_key=SecretStr(KEY)))
    async with testing.served(build(sandbox), lifespan="on") as base:
        yield base


@pytest.fixture(scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    dsn = await testing.make_schema(postgres_dsn, NAME, MIGRATIONS)
    yield dsn
    await testing.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Leases and the sender's own transactions need real commits, so tables are emptied instead of rolled back."""
    pool = await create_pool(database, schema=NAME, size=8)
    await testing.empty(pool, TABLES)
    yield pool
    await pool.close()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(IN_HOUR)


@pytest.fixture
def settings(database: str, stripe: StripeStandIn) -> Settings:
    return Settings(
        database_url=SecretStr(database),
        kafka_bootstrap_servers="127.0.0.1:1",  # nobody listens: events wait in the outbox, where the tests read them
        internal_token_keys=SecretStr("k" * 32),
        collector_url="http://127.0.0.1:1",
        stripe_api_key=SecretStr("sk_test_made_up"),
        stripe_api_base=stripe.base,
        stripe_timeout_seconds=1,
        lease_seconds=30,
        calls_per_second_start=500,
    )


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[StripeGateway]:
    client, transport = create_client(settings)
    yield StripeGateway(client, lambda token: client_of(settings, token, transport))
    await transport.close_async()


@pytest.fixture
async def publish(pool: asyncpg.Pool, clock: FixedClock) -> AsyncIterator[Callable[[Event], Awaitable[None]]]:
    async with testing.memory_kafka(
        handlers.router, pool=pool, clock=clock, report_delay=timedelta(seconds=60), wake=asyncio.Event()
    ) as publish:
        yield publish


@pytest.fixture
def new_sender(pool: asyncpg.Pool, gateway: StripeGateway, clock: FixedClock, settings: Settings) -> Callable[..., Sender]:
    """Make a replica; `later` moves its wall clock."""

    def make(later: timedelta = timedelta(0)) -> Sender:
        sender = Sender(pool, gateway, clock, settings, wake=asyncio.Event(), progress=lambda _: None)
        sender.wall_now = lambda: wall_now() + later
        return sender

    return make


@pytest.fixture
def sender(new_sender: Callable[..., Sender]) -> Sender:
    return new_sender()


class Facts:
    """Events as other services publish them."""

    def catalogue(self, version: int = 1) -> CatalogueApplied:
        meters = {"calls": {"id": "mtr_calls", "event_name": "calls"}, "bytes": {"id": "mtr_bytes", "event_name": "bytes"}}
        ids = {"payg": {"meters": meters}, "free": {}}
        return CatalogueApplied(cause_id=f"catalogue-{version}", occurred_at=START, version=version, document={}, stripe_ids=ids)

    def subscription(self, number: int = 1, *, customer: str | None = "cus_1", revision: int = 1) -> SubscriptionCreated:
        return SubscriptionCreated(
            cause_id=f"subscription-{number}-{revision}",
            occurred_at=START,
            subscription_id=f"s-{number}",
            account_id=f"a-{number}",
            revision=revision,
            user_id="u-1",
            product_id="payg" if customer else "free",
            catalogue_version=1,
            display_name="Weather",
            status="active",
            currency="usd",
            started_at=START,
            current_period_start=START,
            current_period_end=START + timedelta(days=31),
            stripe_customer_id=customer,
        )

    def usage(
        self, total: int, revision: int = 1, *, number: int = 1, meter: str = "calls", hour: datetime = HOUR, product: str = "payg"
    ) -> UsageCollected:
        return UsageCollected(
            cause_id=f"{number}-{meter}-{hour}-{revision}",
            occurred_at=hour,
            subscription_id=f"s-{number}",
            account_id=f"a-{number}",
            product_id=product,
            catalogue_version=1,
            meter_id=meter,
            segment_start=START,
            hour=hour,
            timestamp=hour,
            quantity=total,
            revision=revision,
        )

    def closed(self, totals: dict[str, int], *, number: int = 1, **changes: Any) -> UsageSegmentClosed:
        facts: dict[str, Any] = {
            "cause_id": f"closed-{number}",
            "occurred_at": IN_HOUR,
            "subscription_id": f"s-{number}",
            "account_id": f"a-{number}",
            "segment_start": START,
            "segment_end": IN_HOUR,
            "reason": "cancellation",
            "totals": totals,
        }
        return UsageSegmentClosed(**{**facts, **changes})


@pytest.fixture
def facts() -> Facts:
    return Facts()
