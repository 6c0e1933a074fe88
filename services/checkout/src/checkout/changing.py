"""A change of plan, step by step: what each event and each answer of Stripe leads to. All in the caller's transaction."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import structlog
from prometheus_client import Counter

from billing_common.db import Connection
from billing_common.events import SubscriptionChangeProgressed, SubscriptionState, UsageSettled
from billing_common.outbox import announce
from checkout import store, store_catalogue, store_changes
from checkout.adjusting import Settled, add_lines
from checkout.change_domain import Change, State
from checkout.domain import RefusedError
from checkout.intents import intend
from checkout.store import Subscription
from checkout.stripe_gateway import StripeRefusedError

Refusal = StripeRefusedError | None
Told = Literal["scheduled", "closing", "made", "failed", "withdrawn"]
CHANGES = Counter("turnpike_checkout_plan_changes_total", "Changes of plan by who asked and how far they came", ["asked_by", "state"])

log = structlog.get_logger(__name__)


async def tell(connection: Connection, change: Change, state: Told, *, at: datetime, reason: str | None = None) -> Change:
    """Announce where a change stands; returns it with the revision that this was."""
    told = replace(change, revision=change.revision + 1)
    event = SubscriptionChangeProgressed(
        cause_id=f"{change.change_id}:{told.revision}",
        occurred_at=at,
        subscription_id=change.subscription_id,
        account_id=change.account_id,
        change_id=change.change_id,
        revision=told.revision,
        state=state,
        product_id=change.product_id,
        catalogue_version=change.catalogue_version,
        effective_at=change.effective_at,
        reason=reason,
    )
    await announce(connection, event)
    return told


async def _move(
    connection: Connection, change: Change, state: State, *, at: datetime, told: Told | None = None, reason: str | None = None
) -> Change:
    """Write the next state of a change, and announce it where others have to know."""
    moved = replace(change, state=state)
    if told is not None:
        moved = await tell(connection, moved, told, at=at, reason=reason)
    await store_changes.move(connection, moved, state, at=at, reason=reason)
    CHANGES.labels(change.asked_by, state).inc()
    log.info("plan change", change_id=change.change_id, subscription_id=change.subscription_id, state=state, reason=reason)
    if state in {"failed", "withdrawn"}:
        await _plan_again(connection, change, at=at)
    return moved


async def begin(connection: Connection, change: Change, subscription: Subscription, prices: Mapping[str, str], *, at: datetime) -> bool:
    """Store a change and take its first step; False when another one is under way.

    A customer's change is paid first; the old usage follows. A provider's keeps the product, so old and new usage have the same meters:
    there the old usage is closed and reported before anything is changed.
    """
    closes_first = change.timing == "now" and change.asked_by == "provider"
    if not await store_changes.add(connection, change, at=at):
        return False
    if closes_first:
        await _move(connection, change, "closing", at=at, told="closing")
    else:
        await _call(connection, "change_make" if change.timing == "now" else "change_plan", change, subscription, prices)
    return True


async def _call(connection: Connection, kind: str, change: Change, subscription: Subscription, prices: Mapping[str, str]) -> None:
    parameters = {"change": change.change_id, "subscription": subscription.stripe_subscription_id, "prices": dict(prices)}
    await intend(connection, kind, key=change.account_id, cause=change.change_id, parameters=parameters)


async def set_aside(connection: Connection, migration: Change, subscription: Subscription, *, by: str, at: datetime) -> None:
    """Take a planned migration back, for the customer's own change that is asked for next."""
    await _move(connection, migration, "withdrawn", at=at, told="withdrawn", reason="replaced")
    await store_changes.note_replaced(connection, migration.change_id, by=by)
    await _call(connection, "change_withdraw", migration, subscription, {})


async def _plan_again(connection: Connection, given_up: Change, *, at: datetime) -> None:
    """Plan the migration again whose place was taken by a change that came to nothing: the provider's wish is not lost with it."""
    migration = await store_changes.replaced_by(connection, given_up.change_id)
    subscription = await store.get_subscription(connection, given_up.subscription_id)
    if migration is None or subscription is None or subscription.state != "live":
        return
    standing = await store_changes.standing(connection, subscription.subscription_id)
    is_on_old = migration.holds(subscription.product_id, subscription.catalogue_version)
    if is_on_old and not standing.ends and standing.cancellation is None:
        again = migration.again(given_up)
        await begin(connection, again, subscription, await _prices(connection, again, subscription), at=at)


async def refuse_coming(connection: Connection, account_id: str, product_id: str) -> None:
    """Raise `RefusedError` when a subscription of the account is about to become one of this product: it would have two."""
    if await store_changes.leads_to(connection, account_id, product_id):
        raise RefusedError(409, "already_subscribed", "a subscription of the account is about to change to this product")


async def give_up(connection: Connection, change: Change, subscription: Subscription, *, at: datetime, reason: str) -> None:
    """Leave a change that something else has overtaken; one that Stripe has made, or is asked to make now, goes its way."""
    if change.state == "closing" and change.settled_end is None:
        await _move(connection, change, "failed", at=at, told="failed", reason=reason)
    elif change.timing == "period_end":
        await _call(connection, "change_withdraw", change, subscription, {})


# --- events -------------------------------------------------------------------------------------------------------------------


async def on_state(connection: Connection, event: SubscriptionState, subscription: Subscription) -> None:
    """Notice that a planned change has come true, was lost, or that the subscription has ended before it."""
    change = await store_changes.open_of(connection, event.subscription_id)
    if change is None:
        return
    if subscription.state == "ended":
        if change.state == "made":
            await _move(connection, change, "done", at=event.occurred_at)
        else:
            await _move(connection, change, "failed", at=event.occurred_at, told="failed", reason="ended")
    elif change.state == "scheduled" and (event.product_id, event.catalogue_version) == (change.product_id, change.catalogue_version):
        await _move(connection, change, "done", at=event.occurred_at, told="made")
        await _call(connection, "change_let_go", change, subscription, {})
    elif change.state == "scheduled" and event.current_period_start >= change.effective_at:
        await _move(connection, change, "failed", at=event.occurred_at, told="failed", reason="not_made")


async def on_settled(connection: Connection, event: UsageSettled, subscription: Subscription, customer: str) -> bool:
    """Take the next step of the change that waited for this usage; True when the rest of what follows is not due yet."""
    change = await store_changes.open_of(connection, event.subscription_id)
    if change is None or change.timing == "period_end":
        return False
    old = change.holds(event.product_id, event.catalogue_version)
    if event.reason == "change" and old:
        settled = replace(change, settled_start=event.segment_start, settled_end=event.segment_end)
        await store_changes.move(connection, settled, settled.state, at=event.occurred_at)
        if settled.state == "closing":
            await _call(connection, "change_make", settled, subscription, await _prices(connection, settled, subscription))
        elif settled.state == "made":
            await _bill_old(connection, settled, subscription, customer)
        return True
    if event.reason == "cancellation" and not old and change.settled_end is None:
        await store_changes.move(connection, replace(change, then_cancel=True), change.state, at=event.occurred_at)
        await add_lines(connection, subscription, customer, Settled(event.segment_start, event.segment_end, on_draft=False))
        return True
    return False


async def _prices(connection: Connection, change: Change, subscription: Subscription) -> dict[str, str]:
    version = await store_catalogue.get(connection, change.catalogue_version)
    return version.price_ids(change.product_id, subscription.currency) if version else {}


async def _bill_old(connection: Connection, change: Change, subscription: Subscription, customer: str) -> None:
    """The usage of the old plan is at Stripe: add what its prices cannot say, then bill and remove them."""
    assert change.settled_start is not None
    assert change.settled_end is not None
    settled = Settled(change.settled_start, change.settled_end, on_draft=False)
    await add_lines(connection, subscription, customer, settled, until=change.effective_at)
    await _call(connection, "change_drop_old", change, subscription, await _prices(connection, change, subscription))
    if change.then_cancel:
        parameters = {"subscription": subscription.stripe_subscription_id}
        await intend(connection, "cancel_now", key=change.account_id, cause=change.subscription_id, parameters=parameters)


# --- answers of Stripe ----------------------------------------------------------------------------------------------------------


async def _found(connection: Connection, change_id: str) -> tuple[Change, Subscription, str]:
    account_id = await connection.fetchval("select account_id from plan_change where change_id = $1", change_id)
    customer = await store.lock_account(connection, account_id)
    change = await store_changes.get(connection, change_id)
    assert change is not None  # calls are intended with the row in place
    subscription = await store.get_subscription(connection, change.subscription_id)
    assert subscription is not None  # referenced by the row
    return change, subscription, customer or ""


async def after_make(connection: Connection, change_id: str, since: Any, refusal: Refusal, *, at: datetime) -> None:
    """Stripe has made the change, or will not."""
    change, subscription, customer = await _found(connection, change_id)
    if change.state not in {"asked", "closing"}:
        return
    if refusal is not None:
        await _move(connection, change, "failed", at=at, told="failed", reason=refusal.code)
        return
    made = replace(change, effective_at=since)
    if change.asked_by == "provider":
        await _move(connection, made, "done", at=at, told="made")
        if since == change.effective_at and made.settled_start and made.settled_end:
            settled = Settled(made.settled_start, made.settled_end, on_draft=False)
            await add_lines(connection, subscription, customer, settled, until=since)
        return
    made = await _move(connection, made, "made", at=at, told="made")
    if made.settled_end is not None:
        await _bill_old(connection, made, subscription, customer)


async def after_plan(connection: Connection, change_id: str, effective_at: Any, refusal: Refusal, *, at: datetime) -> None:
    """Stripe has planned the change, or will not."""
    change, _, _ = await _found(connection, change_id)
    if change.state != "asked":
        return
    if refusal is not None:
        await _move(connection, change, "failed", at=at, told="failed", reason=refusal.code)
    else:
        await _move(connection, replace(change, effective_at=effective_at), "scheduled", at=at, told="scheduled")


async def after_withdraw(connection: Connection, change_id: str, released: Any, refusal: Refusal, *, at: datetime) -> None:
    """Nothing is planned any more, unless Stripe was quicker: then the state says so, or, of a migration set aside, it is said here."""
    change, _, _ = await _found(connection, change_id)
    if change.state in {"asked", "scheduled"} and refusal is None and released:
        await _move(connection, change, "withdrawn", at=at, told="withdrawn")
    elif change.state == "withdrawn" and refusal is None and not released:
        await _move(connection, change, "done", at=at, told="made")
        await store_changes.start_from(connection, change)


async def after_drop_old(connection: Connection, change_id: str, _result: Any, refusal: Refusal, *, at: datetime) -> None:
    """The old plan is billed and gone. What Stripe will not remove it bills at the end of the period."""
    change, _, _ = await _found(connection, change_id)
    if refusal is not None:
        log.error("old prices stay on a subscription until a person removes them", change_id=change_id, code=refusal.code)
    if change.state == "made":
        await _move(connection, change, "done", at=at, reason=refusal.code if refusal else None)


async def after_let_go(_connection: Connection, change_id: str, _result: Any, refusal: Refusal, *, at: datetime) -> None:
    """The schedule has done its work; one that stays ends by itself after a period."""
    if refusal is not None:
        log.warning("a schedule stays until it ends by itself", change_id=change_id, code=refusal.code, at=at.isoformat())
