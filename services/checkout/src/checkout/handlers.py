"""Events in: accounts, and what becomes of requests and subscriptions. Each handler is one transaction; Stripe is only intended."""

from datetime import datetime, timedelta
from typing import Annotated

import structlog
from faststream import Context
from faststream.kafka import KafkaRouter
from prometheus_client import Counter

from billing_common.clock import BusinessClock
from billing_common.db import Connection, Pool
from billing_common.events import (
    AccountClosed,
    AccountRegistered,
    CheckoutCompleted,
    CheckoutExpired,
    InvalidEventError,
    SubscriptionCancellationRequested,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionRequested,
    SubscriptionRequestFailed,
    SubscriptionState,
    SubscriptionUpdated,
    UsageSettled,
)
from billing_common.inbox import claim
from billing_common.messaging import consume
from billing_common.outbox import announce
from checkout import changing, domain, ending, store, store_changes
from checkout.adjusting import Settled, add_lines
from checkout.domain import RefusedError, Request
from checkout.intents import intend
from checkout.selling import offer
from checkout.store import Subscription

SERVICE = "checkout"
PATIENCE = timedelta(minutes=10)  # how long an event may wait for the one that must come before it, on another topic

SECOND_PAYMENTS = Counter("turnpike_checkout_second_payments_total", "Products that an account has paid for twice at once")

Clock = Annotated[BusinessClock, Context("clock")]
router = KafkaRouter()
log = structlog.get_logger(__name__)


class NotKnownYetError(Exception):
    """The subscription of this event has not been heard of: it is held until the event before it has come."""


@consume(router, AccountRegistered, service=SERVICE)
async def on_account_registered(event: AccountRegistered, pool: Pool) -> None:
    """Know who belongs to the account."""
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await store.lock_account(connection, event.account_id)
            await store.add_member(connection, event.account_id, event.user_id)


@consume(router, AccountClosed, service=SERVICE)
async def on_account_closed(event: AccountClosed, pool: Pool) -> None:
    """Sell nothing more to a closed account."""
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await store.lock_account(connection, event.account_id)
            await store.close_account(connection, event.account_id, event.occurred_at)


@consume(router, SubscriptionRequested, service=SERVICE)
async def on_subscription_requested(event: SubscriptionRequested, pool: Pool) -> None:
    """Create a free subscription; remember a paid one until its checkout; say why when neither is possible."""
    request = Request(event.subscription_id, event.account_id, event.user_id, event.product_id, event.display_name, event.currency)
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        try:
            await _accept(connection, event, request)
        except RefusedError as error:
            failed = SubscriptionRequestFailed(
                cause_id=str(event.event_id),
                occurred_at=event.occurred_at,
                subscription_id=event.subscription_id,
                account_id=event.account_id,
                reason=error.code,
            )
            await announce(connection, failed)


async def _accept(connection: Connection, event: SubscriptionRequested, request: Request) -> None:
    known = await store.get_subscription(connection, request.subscription_id)
    members = await store.members(connection, request.account_id)
    domain.refuse_foreign(request, known, members, closed=await store.is_closed(connection, request.account_id))
    if known is not None:
        return  # the door was quicker, or the request comes a second time
    version, product = await offer(connection, request, version_number=event.catalogue_version)
    subscription = domain.new_subscription(request, version, product, event.occurred_at)
    domain.refuse_second(None, await store.others_of_product(connection, subscription))
    await changing.refuse_coming(connection, request.account_id, product.id)
    await store.add_subscription(connection, subscription)
    if product.is_free:
        created = domain.free_created(subscription, cause_id=str(event.event_id), at=event.occurred_at)
        await store.apply_state(connection, created, state="live")
        await announce(connection, created)


@consume(router, CheckoutCompleted, service=SERVICE)
async def on_checkout_completed(event: CheckoutCompleted, pool: Pool) -> None:
    """The customer has paid: the session is closed and the product is taken."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        await store.close_session(connection, event.session_id, "complete")
        if event.payment_status != "unpaid":
            await store.mark_paid(connection, event.subscription_id, event.stripe_subscription_id)
            await _notice_second_payment(connection, event)


async def _notice_second_payment(connection: Connection, event: CheckoutCompleted) -> None:
    """Two sessions can be paid in the same moment, before either is expired: a person decides which money goes back."""
    subscription = await store.get_subscription(connection, event.subscription_id)
    others = await store.others_of_product(connection, subscription) if subscription else []
    for other in others:
        if other.state == "live":
            SECOND_PAYMENTS.inc()
            log.error("paid twice", event_id=str(event.event_id), subscription_id=event.subscription_id, other=other.subscription_id)


@consume(router, CheckoutExpired, service=SERVICE)
async def on_checkout_expired(event: CheckoutExpired, pool: Pool) -> None:
    """A session that ran out makes room for the next."""
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await store.close_session(connection, event.session_id, "expired")


@consume(router, SubscriptionCreated, service=SERVICE)
async def on_subscription_created(event: SubscriptionCreated, pool: Pool) -> None:
    """Know the subscription as Stripe has it."""
    await _take_state(event, pool)


@consume(router, SubscriptionUpdated, service=SERVICE)
async def on_subscription_updated(event: SubscriptionUpdated, pool: Pool) -> None:
    """Know the subscription as Stripe has it now."""
    await _take_state(event, pool)


@consume(router, SubscriptionDeleted, service=SERVICE)
async def on_subscription_deleted(event: SubscriptionDeleted, pool: Pool) -> None:
    """Know that it has ended: the account may subscribe anew."""
    await _take_state(event, pool)


async def _take_state(event: SubscriptionState, pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if await claim(connection, event, consumer=SERVICE):
            await store.lock_account(connection, event.account_id)
            await store.apply_state(connection, event, state=domain.state_of(event.status))
            await store_changes.note_state(connection, event)
            await _follow_state(connection, event)


async def _follow_state(connection: Connection, event: SubscriptionState) -> None:
    """Act on the newest state only: an older one that comes late has been overtaken."""
    subscription = await store.get_subscription(connection, event.subscription_id)
    if subscription is None or subscription.revision != event.revision:
        return
    await changing.on_state(connection, event, subscription)
    if subscription.state == "ended":
        await ending.go_on_free(connection, event)


@consume(router, SubscriptionCancellationRequested, service=SERVICE)
async def on_cancellation_requested(event: SubscriptionCancellationRequested, pool: Pool, clock: Clock) -> None:
    """End a free or unpaid one at once; a paid one at the period's end, or, for `now`, when its usage is settled."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        subscription = await store.get_subscription(connection, event.subscription_id)
        if subscription is None:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        if subscription.account_id != event.account_id:
            raise InvalidEventError("the subscription belongs to another account")
        if subscription.state == "ended":
            return
        await store_changes.note_cancellation(connection, subscription.subscription_id, event.when)
        change = await store_changes.open_of(connection, subscription.subscription_id)
        if change is not None:
            await changing.give_up(connection, change, subscription, at=event.occurred_at, reason="cancelled")
        if subscription.free or subscription.state == "requested":
            await _end_now(connection, subscription, event)
        elif event.when == "period_end":
            if subscription.stripe_subscription_id is None:
                raise not_known(event.subscription_id, event.occurred_at, clock.now())
            parameters = {"subscription": subscription.stripe_subscription_id}
            await intend(
                connection,
                "cancel_at_period_end",
                key=event.account_id,
                cause=f"{event.subscription_id}:{event.event_id}",
                parameters=parameters,
            )


async def _end_now(connection: Connection, subscription: Subscription, event: SubscriptionCancellationRequested) -> None:
    if subscription.free:
        await announce(connection, domain.free_deleted(subscription, cause_id=str(event.event_id), at=event.occurred_at))
        await store.end_subscription(connection, subscription.subscription_id, revision=subscription.revision + 1, at=event.occurred_at)
        return
    session = await store.last_session(connection, subscription.subscription_id)
    if session is not None and session.session_id is not None and session.status == "open":
        parameters = {"session": session.session_id}
        await intend(connection, "expire_session", key=event.account_id, cause=session.session_id, parameters=parameters)
    await store.end_subscription(connection, subscription.subscription_id, revision=subscription.revision, at=event.occurred_at)


@consume(router, UsageSettled, service=SERVICE)
async def on_usage_settled(event: UsageSettled, pool: Pool, clock: Clock) -> None:
    """All usage is at Stripe: add what its prices cannot express, and cancel what waited for this."""
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
        await store_changes.add_settled(connection, event)
        if await changing.on_settled(connection, event, subscription, customer):
            return
        settled = Settled(event.segment_start, event.segment_end, on_draft=event.reason == "period_end")
        await add_lines(connection, subscription, customer, settled)
        if event.reason == "cancellation":
            parameters = {"subscription": subscription.stripe_subscription_id}
            await intend(connection, "cancel_now", key=event.account_id, cause=event.subscription_id, parameters=parameters)


def not_known(subscription_id: str, occurred_at: datetime, now: datetime) -> Exception:
    """Hold a young event: what must come before it is under way. An old one is poison, for a person to look at."""
    message = f"subscription {subscription_id} is not known"
    return NotKnownYetError(message) if now - occurred_at < PATIENCE else InvalidEventError(message)
