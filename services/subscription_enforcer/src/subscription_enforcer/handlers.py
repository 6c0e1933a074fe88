"""Events in: each adds to what is known of a subscription and decides again which access it should have."""

from collections.abc import Callable
from typing import Annotated

from faststream import Context
from faststream.kafka import KafkaRouter

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.clock import BusinessClock
from billing_common.db import Pool
from billing_common.events import (
    CatalogueApplied,
    InvalidEventError,
    SubscriptionCancellationRequested,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionEvent,
    SubscriptionKeysChanged,
    SubscriptionState,
    SubscriptionUpdated,
    UsageThresholdReached,
)
from billing_common.inbox import claim
from billing_common.messaging import consume
from subscription_enforcer import domain, keys, plans, store
from subscription_enforcer.domain import Facts

NAME = "subscription_enforcer"
Clock = Annotated[BusinessClock, Context("clock")]

router = KafkaRouter()


@consume(router, CatalogueApplied, service=NAME)
async def on_catalogue_applied(event: CatalogueApplied, pool: Pool, clock: Clock) -> None:
    """Keep what the plans say of access, and decide what waited for it."""
    try:
        catalogue = Catalogue.from_document(event.document)
    except CatalogueError as error:
        raise InvalidEventError(f"catalogue version {event.version} cannot be read: {error}"[:300]) from None
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=NAME):
            return
        await plans.add(connection, event.version, catalogue.products)
        for subscription_id in await plans.waiting_for(connection, event.version):
            facts = await store.lock_facts(connection, subscription_id, "")
            await plans.settle(connection, facts, clock.now())


@consume(router, SubscriptionCreated, service=NAME)
async def on_subscription_created(event: SubscriptionCreated, pool: Pool, clock: Clock) -> None:
    await _take_state(event, pool, clock)


@consume(router, SubscriptionUpdated, service=NAME)
async def on_subscription_updated(event: SubscriptionUpdated, pool: Pool, clock: Clock) -> None:
    await _take_state(event, pool, clock)


@consume(router, SubscriptionDeleted, service=NAME)
async def on_subscription_deleted(event: SubscriptionDeleted, pool: Pool, clock: Clock) -> None:
    await _take_state(event, pool, clock)


@consume(router, SubscriptionCancellationRequested, service=NAME)
async def on_cancellation_requested(event: SubscriptionCancellationRequested, pool: Pool, clock: Clock) -> None:
    """Stop the key of a customer who ends now; the end of a period is Stripe's to announce."""
    if event.when == "now":
        await _learn(event, pool, clock, domain.with_cancellation)


@consume(router, UsageThresholdReached, service=NAME)
async def on_threshold_reached(event: UsageThresholdReached, pool: Pool, clock: Clock) -> None:
    await _learn(event, pool, clock, lambda facts: domain.with_threshold(facts, event))


@consume(router, SubscriptionKeysChanged, service=NAME)
async def on_keys_changed(event: SubscriptionKeysChanged, pool: Pool, clock: Clock) -> None:
    """Give the subscription the keys that its owner wants, as many as its plan allows."""
    domain.checked_id(event.subscription_id)
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=NAME):
            return
        await plans.lock(connection)
        facts = await store.lock_facts(connection, event.subscription_id, event.account_id)
        if facts.account_id != event.account_id:
            raise InvalidEventError("the subscription belongs to another account")
        if await keys.keep(connection, event):
            await plans.settle(connection, facts, clock.now())


async def _take_state(event: SubscriptionState, pool: Pool, clock: BusinessClock) -> None:
    await _learn(event, pool, clock, lambda facts: domain.with_state(facts, event, clock.now()))


async def _learn(event: SubscriptionEvent, pool: Pool, clock: BusinessClock, add: Callable[[Facts], Facts]) -> None:
    domain.checked_id(event.subscription_id)
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=NAME):
            return
        await plans.lock(connection)
        known = await store.lock_facts(connection, event.subscription_id, event.account_id)
        facts = add(known)
        if facts != known:
            await plans.settle(connection, facts, clock.now())
