"""What is added to an invoice because no price at Stripe can say it, when the usage of a plan is settled."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from billing_common.rating import ADDED_TO_DRAFT, Facts, Line, Period, period_at, rate, trial_end
from checkout import store_catalogue, store_changes
from checkout.intents import intend
from checkout.store import Subscription
from checkout.store_catalogue import Version
from checkout.store_changes import Stay


@dataclass(frozen=True)
class Settled:
    """A segment whose usage is at Stripe. `on_draft`: it ended with its period, whose invoice is a draft now."""

    start: datetime
    end: datetime
    on_draft: bool


def additions(version: Version, subscription: Subscription, stay: Stay, *, period: Period, totals: dict[str, int]) -> list[Line]:
    """Return the lines that Stripe's prices cannot express: rounding to blocks, packages at least, minimum and maximum spend."""
    catalogue = version.catalogue
    product = catalogue.product(stay.product_id)
    usage = {meter: quantity for meter, quantity in totals.items() if meter in product.meter_ids()}
    began = subscription.started_at or stay.since
    free_until = trial_end(product, began)
    facts = Facts(started_at=stay.since, ended_at=stay.until, end_reason="change", trial_end=free_until, currency=subscription.currency)
    rated = rate(catalogue, product, period=period, usage=usage, facts=facts)
    return [line for line in rated.lines if line.component in ADDED_TO_DRAFT and line.amount_minor]


def invoice_item(line: Line, subscription: Subscription, customer: str, *, since: datetime, until: datetime) -> dict[str, Any]:
    """Return what adds a line to a draft, or to the next invoice."""
    return {
        "customer": customer,
        "subscription": subscription.stripe_subscription_id,
        "currency": subscription.currency,
        "amount": line.amount_minor,
        "description": line.description,
        "period": {"start": int(since.timestamp()), "end": int(until.timestamp())},
        "metadata": {"turnpike_component": line.component},
    }


async def add_lines(
    connection: Connection, subscription: Subscription, customer: str, settled: Settled, *, until: datetime | None = None
) -> None:
    """Intend the lines of the plan whose usage is settled: on the draft of its period, else on the next invoice, else on one of their own.

    A plan can have several segments in a period (a change that was not made after all): they are one quantity. `until`: when the next
    plan's fees began, where that is not known from a state yet.
    """
    stay = await store_changes.stay_at(connection, subscription.subscription_id, settled.start)
    if stay is None:
        stay = Stay(subscription.started_at or settled.start, None, subscription.product_id, subscription.catalogue_version)
    stay = replace(stay, until=until or stay.until)
    version = await store_catalogue.get(connection, stay.catalogue_version)
    if version is None:
        return
    product = version.catalogue.product(stay.product_id)
    period = period_at(product, started_at=subscription.started_at or stay.since, at=settled.start)
    since = max(stay.since, period.start)
    if settled.end <= since:
        return  # ended in the second in which it began: nothing could be used
    totals = await store_changes.settled_totals(connection, subscription.subscription_id, since=since, until=settled.end)
    draft = {"draft_of_period_end": settled.end.isoformat()} if settled.on_draft else {}
    for number, line in enumerate(additions(version, subscription, stay, period=period, totals=totals)):
        item = invoice_item(line, subscription, customer, since=since, until=settled.end)
        cause = f"{subscription.subscription_id}:{settled.end.isoformat()}:{number}"
        await intend(connection, "invoice_item", key=subscription.account_id, cause=cause, parameters={"item": item, **draft})
