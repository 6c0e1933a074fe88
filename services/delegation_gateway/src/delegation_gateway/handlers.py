"""Events in. Each handler is one transaction: claim, then keep what the event says if it is newer than what is known."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream.kafka import KafkaRouter

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.db import Connection, Pool
from billing_common.events import (
    AccessEvent,
    AccessGranted,
    AccessRestored,
    AccessRevoked,
    AccessSuspended,
    CatalogueApplied,
    CheckoutExpired,
    Event,
    InvalidEventError,
    InvoiceCreated,
    InvoiceFinalized,
    InvoicePaid,
    InvoicePaymentFailed,
    InvoiceState,
    SubscriptionChangeProgressed,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionRequestFailed,
    SubscriptionState,
    SubscriptionUpdated,
    UsageCollected,
)
from billing_common.inbox import claim
from billing_common.messaging import consume
from delegation_gateway import change_store, read_models

SERVICE = "delegation_gateway"

router = KafkaRouter()


@asynccontextmanager
async def claimed(pool: Pool, event: Event) -> AsyncIterator[Connection | None]:
    """Yield the transaction's connection, or None when the event was handled before."""
    async with pool.acquire() as connection, connection.transaction():
        yield connection if await claim(connection, event, consumer=SERVICE) else None


@consume(router, CatalogueApplied, service=SERVICE)
async def on_catalogue_applied(event: CatalogueApplied, pool: Pool) -> None:
    try:
        Catalogue.from_document(event.document)
    except CatalogueError as error:
        raise InvalidEventError("the catalogue in the event does not fit its schema") from error
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.save_catalogue(connection, event)


async def _on_state(event: SubscriptionState, pool: Pool) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.save_state(connection, event)
            await change_store.save_stay(connection, event)


@consume(router, SubscriptionCreated, service=SERVICE)
async def on_subscription_created(event: SubscriptionCreated, pool: Pool) -> None:
    await _on_state(event, pool)


@consume(router, SubscriptionUpdated, service=SERVICE)
async def on_subscription_updated(event: SubscriptionUpdated, pool: Pool) -> None:
    await _on_state(event, pool)


@consume(router, SubscriptionDeleted, service=SERVICE)
async def on_subscription_deleted(event: SubscriptionDeleted, pool: Pool) -> None:
    await _on_state(event, pool)


@consume(router, SubscriptionChangeProgressed, service=SERVICE)
async def on_change_progressed(event: SubscriptionChangeProgressed, pool: Pool) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await change_store.save_progress(connection, event)


@consume(router, SubscriptionRequestFailed, service=SERVICE)
async def on_subscription_request_failed(event: SubscriptionRequestFailed, pool: Pool) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.end_request(connection, event.subscription_id, state="failed", reason=event.reason)


@consume(router, CheckoutExpired, service=SERVICE)
async def on_checkout_expired(event: CheckoutExpired, pool: Pool) -> None:
    """Free the product for another try: nobody paid while the page was open."""
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.end_request(connection, event.subscription_id, state="expired")


async def _on_access(event: AccessEvent, pool: Pool, state: str) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.save_access(connection, event, state)


@consume(router, AccessGranted, service=SERVICE)
async def on_access_granted(event: AccessGranted, pool: Pool) -> None:
    await _on_access(event, pool, "active")


@consume(router, AccessRestored, service=SERVICE)
async def on_access_restored(event: AccessRestored, pool: Pool) -> None:
    await _on_access(event, pool, "active")


@consume(router, AccessSuspended, service=SERVICE)
async def on_access_suspended(event: AccessSuspended, pool: Pool) -> None:
    await _on_access(event, pool, "suspended")


@consume(router, AccessRevoked, service=SERVICE)
async def on_access_revoked(event: AccessRevoked, pool: Pool) -> None:
    await _on_access(event, pool, "revoked")


@consume(router, UsageCollected, service=SERVICE)
async def on_usage_collected(event: UsageCollected, pool: Pool) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.save_usage(connection, event)


async def _on_invoice(event: InvoiceState, pool: Pool) -> None:
    async with claimed(pool, event) as connection:
        if connection is not None:
            await read_models.save_invoice(connection, event)


@consume(router, InvoiceCreated, service=SERVICE)
async def on_invoice_created(event: InvoiceCreated, pool: Pool) -> None:
    await _on_invoice(event, pool)


@consume(router, InvoiceFinalized, service=SERVICE)
async def on_invoice_finalized(event: InvoiceFinalized, pool: Pool) -> None:
    await _on_invoice(event, pool)


@consume(router, InvoicePaid, service=SERVICE)
async def on_invoice_paid(event: InvoicePaid, pool: Pool) -> None:
    await _on_invoice(event, pool)


@consume(router, InvoicePaymentFailed, service=SERVICE)
async def on_invoice_payment_failed(event: InvoicePaymentFailed, pool: Pool) -> None:
    await _on_invoice(event, pool)
