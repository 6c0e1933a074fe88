"""A real Postgres, and both sandboxes as processes of their own: the gateways talk to them with the real SDKs."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import stripe
from fastapi import FastAPI
from faststream.kafka import KafkaRouter
from pydantic import SecretStr

from billing_common import apim_client, stripe_client, testing
from billing_common.catalogue import Catalogue
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import Event
from billing_common.internal_auth import issue_token
from checkout import (
    applying,
    handlers,
    handlers_changes,
    handlers_corrections,
    handlers_payment,
    handlers_unbilled,
    routes,
    routes_catalogue,
    routes_corrections,
    routes_migrations,
    routes_unbilled,
    store_catalogue,
)
from checkout.apim_gateway import ApimGateway
from checkout.app import MIGRATIONS, install_errors
from checkout.carrying import Outside
from checkout.change_steps import ChangeSteps
from checkout.intents import Worker
from checkout.selling import Seller
from checkout.settings import Settings
from checkout.store_catalogue import Version
from checkout.stripe_catalogue import StripeCatalogue
from checkout.stripe_changes import StripeChanges
from checkout.stripe_gateway import StripeGateway

TABLES = (
    "catalogue_version, catalogue_apply, catalogue_drift, account, account_member, subscription, checkout_session, invoice, intent, "
    "inbox, outbox, correction_charge, plan_change, plan_stay, settled_segment, draft"
)
FILE = Path(__file__).parents[3] / "monetizationModels.json"
KEYS = ("k" * 32,)


@dataclass(frozen=True)
class Sandboxes:
    """Where they listen."""

    stripe: str
    arm: str
    calls: str
    ca_file: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started_sandboxes(folder: Path) -> Iterator[Sandboxes]:
    port = free_port()
    quiet = os.environ | {"SANDBOX_STRIPE_LOG_LEVEL": "ERROR"}
    stripe_settings = {"SANDBOX_STRIPE_HTTP_PORT": str(port), "SANDBOX_STRIPE_DATA_PATH": str(folder / "stripe.sqlite3")}
    apim_settings = {f"SANDBOX_APIM_{name}_PORT": "0" for name in ("ARM", "PORTAL", "GATEWAY")} | {"SANDBOX_APIM_DATA_DIR": str(folder)}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([sys.executable, "-m", "sandbox_stripe"], env=quiet | stripe_settings, stdout=log, stderr=log) as first,
        subprocess.Popen([sys.executable, "-m", "sandbox_apim"], env=quiet | apim_settings, stdout=subprocess.PIPE, stderr=log) as second,
    ):
        try:
            assert second.stdout is not None
            started = json.loads(second.stdout.readline())
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/health/ready", first)
            yield Sandboxes(address, started["management"], started["gateway"], started["ca_file"])
        finally:
            first.terminate()
            second.terminate()


@pytest.fixture(scope="session")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandboxes]:
    with started_sandboxes(tmp_path_factory.mktemp("sandboxes")) as found:
        yield found


@pytest.fixture(scope="session")
def other_sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandboxes]:
    """A second pair, for small catalogues that would take the repository's off sale."""
    with started_sandboxes(tmp_path_factory.mktemp("others")) as found:
        yield found


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2)
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"{address} does not answer")


@pytest.fixture(scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    dsn = await testing.make_schema(postgres_dsn, "checkout", MIGRATIONS)
    yield dsn
    await testing.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Leases and the apply's own transactions need real commits, so tables are emptied instead of rolled back."""
    pool = await create_pool(database, schema="checkout")
    await testing.empty(pool, TABLES)
    yield pool
    await pool.close()


@pytest.fixture(scope="session")
def settings(database: str, sandboxes: Sandboxes) -> Settings:
    return settings_of(database, sandboxes)


def settings_of(database: str, sandboxes: Sandboxes) -> Settings:
    return Settings(
        database_url=SecretStr(database),
        kafka_bootstrap_servers="127.0.0.1:1",  # nobody listens: events wait in the outbox, where the tests read them
        internal_token_keys=SecretStr(KEYS[0]),
        stripe_api_key=SecretStr("sk_test_turnpike_sandbox"),
        stripe_api_base=sandboxes.stripe,
        apim_base_url=sandboxes.arm,
        apim_subscription_id="00000000-0000-0000-0000-000000000000",
        apim_resource_group="local",
        apim_service_name="turnpike",
        apim_ca_file=Path(sandboxes.ca_file),
        apim_static_token=SecretStr("sandbox-arm-token"),
        usage_event_hub_connection=SecretStr("Endpoint=sb://local/;SharedAccessKeyName=send;SharedAccessKey=c2VjcmV0"),
    )


@pytest.fixture(scope="session")
async def stripe_api(settings: Settings) -> AsyncIterator[stripe.StripeClient]:
    client, transport = stripe_client.create_client(settings)
    yield client
    await transport.close_async()


@pytest.fixture(scope="session")
def gateway(stripe_api: stripe.StripeClient) -> StripeGateway:
    return StripeGateway(stripe_api)


@asynccontextmanager
async def apim_of(settings: Settings) -> AsyncIterator[ApimGateway]:
    client = apim_client.create_client(settings)
    yield ApimGateway(
        client,
        resource_group=settings.apim_resource_group,
        service_name=settings.apim_service_name,
        hub_name=settings.usage_event_hub_name,
        hub_connection=settings.usage_event_hub_connection.get_secret_value(),
    )
    await client.close()


@pytest.fixture(scope="session")
async def outside(stripe_api: stripe.StripeClient, settings: Settings) -> AsyncIterator[Outside]:
    async with apim_of(settings) as apim:
        yield Outside(StripeCatalogue(stripe_api), apim)


@pytest.fixture
def clock() -> BusinessClock:
    return BusinessClock()


@pytest.fixture(scope="session")
async def version_outside(database: str, outside: Outside) -> Version:
    """The catalogue of the repository, applied to both sandboxes once."""
    pool = await create_pool(database, schema="checkout")
    await testing.empty(pool, TABLES)  # whatever a test before has left: this is version 1
    done = await applying.apply(pool, outside, Catalogue.parse(FILE.read_text()), by="test", now=datetime.now(UTC))
    await pool.close()
    return done.version


@pytest.fixture
async def applied(version_outside: Version, pool: asyncpg.Pool) -> Version:
    """A database that knows what was applied."""
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, version_outside)
    return version_outside


@pytest.fixture
async def known(pool: asyncpg.Pool) -> None:
    """The catalogue of the repository as version 1, without anything outside."""
    version = Version(1, Catalogue.parse(FILE.read_text()).document(), {}, [], "test", datetime.now(UTC))
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, version)


@pytest.fixture
def worker(pool: asyncpg.Pool, gateway: StripeGateway, stripe_api: stripe.StripeClient, clock: BusinessClock) -> Worker:
    steps = ChangeSteps(pool, StripeChanges(stripe_api), clock).all()
    return Worker(pool, gateway, poll_seconds=0.1, steps=steps)


ROUTERS = {
    "invoice": handlers_payment.router,
    "payment_method": handlers_payment.router,
    "subscription.change_requested": handlers_changes.router,
    "subscription.change_withdrawn": handlers_changes.router,
    "usage.corrected": handlers_corrections.router,
    "usage.unbilled": handlers_unbilled.router,
}


@pytest.fixture
async def publish(pool: asyncpg.Pool, clock: BusinessClock) -> AsyncIterator[Callable[[Event], Awaitable[None]]]:
    """Each router starts with the first event for it: to start all four takes longer than most tests."""
    started: dict[KafkaRouter, Callable[[Event], Awaitable[None]]] = {}
    async with AsyncExitStack() as stack:

        async def publish(event: Event) -> None:
            router = ROUTERS.get(event.topic) or ROUTERS.get(event.topic.split(".")[0], handlers.router)
            if router not in started:
                started[router] = await stack.enter_async_context(testing.memory_kafka(router, pool=pool, clock=clock))
            await started[router](event)

        yield publish


def internal_app(pool: asyncpg.Pool, outside: Outside, **more: Any) -> FastAPI:
    """The internal port's routes; nobody is there to be asked for usage."""
    app = FastAPI()
    app.include_router(routes.router)
    app.include_router(routes_catalogue.router)
    app.include_router(routes_corrections.router)
    app.include_router(routes_migrations.router)
    app.include_router(routes_unbilled.router)
    install_errors(app)
    shared = {"pool": pool, "clock": BusinessClock(), "outside": outside, "usage_door": None, "token_keys": KEYS} | more
    for name, value in shared.items():
        setattr(app.state, name, value)
    return app


@pytest.fixture
async def door(pool: asyncpg.Pool, outside: Outside, gateway: StripeGateway, clock: BusinessClock) -> AsyncIterator[httpx.AsyncClient]:
    """The internal port, with a token that has every scope."""
    app = internal_app(pool, outside, clock=clock, seller=Seller(pool, gateway, None))
    token = issue_token(KEYS, caller="test", scopes=["catalogue:read", "catalogue:write", "quotes:read", "checkout:write", "usage:write"])
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://checkout", headers={"authorization": f"Bearer {token}"}) as client:
        yield client


@pytest.fixture
def outbox(pool: asyncpg.Pool) -> Callable[[], Awaitable[list[str]]]:
    async def topics() -> list[str]:
        async with pool.acquire() as connection:
            return await testing.topics_in_outbox(connection)

    return topics
