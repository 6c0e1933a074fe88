"""A real Postgres, and a Stripe of a few lines that the real SDK talks to over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import asyncpg
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from billing_common import testing
from billing_common.db import create_pool
from webhook_ingress.app import MIGRATIONS, NAME
from webhook_ingress.settings import Settings

TABLES = "webhook_event, stripe_object, stripe_subscription, outbox"


@pytest.fixture(scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    dsn = await testing.make_schema(postgres_dsn, NAME, MIGRATIONS)
    yield dsn
    await testing.drop_database(postgres_dsn, dsn)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Leases and the worker's own transactions need real commits, so tables are emptied instead of rolled back."""
    pool = await create_pool(database, schema=NAME)
    await testing.empty(pool, TABLES)
    yield pool
    await pool.close()


class StripeStandIn:
    """Objects by path, events by age, and what was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.failures: list[int] = []
        self.list_failures: list[int] = []
        self.held: asyncio.Event | None = None
        self.base = ""

    def put(self, path: str, body: dict[str, Any]) -> None:
        self.objects[f"/v1/{path}/{body['id']}"] = body


def _stripe_app(stripe: StripeStandIn) -> FastAPI:
    app = FastAPI()

    @app.get("/{path:path}")
    async def get(request: Request, path: str) -> JSONResponse:
        stripe.asked.append(f"/{path}")
        if stripe.held is not None:
            await stripe.held.wait()
        failures = stripe.list_failures if path == "v1/events" else stripe.failures
        if failures:
            problem = {"error": {"type": "api_error", "message": "later"}}
            return JSONResponse(problem, failures.pop(0), {"Stripe-Should-Retry": "false"})
        if path == "v1/events":
            low, high = (int(request.query_params[f"created[{bound}]"]) for bound in ("gte", "lte"))
            undelivered = request.query_params.get("delivery_success") == "false"
            found = [e for e in stripe.events if low <= e["created"] <= high and (not undelivered or e["pending_webhooks"])]
            return JSONResponse({"object": "list", "url": "/v1/events", "has_more": False, "data": found})
        if (body := stripe.objects.get(f"/{path}")) is None:
            return JSONResponse({"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "no such"}}, 404)
        return JSONResponse(json.loads(json.dumps(body)))

    return app


@pytest.fixture
async def stripe() -> AsyncIterator[StripeStandIn]:
    stand_in = StripeStandIn()
    async with testing.served(_stripe_app(stand_in)) as stand_in.base:
        yield stand_in


class Samples:
    """Stripe's objects, as far as they are read."""

    metadata: ClassVar[dict[str, str]] = {
        "turnpike_subscription_id": "s-1",
        "turnpike_account_id": "a-1",
        "turnpike_user_id": "u-1",
        "turnpike_product_id": "standard",
        "turnpike_catalogue_version": "3",
        "turnpike_display_name": "Weather",
    }

    def subscription(self, status: str = "active", **changes: Any) -> dict[str, Any]:
        price = {"object": "price", "id": "price_1", "lookup_key": "turnpike:standard:base:usd:1", "recurring": {"usage_type": "licensed"}}
        metered = {"object": "price", "id": "price_2", "lookup_key": None, "recurring": {"usage_type": "metered"}}
        period = {"current_period_start": 1764547200, "current_period_end": 1767225600, "object": "subscription_item"}
        items = [{"id": "si_1", "price": price, "quantity": 2, **period}, {"id": "si_2", "price": metered, **period}]
        return {
            "id": "sub_1",
            "object": "subscription",
            "status": status,
            "customer": "cus_1",
            "currency": "usd",
            "start_date": 1764547200,
            "cancel_at_period_end": False,
            "latest_invoice": "in_1",
            "metadata": self.metadata,
            "items": {"object": "list", "data": items, "has_more": False, "url": "/v1/subscription_items"},
            **changes,
        }

    def invoice(self, status: str = "open", **changes: Any) -> dict[str, Any]:
        line = {
            "id": "il_1",
            "object": "line_item",
            "description": "calls",
            "amount": 1852,
            "quantity": 12345,
            "period": {"start": 1764547200, "end": 1767225600},
            "pricing": {"type": "price_details", "unit_amount_decimal": "0.15", "price_details": {"price": "price_2", "product": "p"}},
            "parent": {"type": "subscription_item_details", "subscription_item_details": {"proration": False, "subscription_item": "si_2"}},
        }
        details = {"subscription": "sub_1", "metadata": self.metadata}
        return {
            "id": "in_1",
            "object": "invoice",
            "status": status,
            "customer": "cus_1",
            "currency": "usd",
            "total": 1852,
            "amount_due": 1852,
            "amount_paid": 0,
            "amount_remaining": 1852,
            "attempt_count": 1,
            "period_start": 1764547200,
            "period_end": 1767225600,
            "created": 1767225600,
            "billing_reason": "subscription_cycle",
            "parent": {"type": "subscription_details", "subscription_details": details},
            "lines": {"object": "list", "data": [line], "has_more": False, "url": "/v1/invoices/in_1/lines"},
            **changes,
        }

    def customer(self, method: str | None = "pm_1", **changes: Any) -> dict[str, Any]:
        card = {"id": method, "object": "payment_method", "card": {"last4": "4242"}}
        return {
            "id": "cus_1",
            "object": "customer",
            "metadata": {"turnpike_account_id": "a-1"},
            "invoice_settings": {"default_payment_method": card if method else None},
            **changes,
        }

    def session(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": "cs_1",
            "object": "checkout.session",
            "payment_status": "paid",
            "metadata": {},
            "subscription": self.subscription(),
            "customer": self.customer(),
            **changes,
        }

    def event(self, number: int, kind: str, subject: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {
            "id": f"evt_{number}",
            "object": "event",
            "type": kind,
            "created": 1767225600 + number,
            "pending_webhooks": 0,
            "data": {"object": subject},
            **changes,
        }


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def settings(database: str, stripe: StripeStandIn) -> Settings:
    return Settings(
        database_url=SecretStr(database),
        kafka_bootstrap_servers="127.0.0.1:1",  # nobody listens: events wait in the outbox, where the tests read them
        internal_token_keys=SecretStr("k" * 32),
        stripe_api_key=SecretStr("sk_test_made_up"),
        stripe_api_base=stripe.base,
        stripe_webhook_secrets=SecretStr("whsec_old, whsec_new"),
    )
