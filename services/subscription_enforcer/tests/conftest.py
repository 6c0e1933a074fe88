"""A real Postgres, an API Management that records what is asked of it, and events as plain as possible."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from billing_common import testing
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import SubscriptionCancellationRequested, SubscriptionUpdated, UsageThresholdReached
from subscription_enforcer.apim_gateway import ApimError, Found, Wanted
from subscription_enforcer.app import MIGRATIONS, NAME

pytest_plugins = ["embedded_servers.testing"]

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    dsn = await testing.make_schema(postgres_dsn, NAME, MIGRATIONS)
    yield dsn
    await testing.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with testing.rolled_back_connection(database, NAME) as connection:
        yield connection


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """The writer needs real commits, NOTIFY and locks, so tables are emptied instead of rolled back."""
    pool = await create_pool(database, schema=NAME)
    await pool.execute("truncate access, access_change, outbox, inbox")
    yield pool
    await pool.close()


@pytest.fixture
def clock() -> BusinessClock:
    return BusinessClock(offset_allowed=True)


class RecordingApim:
    """What the gateway does, without API Management: subscriptions by sid, and every change made."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Found] = {}
        self.calls: list[tuple[str, str]] = []
        self.failures: list[str] = []

    async def apply(self, wanted: Wanted, *, new: bool) -> None:
        self.calls.append((wanted.sid, wanted.state))
        if self.failures:
            raise ApimError(self.failures.pop(0))
        if wanted.state == "active" or (wanted.sid in self.subscriptions and not new):
            self.subscriptions[wanted.sid] = Found(wanted.sid, wanted.state, wanted.product_id)

    async def list_all(self) -> AsyncIterator[Found]:
        for found in list(self.subscriptions.values()):
            yield found


@pytest.fixture
def apim() -> RecordingApim:
    return RecordingApim()


class Samples:
    """Events about subscription s-1."""

    january = JANUARY
    february = FEBRUARY

    def state(self, status: str = "active", revision: int = 1, **changes: Any) -> SubscriptionUpdated:
        given: dict[str, Any] = {
            "cause_id": f"evt_{revision}_{status}",
            "occurred_at": JANUARY,
            "subscription_id": "s-1",
            "account_id": "a-1",
            "user_id": "u-1",
            "product_id": "standard",
            "catalogue_version": 1,
            "display_name": "Weather",
            "currency": "usd",
            "started_at": JANUARY,
            "current_period_start": JANUARY,
            "current_period_end": FEBRUARY,
        }
        return SubscriptionUpdated(**{**given, "status": status, "revision": revision, **changes})

    def cancellation(self, when: str = "now", **changes: Any) -> SubscriptionCancellationRequested:
        given: dict[str, Any] = {"subscription_id": "s-1", "account_id": "a-1", "user_id": "u-1", "when": when}
        return SubscriptionCancellationRequested(**{"cause_id": "request-1", "occurred_at": JANUARY, **given, **changes})

    def threshold(self, period_start: datetime = JANUARY, *, hard_stop: bool = True) -> UsageThresholdReached:
        return UsageThresholdReached(
            cause_id=f"window-{period_start}-{hard_stop}",
            occurred_at=period_start,
            subscription_id="s-1",
            account_id="a-1",
            meter_id="calls",
            period_start=period_start,
            threshold="1",  # type: ignore[arg-type]  # pydantic reads a Decimal from it
            quantity=100,
            hard_stop=hard_stop,
        )


@pytest.fixture
def samples() -> Samples:
    return Samples()
