"""A real Postgres with the service's schema, the handlers on a broker in memory, and short words for events."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, FastAPI

from billing_common import testing
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import (
    AccessSuspended,
    CatalogueApplied,
    Event,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionUpdated,
    derive_id,
)
from billing_common.internal_auth import issue_token
from usage_collector import handlers, settling
from usage_collector.app import MIGRATIONS, SERVICE
from usage_collector.collecting import Collector
from usage_collector.observing import Observation

TABLES = (
    "catalogue_version, subscription, subscription_key, subscription_fact, plan_cut, segment, usage_event, usage_event_meter, held_event, "
    "refused_event, duplicate_count, usage_window, sender, report_bucket, report_progress, threshold_reached, ingest_refusal, correction, "
    "threshold_again, meter_state, unique_value, max_record, late_segment, late_usage, late_unannounced, usage_rollup, changed_hour, "
    "events_kept, inbox, outbox"
)
KEYS = ("k" * 32,)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC)
MARCH = datetime(2027, 3, 1, tzinfo=UTC)
START = JANUARY + timedelta(days=9, hours=12, minutes=30)  # the subscription begins in mid-month and mid-hour
CATALOGUE = {
    "version": 1,
    "meters": {
        "calls": {"name": "API calls", "weights": [{"method": "POST", "template": "/orders", "weight": 5}]},
        "traffic": {"name": "Traffic", "unit": "byte", "property": "responseBytes"},
    },
    "products": [
        {"id": "payg", "name": "Pay", "model": "Metered", "price": {"usage": [{"meter": "calls", "amount": "0.15", "per": 100}]}},
        {
            "id": "hybrid",
            "name": "Hybrid",
            "model": "Hybrid",
            "price": {
                "base": "5",
                "usage": [{"meter": "calls", "amount": "0.10", "per": 100}, {"meter": "traffic", "amount": "0.01", "per": 1000}],
            },
        },
        {
            "id": "enterprise",
            "name": "Enterprise",
            "model": "Unit",
            "source": "ingest",
            "price": {"unit": {"meter": "calls", "size": 1500000, "amount": "749.95"}},
        },
        {"id": "free", "name": "Free", "model": "Free", "quota": {"calls": 100}},
    ],
}


class FixedClock(BusinessClock):
    """Business time that a test sets."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.instant = now

    def now(self) -> datetime:
        return self.instant


def catalogue_applied(document: dict[str, Any] = CATALOGUE, version: int = 1) -> CatalogueApplied:
    return CatalogueApplied(cause_id=f"apply-{version}", occurred_at=JANUARY, version=version, document=document)


def state(kind: type[Event] = SubscriptionCreated, *, revision: int = 1, sub: str = "sub-1", **fields: Any) -> Any:
    """Return one state of a subscription; January, payg and active unless said otherwise."""
    values: dict[str, Any] = {
        "cause_id": f"{sub}-{revision}",
        "occurred_at": START,
        "subscription_id": sub,
        "account_id": f"acct-{sub}",
        "revision": revision,
        "user_id": "user-1",
        "product_id": "payg",
        "catalogue_version": 1,
        "display_name": "Mine",
        "status": "active",
        "currency": "usd",
        "started_at": START,
        "current_period_start": START,
        "current_period_end": FEBRUARY,
        "stripe_subscription_id": f"stripe-{sub}",
        "stripe_customer_id": "cus_1",
    }
    return kind.model_validate(values | fields)


def renewed(*, revision: int = 2, **fields: Any) -> Any:
    return state(SubscriptionUpdated, revision=revision, current_period_start=FEBRUARY, current_period_end=MARCH, **fields)


def deleted(*, revision: int = 3, ended_at: datetime, **fields: Any) -> Any:
    return state(SubscriptionDeleted, revision=revision, status="canceled", ended_at=ended_at, **fields)


def suspended(effective_at: datetime, *, sub: str = "sub-1", reason: str = "cancellation") -> AccessSuspended:
    return AccessSuspended(
        cause_id=f"suspend-{sub}",
        occurred_at=effective_at,
        subscription_id=sub,
        account_id=f"acct-{sub}",
        user_id="user-1",
        product_id="payg",
        sid=sub,
        revision=2,
        reason=reason,
        effective_at=effective_at,
    )


def call(name: str, at: datetime, *, sub: str = "sub-1", status: int | None = 200, **fields: Any) -> Observation:
    """Return a gateway call as it was observed."""
    values: dict[str, Any] = {
        "id": derive_id("apim", name, at.date().isoformat()),
        "day": at.date(),
        "at": at,
        "origin": "stream",
        "source": "apim",
        "external_id": name,
        "sid": sub,
        "status": status,
        "method": "GET",
        "template": "/orders/{id}",
    }
    return Observation(**(values | fields))


@pytest.fixture(scope="session")
async def shared_pool(postgres_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    dsn = await testing.make_schema(postgres_dsn, SERVICE, MIGRATIONS)
    pool = await create_pool(dsn, schema=SERVICE, size=8)
    yield pool
    await pool.close()
    await testing.drop_database(postgres_dsn, dsn)


async def empty(pool: asyncpg.Pool) -> None:
    await testing.empty(pool, TABLES)


@pytest.fixture
async def pool(shared_pool: asyncpg.Pool) -> asyncpg.Pool:
    await empty(shared_pool)
    return shared_pool


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START + timedelta(hours=2))


def make_collector(pool: asyncpg.Pool) -> Collector:
    return Collector(pool, batch_max=8000, age_max=timedelta(days=42), ahead_max=timedelta(minutes=5))


@pytest.fixture
async def collector(pool: asyncpg.Pool) -> Collector:
    return make_collector(pool)


def allowed(*scopes: str) -> dict[str, str]:
    """Return the header of a caller with these scopes."""
    return {"authorization": f"Bearer {issue_token(KEYS, caller='test', scopes=scopes)}"}


def door_to(router: APIRouter, *scopes: str, **shared: Any) -> httpx.AsyncClient:
    """Return a caller with these scopes at the door of one router, which finds what is `shared` in its state."""
    app = FastAPI()
    app.include_router(router)
    for name, value in {"token_keys": KEYS, **shared}.items():
        setattr(app.state, name, value)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://collector", headers=allowed(*scopes))


Publish = Callable[[Event], Awaitable[None]]


@pytest.fixture
async def publish(pool: asyncpg.Pool, clock: FixedClock) -> AsyncIterator[Publish]:
    async with testing.memory_kafka(handlers.router, pool=pool, clock=clock) as send:
        yield send


async def settle(collector: Collector, now: datetime | None = None) -> None:
    while await settling.settle_some(collector, now):
        pass


async def windows(pool: asyncpg.Pool) -> dict[tuple[str, str, datetime, datetime], tuple[int, int]]:
    """Return (subscription, meter, segment start, hour) -> (quantity, events) of the windows that are not empty."""
    rows = await pool.fetch("select s.subscription_id, s.started_at, w.* from usage_window w join segment s on s.id = w.segment_id")
    return {
        (row["subscription_id"], row["meter_id"], row["started_at"], row["hour"]): (row["quantity"], row["events"])
        for row in rows
        if row["events"]
    }


async def outcomes(pool: asyncpg.Pool) -> dict[str, str]:
    """Return sender's id -> outcome, with its reason."""
    rows = await pool.fetch(
        "select external_id, outcome::text, reason from usage_event union all select external_id, 'rejected', reason from refused_event"
    )
    return {row["external_id"]: row["outcome"] + (f": {row['reason']}" if row["reason"] else "") for row in rows}


async def collect(collector: Collector, clock: FixedClock, seen: Sequence[Observation]) -> None:
    await collector.collect(seen, now=clock.now())
