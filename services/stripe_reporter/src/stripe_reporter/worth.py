"""What a difference is worth: the bill of its month with the usage in question less the bill without it. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.rating import Facts, period_at, rate
from stripe_reporter.invoice_store import HourOfMeter
from stripe_reporter.reconciliation import Cause, Difference

NOT_COUNTED: frozenset[Cause] = frozenset({"lost", "late", "held", "rejected"})  # events that would be on a bill


def worth(
    one: Difference,
    hours: Iterable[HourOfMeter],
    catalogues: Mapping[str, Catalogue],
    *,
    plan: str | None,
    currency: str | None,
) -> int | None:
    """Return minor units; None where nobody can say. `plan` is the product that a subscription has now, for days without any usage."""
    if one.amount_minor is not None:
        return one.amount_minor
    known = list(hours)
    product_id = one.product_id or _product_on(one.day, known) or plan
    catalogue = catalogues.get(product_id or "")
    if product_id is None or catalogue is None:
        return None
    try:
        product = catalogue.product(product_id)
        catalogue.price_of(product, currency)
    except UnknownProductError:
        return None
    change = _change(one, catalogue, product)
    if change is None:
        return None
    used = _used(known, product, one.day)
    changed = {meter: max(0, quantity + change.get(meter, 0)) for meter, quantity in used.items()}
    month = one.day.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    facts = Facts(started_at=month, currency=currency)
    period = period_at(product, started_at=month, at=month)
    without, with_it = (rate(catalogue, product, period=period, usage=usage, facts=facts).total_minor for usage in (used, changed))
    return with_it - without if one.meter_id else without - with_it  # a station has so much more or less; events are missing on the bill


def _change(one: Difference, catalogue: Catalogue, product: Product) -> dict[str, int] | None:
    """Return meter -> units: the difference itself, or what events would have added to each meter that counts calls."""
    if one.meter_id:
        return {one.meter_id: one.quantity} if one.meter_id in product.meter_ids() else None
    if one.cause not in NOT_COUNTED:
        return None
    meters = {meter: catalogue.meters[meter] for meter in product.meter_ids()}
    if any(meter.has_state or meter.property_name for meter in meters.values()):
        return None  # what an event adds depends on others, or on what it says
    return {name: one.units * (1 if meter.aggregation == "count" else meter.weight) for name, meter in meters.items()}


def _product_on(day: datetime, hours: Iterable[HourOfMeter]) -> str | None:
    """Return the product of the last usage up to a day, or of the first after it."""
    found = None
    for hour in sorted(hours, key=lambda hour: hour.event_time):
        if found is None or hour.event_time.astimezone(UTC).date() <= day.astimezone(UTC).date():
            found = hour.product_id
    return found


def _used(hours: Iterable[HourOfMeter], product: Product, day: datetime) -> dict[str, int]:
    used: dict[str, int] = dict.fromkeys(product.meter_ids(), 0)
    for hour in hours:
        at = hour.event_time.astimezone(UTC)
        if hour.product_id == product.id and hour.meter_id in used and (at.year, at.month) == (day.year, day.month):
            used[hour.meter_id] += hour.quantity
    return used
