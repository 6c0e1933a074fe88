"""Usage of a subscription by day, hour, endpoint and status, with the coming bill and what is left, and how fresh all that is."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from delegation_gateway import usage_page
from delegation_gateway.collector_gateway import Collector, Standing
from delegation_gateway.domain import Subscription
from delegation_gateway.internal_door import NotKnownError
from delegation_gateway.parts import HereParts, Parts, SignedIn
from delegation_gateway.period_bill import earlier_charges
from delegation_gateway.routes.subscriptions import own, sold_as
from delegation_gateway.usage_page import Asked, Range
from turnpike_ui import PageError

router = APIRouter(prefix="/subscriptions/{subscription_id}/usage")


@router.get("")
async def show(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, asked: Annotated[Asked, Query()]) -> Response:
    """Show the running period, or the days that are asked for."""
    subscription = await own(parts, visitor, subscription_id)
    if parts.collector is None:
        raise PageError(404, "Usage is not shown here", "The subscription's page has its totals.", action=_back(subscription))
    standing = await _standing(parts.collector, subscription)
    now = parts.clock.now()
    start = standing.period_start if standing else subscription.started_at or subscription.requested_at
    chosen, errors = usage_page.range_of(asked, period_start=start, now=now)
    names = await _meter_names(parts, subscription, standing)
    earlier = await earlier_charges(parts, subscription_id, start) if standing and standing.bill and subscription.is_at_stripe else None
    context = {
        "visitor": visitor,
        "subscription": subscription,
        "standing": standing,
        "besides": sum(one.amount_minor for one in earlier or ()),
        "names": names,
        "chosen": chosen,
        "asked": asked,
        "errors": errors,
        "now": now,
        "back": _back(subscription)[1],
        **(await _divided(parts, subscription, chosen, names) if standing else {"times": None}),
    }
    return parts.pages.render(request, "usage.html", context, 422 if errors else 200)


async def _standing(collector: Collector, subscription: Subscription) -> Standing | None:
    """Return where the subscription stands; None before anything is known of it."""
    try:
        return await collector.standing(subscription.subscription_id)
    except NotKnownError:
        return None


async def _meter_names(parts: Parts, subscription: Subscription, standing: Standing | None) -> dict[str, str]:
    sold = await sold_as(parts, subscription)
    meters = {meter: sold[0].meters[meter].name for meter in sold[1].meter_ids()} if sold else {}
    return meters or {meter: meter for meter in (standing.totals if standing else {})}


async def _divided(parts: Parts, subscription: Subscription, chosen: Range, names: Mapping[str, str]) -> dict[str, object]:
    assert parts.collector is not None
    meters, ask = list(names), parts.collector.split
    over_time = await ask(subscription.subscription_id, chosen.start, chosen.end, [chosen.by])
    kinds = await ask(subscription.subscription_id, chosen.start, chosen.end, ["endpoint", "status"])
    times = usage_page.by_time(over_time.rows, meters, chosen)
    return {
        "times": times if times.rows else None,
        "chart": usage_page.chart_of(times, chosen, names[meters[0]], parts.clock.now()) if meters else None,
        "endpoints": usage_page.by_endpoint(kinds.rows, meters),
        "statuses": usage_page.by_status(kinds.rows, meters),
        "reasons": usage_page.reasons(over_time.rows),
        "complete_until": kinds.complete_until or over_time.complete_until,
        "freshness": over_time.freshness,
    }


def _back(subscription: Subscription) -> tuple[str, str]:
    return "Open the subscription", f"/subscriptions/{subscription.subscription_id}"
