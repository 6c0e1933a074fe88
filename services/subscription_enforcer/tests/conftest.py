"""A real Postgres, an API Management that records what is asked of it, and events as plain as possible."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from azure.mgmt.apimanagement.aio import ApiManagementClient
from azure.mgmt.apimanagement.models import ProductContract, UserCreateParameters
from pydantic import SecretStr

from billing_common import testing
from billing_common.apim_client import create_client
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import (
    CatalogueApplied,
    SubscriptionCancellationRequested,
    SubscriptionKeysChanged,
    SubscriptionUpdated,
    UsageThresholdReached,
)
from billing_common.settings import ApimSettings
from sandbox_apim.app import Sandbox, running
from sandbox_apim.settings import Settings as SandboxSettings
from subscription_enforcer.apim_gateway import ApimError, Found, Wanted
from subscription_enforcer.app import MIGRATIONS, NAME

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
    await testing.empty(pool, "access, access_change, access_key, plan, outbox, inbox")
    yield pool
    await pool.close()


@pytest.fixture
def clock() -> BusinessClock:
    return BusinessClock(offset_allowed=True)


PLACE = ("turnpike", "turnpike")


@pytest.fixture(scope="session")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(data_dir=tmp_path_factory.mktemp("apim"), arm_port=0, portal_port=0, gateway_port=0)
    async with running(settings, BusinessClock(offset_allowed=True)) as started:
        yield started


@pytest.fixture
def apim_settings(sandbox: Sandbox) -> ApimSettings:
    return ApimSettings(
        apim_base_url=sandbox.management_url,
        apim_subscription_id="00000000-0000-0000-0000-000000000000",
        apim_resource_group=PLACE[0],
        apim_service_name=PLACE[1],
        apim_ca_file=Path(sandbox.certificate.ca_file),
        apim_static_token=SecretStr("sandbox-arm-token"),
    )


@pytest.fixture
async def client(sandbox: Sandbox, apim_settings: ApimSettings) -> AsyncIterator[ApiManagementClient]:
    """A client of a sandbox with one user, two products and, at first, no subscription of ours."""
    client = create_client(apim_settings)
    user = UserCreateParameters(email="user@example.org", first_name="A", last_name="User")
    await client.user.create_or_update(*PLACE, "u-1", user)
    for product in ("standard", "pro"):
        await client.product.create_or_update(*PLACE, product, ProductContract(display_name=product, subscription_required=True))
    yield client
    sandbox.faults.waiting.clear()
    for sid in [str(found.name) async for found in client.subscription.list(*PLACE) if found.name != "master"]:
        await client.subscription.delete(*PLACE, sid, "*")
    await client.close()


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

    def keys(self, *numbers: int, revision: int = 1, revoked: tuple[int, ...] = (), **changes: Any) -> SubscriptionKeysChanged:
        wishes = [{"sid": f"s-1_{number}", "name": f"Key {number}", "revoked": number in revoked} for number in numbers]
        given: dict[str, Any] = {"subscription_id": "s-1", "account_id": "a-1", "user_id": "u-1", "keys": wishes}
        return SubscriptionKeysChanged(cause_id=f"keys-{revision}", occurred_at=JANUARY, revision=revision, **(given | changes))

    def catalogue(
        self, grace_days: int = 0, version: int = 1, keys: int = 3, source: str = "stream", quota: dict[str, Any] | None = None
    ) -> CatalogueApplied:
        plan = {"id": "standard", "name": "Standard", "model": "Tier", "price": {"base": "9"}, "quota": quota or {"calls": 9}}
        product = plan | {"policies": {"dunning_grace_days": grace_days}, "keys": keys, "source": source}
        document = {"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [product]}
        return CatalogueApplied(cause_id=f"apply-{version}", occurred_at=JANUARY, version=version, document=document)

    def cancellation(self, when: str = "now", **changes: Any) -> SubscriptionCancellationRequested:
        given: dict[str, Any] = {"subscription_id": "s-1", "account_id": "a-1", "user_id": "u-1", "when": when}
        return SubscriptionCancellationRequested(**{"cause_id": "request-1", "occurred_at": JANUARY, **given, **changes})

    def threshold(
        self,
        period_start: datetime = JANUARY,
        *,
        hard_stop: bool = True,
        product_id: str | None = None,
        period_end: datetime | None = None,
        kind: str = "allowance",
        limit: int | None = None,
    ) -> UsageThresholdReached:
        return UsageThresholdReached(
            cause_id=f"window-{period_start}-{hard_stop}-{product_id}-{limit}",
            occurred_at=period_start,
            subscription_id="s-1",
            account_id="a-1",
            meter_id="calls",
            period_start=period_start,
            period_end=period_end,
            threshold="1",  # type: ignore[arg-type]  # pydantic reads a Decimal from it
            quantity=100,
            hard_stop=hard_stop,
            product_id=product_id,
            kind=kind,
            limit=limit,
        )


@pytest.fixture
def samples() -> Samples:
    return Samples()
