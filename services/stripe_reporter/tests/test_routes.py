"""The internal doors of the running service, over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from billing_common.internal_auth import InternalAuth
from stripe_reporter import store
from stripe_reporter.app import create_service
from stripe_reporter.domain import due_at, hour_of
from stripe_reporter.settings import Settings

Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
async def ask(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Ask]:
    service = create_service(settings)
    async with service.running(), httpx.AsyncClient(transport=httpx.ASGITransport(service.internal), base_url="http://reporter") as client:

        async def ask(method: str, path: str, scope: str, **more: Any) -> httpx.Response:
            auth = InternalAuth(settings.token_keys, caller="test", scopes=[scope])
            return await client.request(method, path, headers=auth.headers(), **more)

        yield ask


@pytest.fixture
async def hour(pool: asyncpg.Pool, facts: Any) -> datetime:
    """Five calls of the hour that runs now: not due by themselves before it ends."""
    hour, now = hour_of(datetime.now(UTC)), datetime.now(UTC)
    async with pool.acquire() as connection:
        await store.put_meters(connection, 1, [("payg", "calls", "mtr_calls", "calls")])
        await store.put_subscription(connection, facts.subscription())
        await store.put_window(connection, facts.usage(5, hour=hour), due_at(hour, now=now, delay=timedelta(minutes=5)))
        await store.put_window(connection, facts.usage(2, meter="bytes", hour=hour), due_at(hour, now=now, delay=timedelta(minutes=5)))
    return hour


async def settled(ask: Ask) -> dict[str, Any]:
    for _ in range(200):
        status: dict[str, Any] = (await ask("GET", "/status", "status:read")).json()
        if not [reason for reason in status["waiting_for"] if "windows" in reason or "meter events" in reason]:
            return status
        await asyncio.sleep(0.02)
    raise AssertionError(status)


async def test_report_sends_what_is_not_due_yet(hour: datetime, ask: Ask, stripe: Any) -> None:
    status = await settled(ask)
    assert status["next_due"] == (hour + timedelta(minutes=65)).isoformat()
    assert stripe.calls == []
    answer = await ask("POST", "/v1/report", "reports:write", json={"subscription_id": "s-1"})
    assert (answer.status_code, answer.json()) == (202, {"windows": 2, "retried": 0})
    status = await settled(ask)
    assert (stripe.total(), status["next_due"]) == (5, None)
    assert status["activity"] > 0


async def test_reconciliation_shows_where_each_meter_is(hour: datetime, ask: Ask, stripe: Any) -> None:
    await ask("POST", "/v1/report", "reports:write")
    await settled(ask)
    stripe.store("by hand", "calls", "cus_1", 3, int(hour.timestamp()))
    asked = {"subscription_id": "s-1", "from": hour.isoformat(), "to": (hour + timedelta(hours=1)).isoformat()}
    answer = (await ask("GET", "/v1/reconciliation", "reports:read", params=asked)).json()
    assert [meter["meter"] for meter in answer["meters"]] == ["bytes", "calls"]
    common = {"in_flight": 0, "rejected": 0, "unsent": 0, "stripe_error": None}
    by_hand = {"windows": 5, "acknowledged": 5, "not_billed": 0, "stripe": 8, "difference": 3}
    not_billed = {"windows": 2, "acknowledged": 0, "not_billed": 2, "stripe": None, "difference": None}
    assert answer["meters"][0] == {"meter": "bytes", "event_name": None, **common, **not_billed}
    assert answer["meters"][1] == {"meter": "calls", "event_name": "calls", **common, **by_hand}


@pytest.mark.parametrize(
    ("method", "path", "scope", "status"),
    [
        ("POST", "/v1/report", "reports:read", 403),
        ("GET", "/v1/reconciliation", "reports:write", 403),
        ("GET", "/v1/reconciliation?subscription_id=s-1&from=2027-01-02T00:00:00Z&to=2027-01-01T00:00:00Z", "reports:read", 422),
        ("GET", "/v1/reconciliation?subscription_id=s-1&from=2027-01-02&to=soon", "reports:read", 422),
        ("GET", "/v1/reconciliation?subscription_id=s-1&from=0001-01-01T00:00:00%2B14:00&to=0001-01-02T00:00:00Z", "reports:read", 422),
        ("GET", "/metrics", "none", 200),
    ],
)
async def test_doors_need_their_scope_and_sense(method: str, path: str, scope: str, status: int, ask: Ask) -> None:
    assert (await ask(method, path, scope)).status_code == status
