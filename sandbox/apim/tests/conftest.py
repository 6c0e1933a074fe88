"""A sandbox in this process on free ports, and the real management client that talks to it."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.credentials import AccessToken
from azure.mgmt.apimanagement.aio import ApiManagementClient

from billing_common.clock import BusinessClock
from sandbox_apim.app import Sandbox, running
from sandbox_apim.settings import Settings

GROUP, SERVICE = "turnpike", "turnpike"
TRUST = ssl.create_default_context()  # made once: loading the authorities costs more than most tests


class StaticCredential:
    async def get_token(self, *_scopes: str, **_kwargs: Any) -> AccessToken:
        return AccessToken("sandbox-arm-token", 4_102_444_800)

    async def close(self) -> None:
        pass


def settings(folder: Path, **changes: Any) -> Settings:
    ports = {"arm_port": 0, "portal_port": 0, "gateway_port": 0}
    return Settings(data_dir=folder, **(ports | changes))


def client_of(sandbox: Sandbox, **options: Any) -> ApiManagementClient:
    return ApiManagementClient(
        StaticCredential(),  # type: ignore[arg-type]
        "00000000-0000-0000-0000-000000000000",
        base_url=sandbox.management_url,
        connection_verify=str(sandbox.certificate.ca_file),
        **({"retry_total": 0} | options),
    )


@pytest.fixture(scope="session")
async def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with running(settings(tmp_path_factory.mktemp("apim")), BusinessClock(offset_allowed=True)) as started:
        yield started


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Iterator[Sandbox]:
    """One sandbox for all tests, which each finds as new; tests of starting and stopping use `start`."""
    store = shared_sandbox.store
    seeded = {path: (entity.properties, entity.secrets, entity.etag) for path, entity in store._entities.items()}
    yield shared_sandbox
    for path in list(store._entities):
        if path not in seeded:
            store.delete(path)
    for path, (properties, secrets, etag) in seeded.items():
        if (entity := store.get(path)) is None or entity.etag != etag:
            store.put(path, properties, secrets)
    for table in ("calls", "quota_counters", "sessions"):
        shared_sandbox.database.execute(f"DELETE FROM {table}")
    shared_sandbox.limits._windows.clear()
    shared_sandbox.limits._periods.clear()
    shared_sandbox.faults.waiting.clear()
    shared_sandbox.clock._offset = timedelta(0)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs a sandbox with other settings; the same folder each time, so a second run finds the first one's data."""

    def begin(clock: BusinessClock | None = None, **changes: Any) -> Any:
        return running(settings(tmp_path, **changes), clock or BusinessClock(offset_allowed=True))

    return begin


@pytest.fixture
def client_for() -> Callable[..., ApiManagementClient]:
    return client_of


@pytest.fixture
def arm_for() -> type["Arm"]:
    return Arm


@pytest.fixture(scope="session")
async def shared_client(shared_sandbox: Sandbox) -> AsyncIterator[ApiManagementClient]:
    async with client_of(shared_sandbox) as client:
        yield client


@pytest.fixture
def arm(sandbox: Sandbox, shared_client: ApiManagementClient) -> "Arm":
    return Arm(shared_client)


@pytest.fixture
async def gateway(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.gateway_url, verify=TRUST) as client:
        yield client


@pytest.fixture
async def portal(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.portal_url, verify=TRUST, headers={"accept": "text/html"}) as client:
        yield client


@pytest.fixture
async def raw_arm(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    base = f"{sandbox.management_url}/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/x"
    context = ssl.create_default_context(cafile=str(sandbox.certificate.ca_file))
    headers = {"authorization": "Bearer sandbox-arm-token"}
    async with httpx.AsyncClient(base_url=base, verify=context, headers=headers, params={"api-version": "2024-05-01"}) as client:
        yield client


class Arm:
    """The real client, with the steps most tests begin with. `at` is resource group and service name."""

    at = (GROUP, SERVICE)

    def __init__(self, client: ApiManagementClient) -> None:
        self.client = client

    async def product(self, name: str = "pro", **properties: Any) -> None:
        given = {"displayName": name.title(), "state": "published", **properties}
        await self.client.product.create_or_update(*self.at, name, {"properties": given})
        await self.client.product_api.create_or_update(*self.at, name, "orders")
        await self.client.product_group.create_or_update(*self.at, name, "developers")

    async def user(self, name: str = "user-1") -> None:
        given = {"email": f"{name}@example.com", "firstName": "Ada", "lastName": "Byron"}
        await self.client.user.create_or_update(*self.at, name, {"properties": given})

    async def subscription(self, name: str = "sub-1", product: str = "pro", **properties: Any) -> str:
        given = {"scope": f"/products/{product}", "displayName": name, "state": "active", **properties}
        await self.client.subscription.create_or_update(*self.at, name, {"properties": given})
        secrets = await self.client.subscription.list_secrets(*self.at, name)
        return str(secrets.primary_key)

    async def logger(self, name: str = "usage", hub: str = "gateway.calls") -> None:
        credentials = {"name": hub, "connectionString": "Endpoint=sb://sandbox/;SharedAccessKeyName=a;SharedAccessKey=b"}
        await self.client.logger.create_or_update(
            *self.at, name, {"properties": {"loggerType": "azureEventHub", "credentials": credentials}}
        )

    async def policy(self, xml: str, product: str = "pro", format: str = "rawxml") -> None:  # noqa: A002 - Azure's name
        await self.client.product_policy.create_or_update(*self.at, product, "policy", {"properties": {"value": xml, "format": format}})
