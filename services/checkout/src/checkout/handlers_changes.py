"""Events in: a customer asks for another plan, or takes that back."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from faststream import Context
from faststream.kafka import KafkaRouter

from billing_common.catalogue import UnknownProductError
from billing_common.clock import BusinessClock
from billing_common.db import Connection, Pool
from billing_common.events import InvalidEventError, SubscriptionChangeRequested, SubscriptionChangeWithdrawn
from billing_common.inbox import claim
from billing_common.messaging import consume
from billing_common.plan_changes import ChangeRefusedError, Sold, costs_the_same, refuse_change, refuse_standing
from billing_common.rating import period_at
from checkout import change_domain, changing, selling, store, store_catalogue, store_changes
from checkout.change_domain import Change
from checkout.domain import RefusedError
from checkout.handlers import SERVICE, not_known
from checkout.store import Subscription
from checkout.store_catalogue import Version

router = KafkaRouter()
Clock = Annotated[BusinessClock, Context("clock")]


@consume(router, SubscriptionChangeRequested, service=SERVICE)
async def on_change_requested(event: SubscriptionChangeRequested, pool: Pool, clock: Clock) -> None:
    """Begin the change, or say why it cannot be made."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        subscription = await store.get_subscription(connection, event.subscription_id)
        if subscription is None or subscription.revision == 0:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        if subscription.account_id != event.account_id:
            raise InvalidEventError("the subscription belongs to another account")
        change = _asked_for(event, subscription)
        try:
            await _begin(connection, event, change, subscription)
        except (ChangeRefusedError, RefusedError) as error:
            await changing.tell(connection, change, "failed", at=event.occurred_at, reason=error.code)


def _asked_for(event: SubscriptionChangeRequested, subscription: Subscription) -> Change:
    return Change(
        change_id=str(event.event_id),
        subscription_id=event.subscription_id,
        account_id=event.account_id,
        asked_by="customer",
        timing=event.when,
        from_product_id=subscription.product_id,
        from_catalogue_version=subscription.catalogue_version,
        product_id=event.product_id,
        catalogue_version=subscription.catalogue_version,
        state="asked",
        revision=0,
        effective_at=event.occurred_at,
        settled_start=None,
        settled_end=None,
        then_cancel=False,
    )


async def _begin(connection: Connection, event: SubscriptionChangeRequested, change: Change, subscription: Subscription) -> None:
    """Raise ChangeRefusedError when the change cannot be made; it is told under the present catalogue version then."""
    members = await store.members(connection, event.account_id)
    if members and event.user_id not in members:
        raise ChangeRefusedError("wrong_user", "this user does not belong to the account")
    standing = await store_changes.standing(connection, event.subscription_id)
    ending = standing.ends or standing.cancellation is not None
    refuse_standing(live=subscription.state == "live", status=standing.status, ending=ending)
    waiting = await store_changes.open_of(connection, event.subscription_id)
    if waiting is not None and not waiting.gives_way:
        raise ChangeRefusedError("change_pending", "another change of this subscription is under way or planned")
    if event.product_id == subscription.product_id:
        raise ChangeRefusedError("same_product", "the subscription is on this plan already")
    if await _has_product(connection, subscription, event.product_id):
        raise ChangeRefusedError("already_subscribed", "the account has a subscription to this product already")
    latest = await store_catalogue.latest(connection)
    old, new = await _sold(connection, subscription), _on_sale(latest, event.product_id)
    refuse_change(old, new, currency=subscription.currency, when=event.when)
    assert latest is not None  # something is on sale
    await _refuse_unseen(connection, event, new, latest, subscription.currency)
    effective_at = _effective_at(event, old, subscription.started_at or event.occurred_at)
    full = replace(change, catalogue_version=latest.version, effective_at=effective_at)
    prices = latest.price_ids(event.product_id, subscription.currency)
    for other in await store.others_of_product(connection, replace(subscription, product_id=event.product_id)):
        await selling.give_up(connection, other, event.occurred_at)  # asked for and not paid: nobody pays for a second one
    if waiting is not None:
        await changing.set_aside(connection, waiting, subscription, by=full.change_id, at=event.occurred_at)
    await changing.begin(connection, full, subscription, prices, at=event.occurred_at)


async def _refuse_unseen(connection: Connection, event: SubscriptionChangeRequested, new: Sold, latest: Version, currency: str) -> None:
    """Nobody changes at a price that was not shown: a newer version must charge the same."""
    if event.catalogue_version in {None, latest.version}:
        return
    shown = await store_catalogue.get(connection, event.catalogue_version or 0)
    if not costs_the_same(_on_sale(shown, event.product_id), new, currency):
        raise ChangeRefusedError("price_changed", "the price has changed since this was asked for")


async def _has_product(connection: Connection, subscription: Subscription, product_id: str) -> bool:
    wanted = replace(subscription, product_id=product_id)
    live = any(other.state == "live" for other in await store.others_of_product(connection, wanted))
    return live or await store_changes.leads_to(connection, subscription.account_id, product_id)


async def _sold(connection: Connection, subscription: Subscription) -> Sold:
    version = await store_catalogue.get(connection, subscription.catalogue_version)
    if version is None:
        raise ChangeRefusedError("unknown_catalogue", "the catalogue this was bought under is not known")
    return Sold(version.catalogue, version.catalogue.product(subscription.product_id))


def _on_sale(latest: Version | None, product_id: str) -> Sold:
    try:
        if latest is not None:
            catalogue = latest.catalogue
            return Sold(catalogue, catalogue.product(product_id))
    except UnknownProductError:
        pass
    raise ChangeRefusedError("unknown_product", "this product is not on sale")


def _effective_at(event: SubscriptionChangeRequested, old: Sold, started_at: datetime) -> datetime:
    if event.when == "period_end":
        return period_at(old.product, started_at=started_at, at=event.occurred_at).end
    return change_domain.fees_since(old.product, started_at=started_at, shown_at=event.prorate_at, asked_at=event.occurred_at)


@consume(router, SubscriptionChangeWithdrawn, service=SERVICE)
async def on_change_withdrawn(event: SubscriptionChangeWithdrawn, pool: Pool, clock: Clock) -> None:
    """Take back what is planned for the end of the period; what is made already stays."""
    async with pool.acquire() as connection, connection.transaction():
        if not await claim(connection, event, consumer=SERVICE):
            return
        await store.lock_account(connection, event.account_id)
        change = await store_changes.get(connection, event.change_id)
        subscription = await store.get_subscription(connection, event.subscription_id)
        if change is None or subscription is None:
            raise not_known(event.subscription_id, event.occurred_at, clock.now())
        if (change.account_id, change.subscription_id) != (event.account_id, event.subscription_id):
            raise InvalidEventError("the change belongs to another subscription")
        if change.state in {"asked", "scheduled"} and change.timing == "period_end":
            await changing.give_up(connection, change, subscription, at=event.occurred_at, reason="withdrawn")
