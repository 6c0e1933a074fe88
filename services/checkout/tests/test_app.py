"""The service as it is started: its doors, its worker and its status."""

import asyncio

import httpx
import pytest
import stripe

from billing_common.internal_auth import issue_token
from checkout.app import create_service
from checkout.intents import intend
from checkout.settings import Settings
from checkout.store_catalogue import Version


@pytest.mark.filterwarnings("ignore:Unable connect")
async def test_a_running_service_makes_intended_calls_and_says_what_it_waits_for(
    applied: Version, settings: Settings, stripe_api: stripe.StripeClient
) -> None:
    service = create_service(settings)
    token = issue_token(settings.token_keys, caller="test", scopes=["status:read", "quotes:read"])
    transport = httpx.ASGITransport(app=service.internal)
    headers = {"authorization": f"Bearer {token}"}
    customer = await stripe_api.v1.customers.create_async({})
    method = await stripe_api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://checkout", headers=headers) as door:
        quote = await door.post("/v1/quotes", json={"product": "payg", "calls": 100})
        assert quote.json()["total_minor"] == 15
        async with service.pool.acquire() as connection:
            parameters = {"customer": customer.id, "payment_method": method.id}
            await intend(connection, "set_default_payment_method", key="a", cause="c", parameters=parameters)
        for _ in range(100):
            if await service.pool.fetchval("select state from intent") == "done":
                break
            await asyncio.sleep(0.05)
        found = await stripe_api.v1.customers.retrieve_async(customer.id)
        assert found.invoice_settings is not None
        assert found.invoice_settings.default_payment_method == method.id
        async with service.pool.acquire() as connection:
            await connection.execute("update intent set state = 'pending', due_at = now() + interval '1 hour'")
        assert "1 calls to Stripe" in (await service.status())["waiting_for"]
