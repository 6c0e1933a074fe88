"""Events in. Each handler is one transaction: claim, write down what is known. The sender does the rest."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from faststream import Context
from faststream.kafka import KafkaRouter

from billing_common.clock import BusinessClock
from billing_common.db import Pool
from billing_common.events import (
    CatalogueApplied,
    InvalidEventError,
    InvoiceCreated,
    InvoiceFinalized,
    InvoicePaid,
    InvoicePaymentFailed,
    InvoiceState,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionState,
    SubscriptionUpdated,
    UsageCollected,
    UsageSegmentClosed,
)
from billing_common.inbox import claim
from billing_common.messaging import consume
from stripe_reporter import domain, invoice_store, store

SERVICE = "stripe_reporter"

router = KafkaRouter()
Clock = Annotated[BusinessClock, Context("clock")]
Wake = Annotated[asyncio.Event, Context("wake")]
ReportDelay = Annotated[timedelta, Context("report_delay")]


@consume(router, UsageCollected, service=SERVICE)
async def on_usage_collected(event: UsageCollected, pool: Pool, clock: Clock, report_delay: ReportDelay, wake: Wake) -> None:
    """Keep the window's newest running total; it is reported after its hour."""
    due_at = domain.due_at(event.hour, now=clock.now(), delay=report_delay)
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.put_window(connection, event, due_at)
    wake.set()


@consume(router, UsageSegmentClosed, service=SERVICE)
async def on_usage_segment_closed(event: UsageSegmentClosed, pool: Pool, wake: Wake) -> None:
    """Remember what must be at Stripe before anybody may close the period or the subscription."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.put_segment(connection, event, datetime.now(UTC))
    wake.set()


@consume(router, SubscriptionCreated, service=SERVICE)
async def on_subscription_created(event: SubscriptionCreated, pool: Pool, wake: Wake) -> None:
    await _put_subscription(event, pool, wake)


@consume(router, SubscriptionUpdated, service=SERVICE)
async def on_subscription_updated(event: SubscriptionUpdated, pool: Pool, wake: Wake) -> None:
    await _put_subscription(event, pool, wake)


@consume(router, SubscriptionDeleted, service=SERVICE)
async def on_subscription_deleted(event: SubscriptionDeleted, pool: Pool, wake: Wake) -> None:
    await _put_subscription(event, pool, wake)


async def _put_subscription(event: SubscriptionState, pool: Pool, wake: asyncio.Event) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.put_subscription(connection, event)
        await invoice_store.put_facts(connection, event)
    wake.set()


@consume(router, CatalogueApplied, service=SERVICE)
async def on_catalogue_applied(event: CatalogueApplied, pool: Pool, wake: Wake) -> None:
    """Keep which Stripe meter each product's meters have in this version."""
    try:
        meters = [
            (product_id, meter_id, str(meter["id"]), str(meter["event_name"]))
            for product_id, ids in event.stripe_ids.items()
            for meter_id, meter in ids.get("meters", {}).items()
        ]
        prices = [
            (str(price_id), product_id, component)
            for product_id, ids in event.stripe_ids.items()
            for by_component in (ids.get("prices", {}), *ids.get("prices_by_currency", {}).values())
            for component, price_id in by_component.items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidEventError(f"stripe_ids of catalogue version {event.version} cannot be read") from error
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.put_meters(connection, event.version, meters)
        await invoice_store.put_catalogue(connection, event, prices)
    wake.set()


@consume(router, InvoiceCreated, service=SERVICE)
async def on_invoice_created(event: InvoiceCreated, pool: Pool, wake: Wake) -> None:
    """A draft at a period's end: all usage of the period has to be at Stripe before it becomes final."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await invoice_store.put_invoice(connection, event)
        if event.status == "draft" and event.billing_reason == "subscription_cycle" and event.finalizes_at is not None:
            await store.put_period(connection, event, event.finalizes_at)
    wake.set()


@consume(router, InvoiceFinalized, service=SERVICE)
async def on_invoice_finalized(event: InvoiceFinalized, pool: Pool) -> None:
    """What the customer is asked to pay: it is explained and compared with what was reported."""
    await _put_invoice(event, pool)


@consume(router, InvoicePaid, service=SERVICE)
async def on_invoice_paid(event: InvoicePaid, pool: Pool) -> None:
    await _put_invoice(event, pool)


@consume(router, InvoicePaymentFailed, service=SERVICE)
async def on_invoice_payment_failed(event: InvoicePaymentFailed, pool: Pool) -> None:
    await _put_invoice(event, pool)


async def _put_invoice(event: InvoiceState, pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await invoice_store.put_invoice(connection, event)
