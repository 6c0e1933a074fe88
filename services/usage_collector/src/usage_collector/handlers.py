"""Events in: who has which plan when. Each handler is one transaction under the exclusive lock; no batch of usage runs beside it."""

import json
from typing import Annotated

import structlog
from faststream import Context
from faststream.kafka import KafkaRouter

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.clock import BusinessClock
from billing_common.db import Connection, Pool
from billing_common.events import (
    AccessEvent,
    AccessGranted,
    AccessRestored,
    AccessSuspended,
    CatalogueApplied,
    InvalidEventError,
    SubscriptionChangeProgressed,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionState,
    SubscriptionUpdated,
)
from billing_common.inbox import claim
from billing_common.messaging import consume
from usage_collector import (
    change_store,
    domain,
    held_store,
    publishing,
    recounting,
    report_store,
    rollup_store,
    standing_store,
    store,
    subscription_store,
)

SERVICE = "usage_collector"
router = KafkaRouter()
log = structlog.get_logger(__name__)
Clock = Annotated[BusinessClock, Context("clock")]


@consume(router, CatalogueApplied, service=SERVICE)
async def on_catalogue_applied(event: CatalogueApplied, pool: Pool) -> None:
    """Keep the version; events that waited for it are judged again."""
    try:
        Catalogue.from_document(event.document)
    except CatalogueError as error:
        raise InvalidEventError(f"catalogue version {event.version} cannot be read: {error}"[:300]) from None
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        if await claim(connection, event, consumer=SERVICE):
            await subscription_store.add_catalogue(connection, event.version, json.dumps(event.document))
            log.info("catalogue version kept", event_id=str(event.event_id), version=event.version)


@consume(router, SubscriptionCreated, service=SERVICE)
async def on_subscription_created(event: SubscriptionCreated, pool: Pool, clock: Clock) -> None:
    await _on_state(event, pool, clock)


@consume(router, SubscriptionUpdated, service=SERVICE)
async def on_subscription_updated(event: SubscriptionUpdated, pool: Pool, clock: Clock) -> None:
    await _on_state(event, pool, clock)


@consume(router, SubscriptionDeleted, service=SERVICE)
async def on_subscription_deleted(event: SubscriptionDeleted, pool: Pool, clock: Clock) -> None:
    await _on_state(event, pool, clock)


async def _on_state(event: SubscriptionState, pool: Pool, clock: BusinessClock) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        if not await claim(connection, event, consumer=SERVICE):
            return
        await subscription_store.add_fact(connection, event)
        await standing_store.set_currency(connection, event.subscription_id, event.currency)
        await subscription_store.add_key(connection, event.subscription_id, event.subscription_id, event.account_id)
        await revise(connection, event.subscription_id, event.account_id, clock)
    log.info("subscription state kept", event_id=str(event.event_id), subscription_id=event.subscription_id, revision=event.revision)


@consume(router, SubscriptionChangeProgressed, service=SERVICE)
async def on_change_progressed(event: SubscriptionChangeProgressed, pool: Pool, clock: Clock) -> None:
    """End the old plan's segment where its usage has to be reported before the change; go on with it when the change fails."""
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        if not await claim(connection, event, consumer=SERVICE) or not await change_store.add_change(connection, event):
            return
        await revise(connection, event.subscription_id, event.account_id, clock)
    log.info("change of plan kept", event_id=str(event.event_id), subscription_id=event.subscription_id, state=event.state)


@consume(router, AccessGranted, service=SERVICE)
async def on_access_granted(event: AccessGranted, pool: Pool) -> None:
    await _learn_keys(event, pool)


@consume(router, AccessRestored, service=SERVICE)
async def on_access_restored(event: AccessRestored, pool: Pool) -> None:
    """A key that was asked for while access was suspended is made when it is restored."""
    await _learn_keys(event, pool)


async def _learn_keys(event: AccessEvent, pool: Pool) -> None:
    """Learn the sids of the subscription's keys; calls that came before are judged again."""
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        if await claim(connection, event, consumer=SERVICE) and await _add_keys(connection, event):
            await report_store.read_again_from(connection, event.occurred_at)
            await subscription_store.touch(connection, event.subscription_id)


@consume(router, AccessSuspended, service=SERVICE)
async def on_access_suspended(event: AccessSuspended, pool: Pool, clock: Clock) -> None:
    """A suspension because of a cancellation ends the segment at the instant from which calls are refused."""
    if event.reason != "cancellation":
        return
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_exclusive(connection)
        if not await claim(connection, event, consumer=SERVICE):
            return
        await _add_keys(connection, event)
        await subscription_store.add_cut(connection, event.subscription_id, event.account_id, event.effective_at)
        await revise(connection, event.subscription_id, event.account_id, clock)
    log.info("segment cut", event_id=str(event.event_id), subscription_id=event.subscription_id)


async def _add_keys(connection: Connection, event: AccessEvent) -> bool:
    """Tell whether any of them is new."""
    new = [await subscription_store.add_key(connection, sid, event.subscription_id, event.account_id) for sid in {event.sid, *event.sids}]
    return any(new)


async def revise(connection: Connection, subscription_id: str, account_id: str, clock: BusinessClock) -> None:
    """Bring the segments to what the facts say; events that are in the wrong place are held and judged again."""
    facts, cut_at = await subscription_store.facts_of(connection, subscription_id)
    stored = await subscription_store.segments_of(connection, subscription_id)
    cuts = await change_store.cuts_of(connection, subscription_id)
    revision = domain.revise(stored, domain.plan_segments(facts, cut_at, cuts))
    if revision.since is not None:
        await recounting.take_back(connection, subscription_id, revision.since)
    for recount in revision.recount:
        await held_store.hold_again(connection, recount.segment_id, recount.since)
        await rollup_store.mark_segment(connection, recount.segment_id, recount.since)
    if revision.remove:
        await publishing.publish_windows(connection, revision.remove, now=clock.now())
    await subscription_store.revise_segments(connection, subscription_id, account_id, revision)
    await subscription_store.touch(connection, subscription_id)
