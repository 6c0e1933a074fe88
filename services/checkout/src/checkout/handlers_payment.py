"""Events in: invoices and payment methods. A customer who brings a new card has the open invoices paid with it."""

from datetime import timedelta

from faststream.kafka import KafkaRouter

from billing_common.db import Connection, Pool
from billing_common.events import InvoiceCreated, InvoiceFinalized, InvoicePaid, InvoicePaymentFailed, PaymentMethodChanged
from billing_common.inbox import claim
from billing_common.messaging import consume
from checkout import store, store_drafts
from checkout.handlers import SERVICE, Clock
from checkout.intents import intend

DRAFT_OF_A_PERIOD = "subscription_cycle"
DRAFT_KEPT = timedelta(days=4)  # Stripe keeps a draft for 72 hours at most

router = KafkaRouter()


@consume(router, InvoiceCreated, service=SERVICE)
async def on_invoice_created(event: InvoiceCreated, pool: Pool, clock: Clock) -> None:
    """Watch the draft of a period until it is final. What is long final is not looked at."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        if event.status != "draft" or event.billing_reason != DRAFT_OF_A_PERIOD or event.finalizes_at is None:
            return
        if clock.now() - event.finalizes_at < DRAFT_KEPT:
            await store_drafts.add(connection, event, event.finalizes_at)


@consume(router, InvoiceFinalized, service=SERVICE)
async def on_invoice_finalized(event: InvoiceFinalized, pool: Pool) -> None:
    """Hold it no longer: a person may have made it final."""
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE) and event.billing_reason == DRAFT_OF_A_PERIOD:
            await store_drafts.end(connection, event)


@consume(router, InvoicePaymentFailed, service=SERVICE)
async def on_invoice_payment_failed(event: InvoicePaymentFailed, pool: Pool) -> None:
    """Remember the open invoice; when the card was changed since, pay it with that."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        await store.apply_invoice(connection, event)
        newer = await store.payment_method_after(connection, event.account_id, event.occurred_at)
        if newer is not None:
            await _pay_open(connection, event.account_id, newer)


@consume(router, InvoicePaid, service=SERVICE)
async def on_invoice_paid(event: InvoicePaid, pool: Pool) -> None:
    """Nothing is open any more."""
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await store.lock_account(connection, event.account_id)
            await store.apply_invoice(connection, event)


@consume(router, PaymentMethodChanged, service=SERVICE)
async def on_payment_method_changed(event: PaymentMethodChanged, pool: Pool) -> None:
    """Charge the new card from now on, and at once for what is open."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE) or event.default_payment_method_id is None:
            return
        await store.lock_account(connection, event.account_id)
        method = event.default_payment_method_id
        newer = await store.set_payment_method(
            connection, event.account_id, payment_method_id=method, revision=event.revision, at=event.occurred_at
        )
        if not newer:
            return
        parameters = {"customer": event.stripe_customer_id, "payment_method": method}
        cause = f"{event.stripe_customer_id}:{event.revision}"
        await intend(connection, "set_default_payment_method", key=event.account_id, cause=cause, parameters=parameters)
        await _pay_open(connection, event.account_id, method)


async def _pay_open(connection: Connection, account_id: str, payment_method_id: str) -> None:
    for invoice in await store.open_invoices(connection, account_id):
        parameters = {"invoice": invoice["invoice_id"], "payment_method": payment_method_id}
        cause = f"{invoice['invoice_id']}:{invoice['revision']}:{payment_method_id}"
        await intend(connection, "pay_invoice", key=account_id, cause=cause, parameters=parameters)
