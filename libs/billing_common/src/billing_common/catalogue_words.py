"""A price in words, for whoever has to judge it: what a plan changes, what drifted, what is on sale. Pure functions."""

from collections.abc import Iterable
from decimal import Decimal

from billing_common.catalogue import Catalogue, Price, Product, UsagePrice
from billing_common.money import EXACT, exponent

SLICES_SHOWN_MAX = 6
SIBILANTS = ("s", "x", "ch", "sh")


def price_words(catalogue: Catalogue, product: Product, currency: str) -> dict[str, str]:
    """Return component -> words for everything that a product charges in a currency; nothing for a free one."""
    price = catalogue.price_of(product, currency)
    return {} if price is None else dict(_components(catalogue, product, price, currency))


def component_name(catalogue: Catalogue, component: str) -> str:
    """Return what people call a component of a price."""
    kind, _, meter_id = component.partition(":")
    meter = catalogue.meters.get(meter_id)
    return f"usage of {meter.name if meter else meter_id}" if kind == "usage" else COMPONENT_NAMES.get(kind, component)


COMPONENT_NAMES = {
    "setup": "setup fee", "base": "base fee", "unit": "packages", "minimum": "minimum", "maximum": "maximum", "spend_cap": "spend cap"
}  # fmt: skip


def _components(catalogue: Catalogue, product: Product, price: Price, currency: str) -> Iterable[tuple[str, str]]:
    if price.setup is not None:
        yield "setup", f"{amount(price.setup, currency)} once"
    if price.base is not None:
        yield "base", f"{amount(price.base, currency)} a {product.interval}"
    for usage in price.usage:
        yield f"usage:{usage.meter}", _usage(usage, catalogue.meters[usage.meter].unit, currency)
    if price.unit is not None:
        size = plural(price.unit.size, catalogue.meters[price.unit.meter].unit)
        yield "unit", f"{amount(price.unit.amount, currency)} for each started {size}, at least {plural(price.unit.at_least, 'package')}"
    if price.minimum is not None:
        yield "minimum", f"at least {amount(price.minimum, currency)} a {product.interval}"
    if price.maximum is not None:
        yield "maximum", f"at most {amount(price.maximum, currency)} a {product.interval}"
    if price.spend_cap is not None:
        yield "spend_cap", f"alerts at 50, 80 and 100 % of {amount(price.spend_cap, currency)} a {product.interval}"


def _usage(usage: UsagePrice, unit: str, currency: str) -> str:
    if usage.tiers:
        slices = [(tier.up_to, _rate(tier.amount, usage, unit, currency), tier.flat) for tier in usage.tiers]
        text = "; ".join(_slice(index, *entry, unit=unit, currency=currency) for index, entry in enumerate(slices[:SLICES_SHOWN_MAX]))
        more = f"; and {len(slices) - SLICES_SHOWN_MAX} more tiers" if len(slices) > SLICES_SHOWN_MAX else ""
        return text + more + (" (the whole quantity at the rate of its tier)" if usage.mode == "volume" else "")
    rate = _rate(usage.amount or Decimal(0), usage, unit, currency)
    text = f"{plural(usage.included, unit)} included, then {rate}" if usage.included else rate
    for entry in usage.discounts[:SLICES_SHOWN_MAX]:
        end = f"to {entry.up_to:,}" if entry.up_to is not None else "above"
        text += f", {end} {entry.percent.normalize():f} % off" if entry.percent else f", {end} no discount"
    return text


def _slice(index: int, up_to: int | None, rate: str, flat: Decimal, *, unit: str, currency: str) -> str:
    end = f"to {plural(up_to, unit)}" if up_to is not None else "any number" if index == 0 else "above"
    return f"{end}: {rate}" + (f" and {amount(flat, currency)} on entering" if flat else "")


def _rate(rate: Decimal, usage: UsagePrice, unit: str, currency: str) -> str:
    if usage.rounding == "exact":
        return f"{amount(rate, currency)} {f'a {unit}' if usage.per == 1 else f'per {plural(usage.per, unit)}'}"
    return f"{amount(rate, currency)} for each {'started' if usage.rounding == 'started' else 'full'} {plural(usage.per, unit)}"


def amount(major: Decimal, currency: str) -> str:
    """Write an amount with the currency's decimals, and with more where it has more: `USD 0.00095`."""
    digits = -int(major.normalize(EXACT).as_tuple().exponent)
    return f"{currency.upper()} {major:,.{max(exponent(currency), digits)}f}"


def plural(count: int, one: str) -> str:
    """`plural(2, "query")` is `2 queries`."""
    if count == 1:
        return f"1 {one}"
    if one.endswith("y") and one[-2:-1] not in set("aeiou"):
        return f"{count:,} {one[:-1]}ies"
    return f"{count:,} {one}{'es' if one.endswith(SIBILANTS) else 's'}"
