"""The same form sent several times at once, on connections of their own that really commit."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from billing_common.catalogue import Catalogue
from billing_common.clock import BusinessClock
from billing_common.db import create_pool
from billing_common.events import CatalogueApplied
from billing_common.testing import empty
from delegation_gateway import read_models
from delegation_gateway.app import NAME, install_routes
from delegation_gateway.catalogues import Catalogues
from delegation_gateway.parts import Parts
from delegation_gateway.passwords import Passwords
from delegation_gateway.settings import Settings

TABLES = "accounts, members, sessions, attempts, requests, catalogues, outbox"
FORM = {"first_name": "Ada", "last_name": "Byron", "email": "ada@example.com", "password": "four words make one", "registration_id": "r-1"}
AT_ONCE = 5


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await create_pool(database, schema=NAME, size=AT_ONCE)
    yield pool
    await empty(pool, TABLES)
    await pool.close()


@pytest.fixture
async def client(pool: asyncpg.Pool, settings: Settings, parts: Parts, apim: Any, checkout: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    install_routes(app, FastAPI(), parts.pages)
    app.state.parts = Parts(pool, BusinessClock(), settings, parts.pages, apim, checkout, Passwords(), Catalogues())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://billing.test", headers={"Accept": "text/html"}
    ) as client:
        yield client


async def test_one_registration_sent_five_times_at_once_is_one_account_and_five_sign_ins(
    client: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    answers = await asyncio.gather(*(client.post("/register", data=FORM) for _ in range(AT_ONCE)))
    assert [answer.status_code for answer in answers] == [303] * AT_ONCE
    counts = "select (select count(*) from accounts), (select count(*) from members), (select count(*) from outbox)"
    assert tuple(await pool.fetchrow(counts)) == (1, 1, 1)


async def test_one_address_registered_by_five_people_at_once_goes_to_one_and_leaves_no_empty_account(
    client: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    forms = [FORM | {"registration_id": f"r-{number}"} for number in range(AT_ONCE)]
    answers = await asyncio.gather(*(client.post("/register", data=form) for form in forms))
    assert sorted(answer.status_code for answer in answers) == [303, 422, 422, 422, 422]
    assert await pool.fetchval("select count(*) from accounts") == 1


async def test_one_subscribe_form_sent_five_times_at_once_is_one_request_and_one_payment_page(
    client: httpx.AsyncClient, pool: asyncpg.Pool, catalogue: Catalogue, parts: Parts, checkout: Any
) -> None:
    await read_models.save_catalogue(
        pool, CatalogueApplied(cause_id="a", occurred_at=parts.clock.now(), version=1, document=catalogue.document())
    )
    await client.post("/register", data=FORM)
    page = await client.get("/subscribe/standard", follow_redirects=True)
    form = page.text.split('action="/apim-delegation"')[1].split("</form>")[0]
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form))
    fields = hidden | {"display_name": "Orders", "consent": "yes"}
    answers = await asyncio.gather(*(client.post("/apim-delegation", data=fields) for _ in range(AT_ONCE)))
    assert {(answer.status_code, answer.headers["location"][:28]) for answer in answers} == {(303, "https://checkout.stripe.com/")}
    assert len(set(checkout.requests)) == 1
    assert await pool.fetchval("select count(*) from outbox where topic = 'subscription.requested'") == 1
