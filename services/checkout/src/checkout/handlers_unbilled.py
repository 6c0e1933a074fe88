"""Usage that a final invoice does not bill in: each becomes one line of money, as the plan's policy for late usage says."""

import structlog
from faststream.kafka import KafkaRouter

from billing_common.db import Pool
from billing_common.events import UsageUnbilled
from billing_common.inbox import claim
from billing_common.messaging import consume
from checkout import store, store_catalogue
from checkout.charging import add_charge
from checkout.handlers import SERVICE, Clock, NotKnownYetError, not_known
from checkout.unbilled import charge_of

router = KafkaRouter()
log = structlog.get_logger(__name__)


@consume(router, UsageUnbilled, service=SERVICE)
async def on_usage_unbilled(event: UsageUnbilled, pool: Pool, clock: Clock) -> None:
    """Charge what the invoice would say more, waive it, or keep it for a person. The invoice is final: it goes on the next one."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        customer = await store.lock_account(connection, event.account_id)
        subscription = await store.get_subscription(connection, event.subscription_id)
        if subscription is None or customer is None or subscription.stripe_subscription_id is None:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        version = await store_catalogue.get(connection, event.catalogue_version)
        if version is None:
            raise NotKnownYetError(f"catalogue version {event.catalogue_version} is not known")
        charge = charge_of(event, version, subscription)
        paying = subscription.stripe_subscription_id
        await add_charge(connection, charge, account_id=event.account_id, customer=customer, stripe_subscription_id=paying, on_draft=False)
    log.warning(
        "usage was missing on a final invoice",
        event_id=str(event.event_id),
        subscription_id=event.subscription_id,
        invoice_id=event.invoice_id,
        disposition=charge.disposition,
        amount_minor=charge.amount_minor,
    )
