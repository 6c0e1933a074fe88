"""Corrections of closed periods in: each becomes one line of money, put on an invoice by an intent."""

import structlog
from faststream.kafka import KafkaRouter

from billing_common.db import Connection, Pool
from billing_common.events import UsageCorrected, derive_id
from billing_common.inbox import claim
from billing_common.messaging import consume
from checkout import domain, store, store_catalogue
from checkout.charging import add_charge
from checkout.correcting import Change, price_of_change
from checkout.correction_store import Charge
from checkout.handlers import SERVICE, Clock, NotKnownYetError, not_known
from checkout.store import Subscription

router = KafkaRouter()
log = structlog.get_logger(__name__)


@consume(router, UsageCorrected, service=SERVICE)
async def on_usage_corrected(event: UsageCorrected, pool: Pool, clock: Clock) -> None:
    """Charge or give back what the period costs more or less. Corrections of open periods go to Stripe as usage."""
    if not event.after_close or event.segment_end is None:
        return
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        customer = await store.lock_account(connection, event.account_id)
        subscription = await store.get_subscription(connection, event.subscription_id)
        if subscription is None:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        if subscription.free:
            return
        if customer is None or subscription.stripe_subscription_id is None:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        charge = await _charge(connection, event, subscription)
        paying = subscription.stripe_subscription_id
        await add_charge(connection, charge, account_id=event.account_id, customer=customer, stripe_subscription_id=paying, on_draft=True)
    log.info("correction rated", event_id=str(event.event_id), subscription_id=event.subscription_id, amount_minor=charge.amount_minor)


async def _charge(connection: Connection, event: UsageCorrected, subscription: Subscription) -> Charge:
    version = await store_catalogue.get(connection, event.catalogue_version)
    if version is None:
        raise NotKnownYetError(f"catalogue version {event.catalogue_version} is not known")
    assert event.segment_end is not None  # looked at before
    change = Change(event.product_id, event.segment_start, event.totals_before, event.totals_after)
    amount = await price_of_change(connection, version, subscription, change)
    return Charge(
        correction_id=event.correction_id,
        intent_id=derive_id("intent", "correction", str(event.correction_id)) if amount else None,
        subscription_id=event.subscription_id,
        kind=event.kind,
        segment_start=event.segment_start,
        segment_end=event.segment_end,
        totals_before=event.totals_before,
        totals_after=event.totals_after,
        amount_minor=amount,
        currency=subscription.currency,
        description=domain.words_of_correction(version.catalogue, kind=event.kind, amounts=event.amounts, at=event.at),
        made_at=event.occurred_at,
    )
