"""The plans of a period with their usage, as the bill so far needs them, and the spend cap of the one in force."""

from collections.abc import Sequence
from datetime import datetime

from billing_common import rating
from billing_common.bill_so_far import OnPlan, Stay
from billing_common.catalogue import Catalogue, Product
from billing_common.db import Connection
from billing_common.money import round_half_up, to_minor
from usage_collector.directory import Directory

Used = tuple[datetime, str, int]  # segment start, meter id, quantity


async def on_plans(
    connection: Connection, directory: Directory, stays: Sequence[Stay], usage: Sequence[Used], *, began: datetime, period: rating.Period
) -> list[OnPlan] | None:
    """Return the stays that reach into the period, the present one last; None where a catalogue version is not known here.

    `stays` are all of the subscription that `began` then.
    """
    found: list[OnPlan] = []
    for place, stay in enumerate(stays):
        if stay.until is not None and stay.until <= period.start:
            continue
        sold = await directory.catalogue_of(connection, (stay.product_id, stay.catalogue_version))
        if sold is None:
            return None
        own: dict[str, int] = {}
        for start, meter_id, quantity in usage:
            if stay.since <= start and (stay.until is None or start < stay.until):
                own[meter_id] = own.get(meter_id, 0) + quantity
        since, free_until = began if place == 0 else stay.since, rating.trial_end(sold[1], began)
        found.append(OnPlan(*sold, since, stay.until, own, stay.is_new, free_until))
    return found


def spend_cap_minor(sold: tuple[Catalogue, Product], currency: str | None) -> int | None:
    """Return the spend cap of a product in a currency, its own where none is named."""
    catalogue, product = sold
    code = currency or catalogue.currency_of(product)
    price = catalogue.price_of(product, code)
    return round_half_up(to_minor(price.spend_cap, code)) if price is not None and price.spend_cap is not None else None
