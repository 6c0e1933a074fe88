"""Checkout sessions, portal sessions and intended calls against the sandbox of Stripe."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import stripe

from checkout.intents import Worker, intend
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeGateway, StripeUnavailableError

from .conftest import FILE


def wish(product: str = "standard", **fields: Any) -> dict[str, Any]:
    account = fields.pop("account_id", f"a-{uuid4().hex[:8]}")
    return {
        "subscription_id": f"s-{uuid4()}",
        "account_id": account,
        "user_id": "u-1",
        "product_id": product,
        "display_name": "Weather",
        "success_url": "http://localhost:8000/done",
        "cancel_url": "http://localhost:8000/pricing",
        **fields,
    }


async def ask(door: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    return (await door.post("/v1/checkout-sessions", json=body)).json()


async def test_a_session_sells_base_and_usage_with_the_metadata_on_the_subscription(
    applied: Version, door: httpx.AsyncClient, stripe_api: stripe.StripeClient, pool: asyncpg.Pool
) -> None:
    body = wish()
    opened = await ask(door, body)
    session = await stripe_api.v1.checkout.sessions.retrieve_async(opened["session_id"], {"expand": ["line_items"]})
    assert session.line_items is not None
    assert [(item.price.lookup_key or "").split(":")[2] for item in session.line_items.data if item.price] == ["base", "usage"]
    customer = await stripe_api.v1.customers.retrieve_async(str(session.customer))
    assert customer.metadata is not None
    assert customer.metadata.to_dict() == {"turnpike_account_id": body["account_id"]}
    assert await pool.fetchval("select stripe_customer_id from account where account_id = $1", body["account_id"]) == customer.id


async def test_asking_twice_at_once_gives_one_session(applied: Version, door: httpx.AsyncClient) -> None:
    body = wish()
    first, second = await asyncio.gather(ask(door, body), ask(door, body))
    assert first["session_id"] == second["session_id"]
    assert (await ask(door, body))["url"] == first["url"]


async def test_another_request_for_the_same_product_ends_the_session_before(
    applied: Version, door: httpx.AsyncClient, stripe_api: stripe.StripeClient, worker: Worker
) -> None:
    body = wish()
    first = await ask(door, body)
    second = await ask(door, body | {"subscription_id": f"s-{uuid4()}"})
    assert second["session_id"] != first["session_id"]
    await worker.drain()
    assert (await stripe_api.v1.checkout.sessions.retrieve_async(first["session_id"])).status == "expired"


async def test_a_session_being_opened_holds_the_next_back_for_a_minute_only(
    applied: Version, door: httpx.AsyncClient, gateway: StripeGateway, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object, **__: object) -> None:
        raise StripeUnavailableError("ReadTimeout")

    body = wish()
    with monkeypatch.context() as outage:
        outage.setattr(gateway, "create_session", down)
        assert (await door.post("/v1/checkout-sessions", json=body)).status_code == 503
    another = body | {"subscription_id": f"s-{uuid4()}"}
    assert (await ask(door, another))["error"]["code"] == "checkout_in_progress"
    await pool.execute("update checkout_session set created_at = now() - interval '2 minutes'")
    assert "url" in await ask(door, another)


REFUSALS = [
    ({"product_id": "standart"}, 404, "unknown_product"),
    ({"product_id": "free"}, 409, "free_product"),
    ({"currency": "eur"}, 422, "unknown_currency"),
]


@pytest.mark.parametrize(("change", "status", "code"), REFUSALS)
async def test_what_cannot_be_sold_is_refused(
    applied: Version, door: httpx.AsyncClient, change: dict[str, str], status: int, code: str
) -> None:
    answer = await door.post("/v1/checkout-sessions", json=wish() | change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_second_live_subscription_and_a_foreign_user_are_refused(
    applied: Version, door: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    body = wish()
    await ask(door, body)
    await pool.execute("insert into account_member values ($1, 'u-1')", body["account_id"])
    assert (await ask(door, body | {"user_id": "u-2"}))["error"]["code"] == "wrong_user"
    await pool.execute("update subscription set state = 'live' where subscription_id = $1", body["subscription_id"])
    assert (await ask(door, body | {"subscription_id": "s-other"}))["error"]["code"] == "already_subscribed"
    assert (await ask(door, body))["error"]["code"] == "already_subscribed"


async def test_a_subscription_id_cannot_be_used_for_another_account(applied: Version, door: httpx.AsyncClient) -> None:
    body = wish()
    await ask(door, body)
    assert (await ask(door, body | {"account_id": "a-other"}))["error"]["code"] == "subscription_mismatch"


async def test_the_portal_opens_for_customers_only(applied: Version, door: httpx.AsyncClient) -> None:
    body = wish()
    portal = {"account_id": body["account_id"], "return_url": "http://localhost:8000/"}
    assert (await door.post("/v1/billing-portal-sessions", json=portal)).status_code == 404
    await ask(door, body)
    assert (await door.post("/v1/billing-portal-sessions", json=portal)).json()["url"].startswith("http")


async def new_subscription(api: stripe.StripeClient, product: str) -> tuple[str, str]:
    customer = await api.v1.customers.create_async({})
    method = await api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    await api.v1.customers.update_async(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    prices = await api.v1.prices.list_async({"product": f"turnpike_{product}", "active": True})
    items: Any = [{"price": price.id} for price in prices.data]
    params: Any = {"customer": customer.id, "items": items, "billing_mode": {"type": "flexible"}}
    return customer.id, (await api.v1.subscriptions.create_async(params)).id


async def test_intended_calls_reach_stripe_in_order(
    applied: Version, pool: asyncpg.Pool, worker: Worker, stripe_api: stripe.StripeClient
) -> None:
    customer, subscription = await new_subscription(stripe_api, "enterprise")
    item = {"customer": customer, "subscription": subscription, "currency": "usd", "amount": 74_995, "description": "at least 1"}
    async with pool.acquire() as connection:
        await intend(connection, "invoice_item", key="a", cause="one", parameters={"item": item})
        await intend(connection, "cancel_now", key="a", cause="two", parameters={"subscription": subscription})
        await intend(connection, "cancel_now", key="a", cause="two", parameters={"subscription": subscription})
    while await worker.drain():
        pass
    assert [row["state"] for row in await pool.fetch("select state from intent order by id")] == ["done", "done"]
    assert (await stripe_api.v1.subscriptions.retrieve_async(subscription)).status == "canceled"
    invoices = await stripe_api.v1.invoices.list_async({"subscription": subscription})
    assert invoices.data[0].total == 74_995


async def test_an_outage_postpones_a_call_and_a_refusal_ends_it(
    applied: Version, pool: asyncpg.Pool, worker: Worker, gateway: StripeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object, **__: object) -> None:
        raise StripeUnavailableError("HTTP 500", replayed=True)

    async with pool.acquire() as connection:
        await intend(connection, "cancel_now", key="a", cause="x", parameters={"subscription": "sub_unknown"})
    with monkeypatch.context() as outage:
        outage.setattr(gateway, "cancel_now", down)
        await worker.drain()
    assert tuple(await pool.fetchrow("select state, attempts, generation from intent")) == ("pending", 1, 1)
    await pool.execute("update intent set due_at = now()")
    await worker.drain()
    row = await pool.fetchrow("select state, error from intent")
    assert row["state"] == "refused"
    assert row["error"].startswith("resource_missing")


async def test_a_sale_begun_at_a_price_that_is_no_longer_sold_is_refused_with_a_reason_unless_its_session_is_open(
    applied: Version, door: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    text = FILE.read_text()
    dearer = text.replace('"89.95"', '"99.95"')
    begun = wish(catalogue_version=1)
    first = await ask(door, begun)
    assert (await door.post("/v1/catalogue/apply", content=dearer)).json()["version"] == 2
    assert (await ask(door, begun))["url"] == first["url"]  # Stripe keeps the price of an open session
    await pool.execute("update checkout_session set status = 'expired'")
    late = [await door.post("/v1/checkout-sessions", json=body) for body in (begun, wish(catalogue_version=1))]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in late] == [(409, "price_changed")] * 2
    assert "url" in await ask(door, wish("payg", catalogue_version=1))  # whose price is what it was
    assert "url" in await ask(door, wish(catalogue_version=2))
    assert (await door.post("/v1/catalogue/apply", content=text)).json()["version"] == 3
    assert "url" in await ask(door, wish(catalogue_version=1))  # back at the old price, under its old id
