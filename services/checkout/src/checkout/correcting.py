"""What a correction of a closed period costs: the period by its own plan, after minus before."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from billing_common.rating import Facts, Period, period_at, rate, trial_end
from checkout import correction_store, store_changes
from checkout.store import Subscription
from checkout.store_catalogue import Version
from checkout.store_changes import Stay


@dataclass(frozen=True)
class Change:
    """Totals of a segment of one plan, before and after a correction."""

    product_id: str
    segment_start: datetime
    before: Mapping[str, int]
    after: Mapping[str, int]


async def price_of_change(connection: Connection, version: Version, subscription: Subscription, change: Change) -> int:
    """Return the difference of two totals, each rounded as an invoice is. Further segments of the plan in the period count with it."""
    product = version.catalogue.product(change.product_id)
    stay = await store_changes.stay_at(connection, subscription.subscription_id, change.segment_start)
    if stay is None or stay.product_id != change.product_id:
        stay = Stay(subscription.started_at or change.segment_start, None, change.product_id, version.version)
    period = period_at(product, started_at=subscription.started_at or stay.since, at=change.segment_start)
    until = min(period.end, stay.until or period.end)
    others = await correction_store.other_totals(
        connection, subscription.subscription_id, change.segment_start, since=max(stay.since, period.start), until=until
    )
    before, after = (price(version, subscription, stay, period, _added(others, totals)) for totals in (change.before, change.after))
    return after - before


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {meter: first.get(meter, 0) + second.get(meter, 0) for meter in {*first, *second}}


def price(version: Version, subscription: Subscription, stay: Stay, period: Period, totals: Mapping[str, int]) -> int:
    """Return what a plan costs in a period with this usage. What does not depend on usage falls out of a difference."""
    product = version.catalogue.product(stay.product_id)
    usage = {meter: quantity for meter, quantity in totals.items() if meter in product.meter_ids()}
    began = subscription.started_at or stay.since
    free_until = trial_end(product, began)
    facts = Facts(started_at=stay.since, ended_at=stay.until, end_reason="change", trial_end=free_until, currency=subscription.currency)
    return rate(version.catalogue, product, period=period, usage=usage, facts=facts).total_minor
