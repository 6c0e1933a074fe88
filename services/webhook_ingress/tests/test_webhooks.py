"""Webhooks go in through HTTP with real signatures; rows and outgoing events are read back from Postgres."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import stripe as stripe_sdk

from billing_common import testing
from billing_common.events import CheckoutExpired, InvoicePaid, PaymentMethodChanged, SubscriptionCreated, SubscriptionUpdated
from billing_common.internal_auth import InternalAuth
from billing_common.service import Service
from webhook_ingress import store
from webhook_ingress.app import create_service
from webhook_ingress.settings import Settings

Post = Callable[[dict[str, Any]], Awaitable[httpx.Response]]


@pytest.fixture
async def service(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Service]:
    service = create_service(settings)
    async with service.running():
        yield service


@pytest.fixture
async def post(service: Service) -> AsyncIterator[Post]:
    assert service.public is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.public), base_url="http://ingress") as client:

        async def send(event: dict[str, Any]) -> httpx.Response:
            body = json.dumps(event, indent=2)
            signature = stripe_sdk.WebhookSignature.generate_signature_header(body, "whsec_new")
            return await client.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})

        yield send


async def settled(service: Service, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while (left := await service.context["worker"].unfinished()) is not None:
        assert time.monotonic() < end, left
        await asyncio.sleep(0.005)


async def outcomes(pool: asyncpg.Pool) -> dict[str, str]:
    return {row["id"]: row["outcome"] for row in await pool.fetch("select id, outcome from webhook_event")}


async def test_a_subscription_created_at_stripe_becomes_an_event_fast(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    stripe.put("subscriptions", samples.subscription())
    started = time.monotonic()
    answer = await post(samples.event(1, "customer.subscription.created", samples.subscription("incomplete")))
    answered = time.monotonic() - started
    await settled(service)
    assert answer.status_code == 200
    (event,) = await testing.events_in_outbox(pool, SubscriptionCreated)
    assert (event.revision, event.status, event.cause_id, event.key) == (1, "active", "evt_1", "s-1")
    assert (answered < 0.5, time.monotonic() - started < 1) == (True, True)


async def test_a_webhook_delivered_twice_is_published_once(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    stripe.put("subscriptions", samples.subscription())
    event = samples.event(1, "customer.subscription.created", samples.subscription())
    assert [(await post(event)).status_code for _ in range(2)] == [200, 200]
    await settled(service)
    assert (await post(event)).status_code == 200
    await settled(service)
    assert await testing.topics_in_outbox(pool) == ["subscription.created"]


async def test_a_burst_of_one_object_is_fetched_together_and_each_topic_gets_its_own_revision(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    stripe.put("subscriptions", samples.subscription("past_due"))
    stripe.held = asyncio.Event()
    await post(samples.event(1, "customer.subscription.created", samples.subscription()))
    while "/v1/subscriptions/sub_1" not in stripe.asked:
        await asyncio.sleep(0.005)
    for number in (4, 2, 3):  # out of order, while the first is being fetched
        kind = "customer.subscription.deleted" if number == 3 else "customer.subscription.updated"
        await post(samples.event(number, kind, samples.subscription()))
    stripe.held.set()
    await settled(service)
    assert stripe.asked.count("/v1/subscriptions/sub_1") == 2
    rows = [json.loads(row["value"]) for row in await pool.fetch("select value from outbox order by id")]
    assert [row["revision"] for row in rows] == [1, 2, 3]
    assert await testing.topics_in_outbox(pool) == ["subscription.created", "subscription.updated", "subscription.deleted"]
    assert (await testing.events_in_outbox(pool, SubscriptionUpdated))[0].cause_id == "evt_4"


async def test_unknown_types_and_foreign_objects_are_kept_and_acknowledged(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    stripe.put("subscriptions", samples.subscription(metadata={}))
    await post(samples.event(1, "charge.refunded", {"id": "ch_1"}))
    await post(samples.event(2, "customer.subscription.created", samples.subscription(metadata={})))
    await post(samples.event(3, "invoice.paid", {"id": "in_that_is_gone"}))
    await settled(service)
    assert await outcomes(pool) == {"evt_1": "kept", "evt_2": "ignored", "evt_3": "gone"}
    assert await testing.topics_in_outbox(pool) == []


@pytest.mark.parametrize("failures", [[500], [429, 429], [401]])
async def test_an_outage_of_stripe_loses_nothing(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any, failures: list[int]
) -> None:
    stripe.put("subscriptions", samples.subscription())
    stripe.failures = list(failures)
    await post(samples.event(1, "customer.subscription.created", samples.subscription()))
    async with asyncio.timeout(60):
        while not (left := await store.backlog(pool)).failing:
            await asyncio.sleep(0.005)
    assert (left.events, left.last_error[:8]) == (1, f"HTTP {failures[0]}")
    await settled(service)
    assert await testing.topics_in_outbox(pool) == ["subscription.created"]


async def test_an_invoice_without_metadata_is_found_by_its_subscription(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    bare = samples.invoice(
        "paid", parent={"type": "subscription_details", "subscription_details": {"subscription": "sub_1", "metadata": None}}
    )
    stripe.put("subscriptions", samples.subscription())
    stripe.put("invoices", bare)
    await post(samples.event(1, "invoice.paid", bare))
    await settled(service)
    await post(samples.event(2, "customer.subscription.updated", samples.subscription()))
    await settled(service)
    await post(samples.event(3, "invoice.paid", bare))
    await settled(service)
    assert stripe.asked.count("/v1/subscriptions/sub_1") == 2  # for the first invoice and for its own webhook; then remembered
    assert [event.key for event in await testing.events_in_outbox(pool, InvoicePaid)] == ["s-1", "s-1"]


async def test_a_changed_card_is_told_and_a_changed_address_is_not(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    stripe.put("customers", samples.customer())
    for number, kind in enumerate(["payment_method.attached", "customer.updated"]):
        subject = {"id": "pm_1", "customer": "cus_1"} if number == 0 else samples.customer()
        await post(samples.event(number, kind, subject))
        await settled(service)
    stripe.put("customers", samples.customer("pm_2"))
    await post(samples.event(9, "customer.updated", samples.customer("pm_2")))
    await settled(service)
    told = await testing.events_in_outbox(pool, PaymentMethodChanged)
    assert [(event.revision, event.default_payment_method_id) for event in told] == [(1, "pm_1"), (2, "pm_2")]


async def test_an_expired_session_names_the_subscription_it_was_for(
    service: Service, post: Post, pool: asyncpg.Pool, stripe: Any, samples: Any
) -> None:
    session = samples.session(subscription=None, payment_status="unpaid", client_reference_id="s-1")
    stripe.put("checkout/sessions", session)
    await post(samples.event(1, "checkout.session.expired", session))
    await settled(service)
    (event,) = await testing.events_in_outbox(pool, CheckoutExpired)
    assert (event.key, event.account_id, event.session_id, event.payment_status) == ("s-1", "a-1", "cs_1", "unpaid")


async def test_lost_webhooks_are_found_at_stripe(service: Service, pool: asyncpg.Pool, stripe: Any, samples: Any) -> None:
    now = int(time.time())
    stripe.put("subscriptions", samples.subscription())
    stripe.events = [
        samples.event(1, "customer.subscription.created", samples.subscription(), created=now - 20 * 86400),
        samples.event(2, "customer.subscription.updated", samples.subscription(), created=now - 60),
    ]
    headers = InternalAuth(["k" * 32], caller="test", scopes=["webhooks:write"]).headers()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.internal), base_url="http://ingress") as client:
        assert (await client.post("/v1/recover")).status_code == 401
        assert (await client.post("/v1/recover", headers=headers)).status_code == 200  # the round at the start may have been first
        assert set(await outcomes(pool)) == {"evt_1", "evt_2"}
        assert (await client.post("/v1/recover", headers=headers)).json() == {"missing": 0}
        undelivered = samples.event(3, "customer.subscription.deleted", samples.subscription(), created=now - 9 * 86400, pending_webhooks=1)
        stripe.events.append(undelivered)
        assert (await client.post("/v1/recover", headers=headers)).json() == {"missing": 1}
        stripe.list_failures = [503] * 9  # the round at the start may take some
        assert (await client.post("/v1/recover", headers=headers)).status_code == 502
        stripe.list_failures = []
    await settled(service)
    assert sorted(await testing.topics_in_outbox(pool)) == ["subscription.created", "subscription.deleted", "subscription.updated"]


async def test_a_bad_signature_or_body_is_refused_and_nothing_is_stored(service: Service, pool: asyncpg.Pool) -> None:
    assert service.public is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.public), base_url="http://ingress") as client:
        forged = await client.post("/webhooks/stripe", content=b"{}", headers={"Stripe-Signature": "t=1,v1=00"})
        huge = await client.post("/webhooks/stripe", content=b"x" * (1024 * 1024 + 1))
        signature = stripe_sdk.WebhookSignature.generate_signature_header("[]", "whsec_old")
        not_an_event = await client.post("/webhooks/stripe", content=b"[]", headers={"Stripe-Signature": signature})
    assert [answer.status_code for answer in (forged, huge, not_an_event)] == [400, 413, 400]
    assert "WEBHOOK_INGRESS_STRIPE_WEBHOOK_SECRETS" in forged.json()["detail"]
    assert await outcomes(pool) == {}


async def test_two_replicas_never_hold_one_object_and_a_lost_lease_writes_nothing(pool: asyncpg.Pool, samples: Any) -> None:
    from webhook_ingress.domain import read_event

    event = read_event(json.dumps(samples.event(1, "invoice.paid", samples.invoice())).encode())
    assert await store.receive(pool, event, source="webhook")
    first, second = uuid4(), uuid4()
    (work,) = await store.claim_objects(pool, first, limit=5)
    assert await store.claim_objects(pool, second, limit=5) == []
    await pool.execute("update stripe_object set leased_until = now() - interval '1 second'")  # the first one hangs
    assert await store.claim_objects(pool, second, limit=5) == [work]
    async with pool.acquire() as connection, connection.transaction():
        assert await store.lock_object(connection, work, first) is None
        assert await store.lock_object(connection, work, second) is not None


async def test_an_event_that_comes_while_its_object_is_finished_is_not_forgotten(pool: asyncpg.Pool, samples: Any) -> None:
    from webhook_ingress.domain import read_event

    def event(number: int) -> Any:
        return read_event(json.dumps(samples.event(number, "invoice.paid", samples.invoice())).encode())

    await store.receive(pool, event(1), source="webhook")
    lease = uuid4()
    (work,) = await store.claim_objects(pool, lease, limit=5)
    async with pool.acquire() as connection, connection.transaction():
        state = await store.lock_object(connection, work, lease)
        assert state is not None
        late = asyncio.create_task(store.receive(pool, event(2), source="webhook"))
        await asyncio.sleep(0.05)
        await store.finish(connection, work, state, ["evt_1"], outcome="published", owner=None)
    assert await late
    assert await store.claim_objects(pool, lease, limit=5) == [work]
    assert [waiting.id for waiting in await store.waiting_events(pool, work)] == ["evt_2"]
