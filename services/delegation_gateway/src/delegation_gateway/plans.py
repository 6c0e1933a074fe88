"""How a product's price is put into words: the same words on the pricing page, before paying and beside a running subscription."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing_common.catalogue import Catalogue, Price, Product, UsagePrice
from delegation_gateway.pricing import MONTHS, Question, cost_of
from turnpike_ui.formats import amount, count, plural

TIERS_SHOWN_MAX = 6


@dataclass(frozen=True)
class Plan:
    product_id: str
    name: str
    description: str
    headline: str
    headline_unit: str
    summary: str  # the price in one line
    lines: Sequence[str]
    terms: Sequence[str]  # what is charged and how it ends
    also_in: Sequence[str]  # further currencies
    is_free: bool


@dataclass(frozen=True)
class Example:
    """What a full period costs for some usage."""

    usage: str
    total_minor: int
    currency: str


def plan_of(catalogue: Catalogue, product: Product, currency: str | None = None) -> Plan:
    """Describe a product in a currency (its default one when absent)."""
    code = currency or catalogue.currency_of(product)
    price = catalogue.price_of(product, code)
    headline, unit = _headline(catalogue, product, price, code)
    allowances, limits = [*_allowances(catalogue, product, price, code)], [*_limits(catalogue, product)]
    lines = list(dict.fromkeys([*allowances, *limits, *_extras(product, price, code)]))
    stops = limits[:1] if product.quota is not None and product.quota.beyond == "stop" else []
    fee = [f"{headline} {unit}"] if price is not None and (price.base is not None or price.unit is not None) else []
    return Plan(
        product.id,
        product.name,
        product.description,
        headline,
        unit,
        summary=", ".join([*fee, *(line for line in allowances if not line.startswith(("No ", "At least "))), *stops][:3]),
        lines=(*lines, *(feature for feature in product.features if not _is_said(feature, [headline, *lines]))),
        terms=tuple(_terms(product, price)),
        also_in=()
        if product.is_free
        else tuple(other.upper() for other in (catalogue.currency_of(product), *product.currencies) if other != code),
        is_free=product.is_free,
    )


def _is_said(feature: str, lines: Iterable[str]) -> bool:
    """Tell whether a feature only repeats what the price and the limits say already."""
    return any(line.casefold().startswith(feature.casefold()) for line in lines)


def _headline(catalogue: Catalogue, product: Product, price: Price | None, currency: str) -> tuple[str, str]:
    interval = f"a {product.interval}"
    if price is None:
        return amount(Decimal(0), currency), interval
    if price.base is not None:
        return amount(price.base, currency), interval
    if price.unit is not None:
        unit = catalogue.meters[price.unit.meter].unit
        return amount(price.unit.amount, currency), f"for each started {plural(price.unit.size, unit)}"
    for usage in price.usage:
        first = next((entry for entry in _rates(usage) if entry[1] > 0), None)
        if first is not None:
            return amount(first[1], currency), f"per {_block(catalogue, usage)}"
    return amount(Decimal(0), currency), interval


def _block(catalogue: Catalogue, usage: UsagePrice) -> str:
    unit = catalogue.meters[usage.meter].unit
    return unit if usage.per == 1 else plural(usage.per, unit)


def _rates(usage: UsagePrice) -> list[tuple[int | None, Decimal, Decimal]]:
    """Return (up to, amount of one block, flat fee) of each slice in order."""
    if usage.tiers:
        return [(tier.up_to, tier.amount, tier.flat) for tier in usage.tiers]
    standard = usage.amount or Decimal(0)
    if usage.discounts:
        return [(entry.up_to, standard * (100 - entry.percent) / 100, Decimal(0)) for entry in usage.discounts]
    return [(None, standard, Decimal(0))]


def _allowances(catalogue: Catalogue, product: Product, price: Price | None, currency: str) -> Iterable[str]:
    if price is None:
        return
    if price.base is None and price.unit is None:
        yield f"No {product.interval}ly fee"
    if price.unit is not None and price.unit.at_least:
        yield f"At least {plural(price.unit.at_least, 'package')} a {product.interval}"
    for usage in price.usage:
        unit = catalogue.meters[usage.meter].unit
        if usage.included:
            yield f"{plural(usage.included, unit)} {'a year ' if product.interval == 'year' else ''}included"
        rates = _rates(usage)
        for index, (up_to, block, flat) in enumerate(rates[:TIERS_SHOWN_MAX]):
            start = "then " if usage.included and index == 0 else ""
            text = f"{start}{amount(block, currency)} for every {_block(catalogue, usage)}"
            if up_to is not None:
                text += f", up to {count(up_to)}"
            elif len(rates) > 1:
                text += " above that"
            yield text + (f", plus {amount(flat, currency)}" if flat else "")


def _limits(catalogue: Catalogue, product: Product) -> Iterable[str]:
    if product.quota is not None and product.quota.beyond == "stop":
        window = "a month" if product.quota.window == "calendar_month" else "in 30 days"
        meter = catalogue.meters.get(product.quota.meter)
        yield f"{plural(product.quota.calls, meter.unit if meter else 'call')} {window}, then calls stop"
    if product.rate_limit is not None:
        seconds = product.rate_limit.per_seconds
        window = {1: "a second", 60: "a minute"}.get(seconds, f"in {seconds} seconds")
        yield f"{plural(product.rate_limit.calls, 'call')} {window}"
    if product.keys > 1:
        yield f"{count(product.keys)} keys"


def _extras(product: Product, price: Price | None, currency: str) -> Iterable[str]:
    if product.trial_days:
        yield f"First {plural(product.trial_days, 'day')} free"
    if price is None:
        return
    if price.setup:
        yield f"{amount(price.setup, currency)} once for setup"
    if price.minimum:
        yield f"At least {amount(price.minimum, currency)} a {product.interval}"
    if price.maximum is not None:
        yield f"Never more than {amount(price.maximum, currency)} a {product.interval}"


def _terms(product: Product, price: Price | None) -> Iterable[str]:
    if price is None:
        yield "Nothing is charged and no card is needed."
    else:
        when = f"on the first day of each {product.interval}" if product.billing_anchor == "calendar" else f"each {product.interval}"
        if price.base is not None:
            yield f"The fee is charged in advance, {when}."
            if product.billing_anchor == "calendar" and product.policies.proration == "by_second":
                yield f"For the rest of this {product.interval} you pay only its share."
        if price.usage or price.unit:
            yield f"Usage is charged {when} for the {product.interval} before."
    yield "Cancel at any time on the subscription's page."


def example_costs(catalogue: Catalogue, product: Product, currency: str) -> list[Example]:
    """Price three amounts of usage that show how the price grows: within what is included, above it, far above it."""
    if product.price is None or not product.priced_meters():
        return []
    meter_id = product.priced_meters()[0]
    included = next((usage.included for usage in product.price.usage if usage.meter == meter_id), 0)
    size = (product.price.unit.size if product.price.unit else included) // MONTHS[product.interval]
    examples = []
    for units in dict.fromkeys((size // 2, size, size * 2) if size else (1_000, 10_000, 100_000)):
        cost = cost_of(catalogue, product, Question(((meter_id, units),), currency, product.interval))
        if cost.total_minor is not None:
            examples.append(Example(f"{plural(units, catalogue.meters[meter_id].unit)} a month", cost.total_minor, currency))
    return examples
