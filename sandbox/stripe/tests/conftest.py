"""A sandbox on a free port, and the real SDK talking to it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
import structlog
import uvicorn

from sandbox_stripe.app import build
from sandbox_stripe.service import Sandbox, open_sandbox
from sandbox_stripe.settings import Settings
from turnpike_ui.testing import compiled_once

CARD = {"number": "4242 4242 4242 4242", "expiry": "12 / 34", "cvc": "123", "name": "A Buyer"}
KEY = "sk_test_turnpike_sandbox"
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(30),
)
RECORDED: list[tuple[str, str, int, dict[str, Any]]] = []  # every API answer of the run: method, path, status, body


class Recorder(httpx.AsyncHTTPTransport):
    """Keeps every answer, so that the contract test can look at all of them."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        body = await response.aread()
        if request.url.path.startswith(("/v1/", "/v2/")):
            RECORDED.append((request.method.lower(), request.url.path, response.status_code, json.loads(body)))
        return response


@dataclass
class Running:
    """A sandbox that is up, an SDK client, and a plain client for doors and pages."""

    sandbox: Sandbox
    base: str
    client: stripe.StripeClient
    http: httpx.AsyncClient
    created: dict[str, Any] = field(default_factory=dict)

    async def settle(self) -> None:
        """Wait until nothing is due and every webhook is answered."""
        for _ in range(500):
            if (await self.http.get("/_sandbox/status")).json()["settled"]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError((await self.http.get("/_sandbox/status")).json())

    async def move_to(self, moment: int) -> None:
        """Walk the business clock from one due transition to the next, as `turnpike clock advance` does."""
        while True:
            await self.settle()
            found = self.sandbox.world.store.next_transition()
            target = min(moment, found[2]) if found else moment
            offset = target - int(self.sandbox.world.wall()) + (0 if target == moment else 1)
            if offset > self.sandbox.world.offset():
                assert (await self.http.put("/_sandbox/clock", json={"offset_seconds": offset})).status_code == 200
            await self.settle()
            if target == moment:
                return

    async def make_catalogue(self) -> dict[str, Any]:
        meter = await self.client.v1.billing.meters.create_async(
            {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
        )
        product = await self.client.v1.products.create_async({"name": "Standard", "metadata": {"turnpike_product_id": "standard"}})
        base = await self.client.v1.prices.create_async(
            {"currency": "usd", "product": product.id, "unit_amount": 8995, "recurring": {"interval": "month"}, "lookup_key": "base"}
        )
        usage = await self.client.v1.prices.create_async({
            "currency": "usd", "product": product.id, "billing_scheme": "tiered", "tiers_mode": "graduated", "nickname": "Calls",
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "tiers": [{"up_to": 100000, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": "0.1"}],
        })  # fmt: skip
        return {"meter": meter, "product": product, "base": base, "usage": usage}

    async def check_out(self, lines: list[dict[str, Any]], **more: Any) -> Any:
        session = await self.client.v1.checkout.sessions.create_async({
            "mode": "subscription", "line_items": lines, "success_url": "http://127.0.0.1:9/ok?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://127.0.0.1:9/no", "customer_email": "buyer@example.com", **more,
        })  # fmt: skip
        page = await self.http.get(session.url)
        assert page.status_code == 200, page.text
        paid = await self.http.post(session.url, data={**CARD, "email": "buyer@example.com"})
        assert paid.status_code == 303, paid.text
        assert session.id in paid.headers["location"]
        return await self.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["line_items", "subscription.latest_invoice"]})


@asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[Running]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sandbox = open_sandbox(Settings(data_path=path, **settings), base)
        server = uvicorn.Server(uvicorn.Config(build(sandbox), log_level="warning", lifespan="on", timeout_graceful_shutdown=1))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[listener])  # without its main loop, whose ticks would cost every test 0.2 s
        transport = stripe.HTTPXClient(timeout=10, verify_ssl_certs=False)  # to load the authorities takes longer than most tests
        transport._client_async._transport = Recorder(verify=False)
        client = stripe.StripeClient(KEY, base_addresses={"api": base, "meter_events": base}, http_client=transport)
        async with httpx.AsyncClient(base_url=base, headers={"Accept": "text/html"}, verify=False) as http:
            yield Running(sandbox, base, client, http)
        await transport.close_async()
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await server.lifespan.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _templates() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "stripe.sqlite3") as found:
        yield found


@pytest.fixture
def run() -> Any:
    """The context manager itself, for tests that start a sandbox twice or with settings."""
    return running


@pytest.fixture
def card() -> dict[str, str]:
    return dict(CARD)


@pytest.fixture
def recorded() -> list[tuple[str, str, int, dict[str, Any]]]:
    return RECORDED
