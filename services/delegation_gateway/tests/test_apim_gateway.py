"""The gateway to API Management and the whole service, against the sandbox that the real SDK talks to."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from azure.mgmt.apimanagement.models import ProductContract, SubscriptionCreateParameters

from billing_common.apim_client import create_client
from billing_common.clock import BusinessClock
from billing_common.testing import drop_database, make_schema
from delegation_gateway.apim_gateway import ApimGateway, ApimUnavailableError, UserRefusedError, sign_in_address
from delegation_gateway.app import MIGRATIONS, NAME, create_service
from delegation_gateway.settings import Settings
from delegation_gateway.signature import read_link
from sandbox_apim.app import Sandbox, running
from sandbox_apim.settings import Settings as SandboxSettings

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
PLACE = ("turnpike", "turnpike")
ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Byron"}


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(data_dir=tmp_path, arm_port=0, portal_port=0, gateway_port=0)
    async with running(settings, BusinessClock(offset_allowed=True)) as started:
        yield started


def settings_for(sandbox: Sandbox, database_url: str = "postgresql://unused") -> Settings:
    return Settings(
        database_url=database_url,
        kafka_bootstrap_servers="127.0.0.1:1",  # nobody listens: events wait in the outbox
        internal_token_keys="k" * 32,
        delegation_keys=KEY,
        configure_delegation=True,
        public_url="http://billing.test",
        portal_url=sandbox.portal_url,
        checkout_url="http://checkout.test",
        apim_base_url=sandbox.management_url,
        apim_subscription_id="00000000-0000-0000-0000-000000000000",
        apim_resource_group=PLACE[0],
        apim_service_name=PLACE[1],
        apim_ca_file=sandbox.certificate.ca_file,
        apim_static_token="sandbox-arm-token",
    )


@pytest.fixture
async def gateway(sandbox: Sandbox) -> AsyncIterator[ApimGateway]:
    settings = settings_for(sandbox)
    async with create_client(settings) as client:
        yield ApimGateway(client, settings)


async def test_a_user_made_twice_is_one_user_and_the_token_signs_it_into_the_portal(gateway: ApimGateway, sandbox: Sandbox) -> None:
    await gateway.ensure_user("u-1", **ADA)
    await gateway.ensure_user("u-1", **ADA)
    token = await gateway.sign_in_token("u-1", expires_at=datetime.now(UTC) + timedelta(minutes=5))
    async with httpx.AsyncClient(headers={"Accept": "text/html"}, follow_redirects=True) as portal:
        page = await portal.get(sign_in_address(sandbox.portal_url, token, "/profile"))
    assert page.status_code == 200
    assert "ada@example.com" in page.text


async def test_an_address_that_another_user_has_is_refused(gateway: ApimGateway) -> None:
    await gateway.ensure_user("u-1", **ADA)
    with pytest.raises(UserRefusedError):
        await gateway.ensure_user("u-2", **ADA)


async def test_keys_are_those_that_api_management_holds(gateway: ApimGateway, sandbox: Sandbox) -> None:
    await gateway.ensure_user("u-1", **ADA)
    async with create_client(settings_for(sandbox)) as client:
        await client.product.create_or_update(*PLACE, "payg", ProductContract(display_name="Pay as you go", state="published"))
        parameters = SubscriptionCreateParameters(
            scope="/products/payg", display_name="Orders", owner_id="/users/u-1", primary_key="one", secondary_key="two", state="active"
        )
        await client.subscription.create_or_update(*PLACE, "s-1", parameters)
    assert await gateway.keys("s-1") == ("one", "two")
    with pytest.raises(ApimUnavailableError):
        await gateway.keys("s-2")


def test_a_way_back_to_another_site_becomes_the_start_page() -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "/\r\n/evil.example", ""):
        assert sign_in_address("http://portal", "t&1&x==", target) == "http://portal/signin-sso?token=t%261%26x%3D%3D&returnUrl=%2F"


async def test_one_value_of_a_key_is_replaced_and_the_other_stays(gateway: ApimGateway) -> None:
    client = gateway._client
    await client.product.create_or_update(*PLACE, "pro", ProductContract(display_name="Pro", subscription_required=True))
    wanted = SubscriptionCreateParameters(
        scope="/products/pro", display_name="Mine", state="active", primary_key="one", secondary_key="two"
    )
    await client.subscription.create_or_update(*PLACE, "s-1_2", wanted)
    await gateway.regenerate("s-1_2", "primary")
    primary, secondary = await gateway.keys("s-1_2")
    assert (primary != "one", len(primary) > 10, secondary) == (True, True, "two")
    await gateway.regenerate("s-1_2", "secondary")
    assert (await gateway.keys("s-1_2"))[0] == primary
    assert (await gateway.keys("s-1_2"))[1] != "two"
    with pytest.raises(ApimUnavailableError):
        await gateway.regenerate("nobody", "primary")


async def test_the_service_sets_delegation_and_a_sign_up_in_the_portal_comes_back_signed_in(sandbox: Sandbox, postgres_dsn: str) -> None:
    database = await make_schema(postgres_dsn, NAME, MIGRATIONS)
    service = create_service(settings_for(sandbox, database))
    try:
        async with (
            service.running(),
            httpx.AsyncClient(headers={"Accept": "text/html"}, base_url=sandbox.portal_url) as portal,
            httpx.AsyncClient(
                headers={"Accept": "text/html"}, base_url="http://billing.test", transport=httpx.ASGITransport(service.public)
            ) as ours,
        ):
            link = await delegation_link(portal, "/signup")
            assert read_link([KEY], parse_qsl(urlsplit(link).query)).operation == "SignUp"
            assert (await ours.get(link)).status_code == 200
            form = {**ADA, "password": "four words make one", "registration_id": "r-1", "return_url": "/"}
            answer = await ours.post("/register", data=form)
            await portal.get(answer.headers["location"], follow_redirects=True)
            assert "ada@example.com" in (await portal.get("/profile")).text
            assert (await ours.get("/subscriptions")).status_code == 200
    finally:
        await drop_database(postgres_dsn, database)


async def delegation_link(portal: httpx.AsyncClient, path: str) -> str:
    """Follow the portal until it leads to our door; the service writes the settings in the background."""
    async with asyncio.timeout(60):
        while True:
            answer = await portal.get(path)
            if "billing.test/apim-delegation" in answer.headers.get("location", ""):
                return str(answer.headers["location"])
            await asyncio.sleep(0.05)
