"""Reads what a subscription's running period is rated from: its plans with their usage, and what is billed with it of earlier periods."""

from datetime import datetime

import structlog

from billing_common.bill_so_far import Earlier, OnPlan, Stay, earlier_of
from billing_common.catalogue import Catalogue, Product
from billing_common.db import Connection
from billing_common.rating import Period
from delegation_gateway import change_store, read_models
from delegation_gateway.allowances import allowance_at
from delegation_gateway.checkout_gateway import CheckoutRefusedError, CheckoutUnavailableError
from delegation_gateway.domain import Subscription
from delegation_gateway.parts import Parts
from delegation_gateway.standing import Standing, on_plan, period_of, standing

log = structlog.get_logger(__name__)


async def standing_of(parts: Parts, subscription: Subscription, sold: tuple[Catalogue, Product]) -> Standing:
    """Rate the whole period: the plans that were left in it, the present one, and what is billed with it of earlier periods."""
    now, own_id = parts.clock.now(), subscription.subscription_id
    period = period_of(sold[1], subscription, now)
    began = subscription.started_at or subscription.requested_at
    async with parts.pool.acquire() as connection:
        whole = await read_models.usage_between(connection, own_id, period.start, period.end)
        stays = await change_store.stays_between(connection, own_id, period.start, period.end)
        left = [await _left(parts, connection, subscription, stay, period) for stay in stays if stay.until is not None]
        since, is_new = subscription.plan_since or began, stays[-1].is_new if stays else True
        counted = await read_models.usage_between(connection, own_id, period.start, period.end, counted_since=since) if left else whole
        allowance = await allowance_at(connection, sold[1], subscription, now)
    present = Stay(since, None, subscription.product_id, subscription.catalogue_version or 0, is_new)
    plans = [plan for plan in left if plan is not None] + [on_plan(sold, subscription, present, counted, period)]
    earlier = await earlier_charges(parts, own_id, max(period.start, began)) if subscription.is_at_stripe else []
    return standing(plans, subscription, whole, period=period, now=now, earlier=earlier, allowance=allowance)


async def _left(parts: Parts, connection: Connection, subscription: Subscription, stay: Stay, period: Period) -> OnPlan | None:
    """Return a plan that was left, None where its catalogue version is not known here."""
    catalogue = await parts.catalogues.version(connection, stay.catalogue_version)
    if catalogue is None:
        return None
    usage = await read_models.usage_between(
        connection, subscription.subscription_id, period.start, period.end, counted_since=stay.since, counted_until=stay.until
    )
    return on_plan((catalogue, catalogue.product(stay.product_id)), subscription, stay, usage, period)


async def earlier_charges(parts: Parts, subscription_id: str, begin: datetime) -> list[Earlier] | None:
    """Return late and corrected usage that is billed with the period that began then; None where checkout does not say."""
    try:
        return earlier_of(begin, await parts.checkout.charges(subscription_id))
    except (CheckoutUnavailableError, CheckoutRefusedError) as error:
        log.warning("usage of earlier periods could not be looked up", reason=str(error))
        return None
