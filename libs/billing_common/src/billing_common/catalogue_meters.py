"""Rules of meters: an aggregation has what it needs, and nothing beside it that would have no effect."""

from billing_common.catalogue_model import Meter, Product
from billing_common.catalogue_problems import Problems
from billing_common.catalogue_source import Path

OF_THE_CALL = frozenset({"sid", "method", "template", "status"})  # values that every call has; none is a number
OF_A_STREAM = OF_THE_CALL | {"requestBytes", "responseBytes", "quantity"}
NEEDED = {
    "unique": "a property of the usage event, or sid, method, template or status of the call",
    "max": "a property of the usage event that is a whole number, or quantity",
}


def check_meter(meter: Meter, path: Path, problems: Problems) -> None:
    """Note an aggregation without its property, and what the aggregation would not look at."""
    kind, name = meter.aggregation, meter.property_name
    if meter.has_state and not name:
        what = "whose different values are counted" if kind == "unique" else "whose highest value is taken"
        problems.add(path, f'the aggregation "{kind}" needs "property": the one {what}', NEEDED[kind])
    if kind == "unique" and name == "quantity":
        problems.add((*path, "property"), "a quantity is no value whose different ones could be counted", NEEDED["unique"])
    if kind in ("sum", "max") and name in OF_THE_CALL:
        problems.add((*path, "property"), f'"{name}" is not a number: the aggregation "{kind}" cannot use it', NEEDED["max"])
    if kind == "count" and name:
        problems.add((*path, "property"), 'the aggregation "count" counts calls and looks at no property', 'no property, or "sum"')
    if kind != "sum" and (meter.weights or meter.weight != 1):
        at = (*path, "weights" if meter.weights else "weight")
        problems.add(at, f'the aggregation "{kind}" looks at no weight', 'no weights, or "sum"')


def check_use(meter: Meter, product: Product, meter_id: str, path: Path, problems: Problems) -> None:
    """Note a meter with state where its property never comes."""
    if meter.has_state and product.source == "stream" and meter.property_name and meter.property_name not in OF_A_STREAM:
        message = f'the meter "{meter_id}" needs the property "{meter.property_name}", which API Management\'s stream does not carry'
        problems.add((*path[:2], "source"), message, f'"ingest", or a meter of {", ".join(sorted(OF_A_STREAM))}')


def check_quota(meter: Meter | None, product: Product, path: Path, problems: Problems) -> None:
    """Note a quota on a meter with one number for each billing period, when the window of the quota is another."""
    assert product.quota is not None
    by_month = product.is_free or (product.interval == "month" and product.billing_anchor == "calendar")
    if meter is not None and meter.has_state and not (by_month and product.quota.window == "calendar_month"):
        message = f'the meter "{product.quota.meter}" has one number for each billing period, and the window of this quota is another'
        problems.add((*path, "window"), message, "calendar_month with monthly calendar billing, or a quota on another meter")
