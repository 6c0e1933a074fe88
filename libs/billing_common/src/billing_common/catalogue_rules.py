"""Rules that go across fields: a catalogue that breaks one cannot be sold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from billing_common.catalogue_gates import check_gates
from billing_common.catalogue_meters import check_meter, check_quota, check_use
from billing_common.catalogue_model import METER_ID_PATTERN, PATTERN_WORDS, Price, Product, UsagePrice, meter_event_name
from billing_common.catalogue_notation import EXAMPLE
from billing_common.catalogue_problems import Problems, did_you_mean
from billing_common.catalogue_source import Path
from billing_common.catalogue_tiers import has_slices
from billing_common.money import CURRENCIES, UNIT_AMOUNT_DECIMALS, amount_max, amount_step, display, exponent, plain, to_minor

if TYPE_CHECKING:
    from billing_common.catalogue import Catalogue

EVENT_NAME_MAX = 100  # of a meter at Stripe

PARTS = ("base", "setup", "usage", "unit", "minimum", "maximum")  # of a price, that charge something
# model -> parts of the price it must have, parts it may have
SHAPES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "Free": (frozenset(), frozenset()),
    "Freemium": (frozenset({"usage"}), frozenset({"maximum"})),
    "Metered": (frozenset({"usage"}), frozenset({"minimum", "maximum", "setup"})),
    "Tier": (frozenset({"base"}), frozenset({"setup"})),
    "TierWithOverage": (frozenset({"base", "usage"}), frozenset({"setup", "maximum"})),
    "Unit": (frozenset({"unit"}), frozenset({"base", "setup", "maximum"})),
    "Volume": (frozenset({"usage"}), frozenset({"base", "setup", "minimum", "maximum"})),
    "Graduated": (frozenset({"usage"}), frozenset({"base", "setup", "minimum", "maximum"})),
    "VolumeDiscount": (frozenset({"usage"}), frozenset({"base", "setup", "minimum", "maximum"})),
    "Hybrid": (frozenset(), frozenset({"base", "usage", "unit", "setup", "minimum", "maximum"})),
}


def check(catalogue: Catalogue, products: Mapping[int, Product], problems: Problems, *, mentioned: Collection[str] = frozenset()) -> None:
    """Note everything in `problems` that keeps the catalogue from being sold. `products` by their place in the file."""
    _check_currency(catalogue.currency, ("currency",), problems)
    for meter_id, meter in catalogue.meters.items():
        check_meter(meter, ("meters", meter_id), problems)
        if not re.match(METER_ID_PATTERN, meter_id):
            problems.add(
                ("meters", meter_id), f'the meter id "{meter_id[:40]}" is not allowed', PATTERN_WORDS[METER_ID_PATTERN], certain=True
            )
    repeated = [product_id for product_id, count in Counter(product.id.lower() for product in products.values()).items() if count > 1]
    for index, product in products.items():
        path = ("products", index)
        if product.id.lower() in repeated:
            problems.add((*path, "id"), f'the id "{product.id}" is used by two products (APIM ignores case)', "an id of its own")
        _check_product(catalogue, product, path, problems)
    used = {meter for product in products.values() for meter in product.meter_ids()}.union(mentioned)
    for meter_id in sorted(catalogue.meters.keys() - used):
        problems.add(("meters", meter_id), f'no product uses the meter "{meter_id}"', "meters that a price or a quota names", certain=True)


def _check_product(catalogue: Catalogue, product: Product, path: Path, problems: Problems) -> None:
    if product.trial_days and product.billing_anchor == "calendar":
        allowed = '"billing_anchor": "anniversary", or no trial_days'
        problems.add((*path, "trial_days"), "a trial cannot be combined with calendar billing", allowed)
    if product.on_end == "free" and not any(other.is_free for other in catalogue.products):
        problems.add((*path, "on_end"), 'on_end is "free" but the catalogue has no product of the model Free', "cancel")
    _check_shape(product, path, problems)
    check_gates(product, path, problems)
    if product.quota:
        _check_meter(catalogue, product, product.quota.meter, (*path, "quota", "meter"), problems)
        check_quota(catalogue.meters.get(product.quota.meter), product, (*path, "quota"), problems)
    for at, code, price in _prices(catalogue, product, path):
        for place, meter_id in _meters(price, at):
            _check_meter(catalogue, product, meter_id, place, problems)
        if code != catalogue.currency:
            _check_currency(code, at if at[-1] != "price" else (*path, "currency"), problems)
        if at[-1] != "price" and code == catalogue.currency_of(product):
            problems.add(at, f'"{code}" is the currency of "price" already', "further currencies")
        if code in CURRENCIES:
            _check_price(product, price, code, at, problems)
        if product.price is not None and _parts(price) != _parts(product.price):
            allowed = ", ".join(sorted(_parts(product.price))) or "no parts at all"
            problems.add(at, "the prices of one product must have the same parts in every currency", allowed)


def _prices(catalogue: Catalogue, product: Product, path: Path) -> Iterable[tuple[Path, str, Price]]:
    if product.price is not None:
        yield (*path, "price"), catalogue.currency_of(product), product.price
    for code, price in product.currencies.items():
        yield (*path, "currencies", code), code, price


def _meters(price: Price, path: Path) -> Iterable[tuple[Path, str]]:
    for index, usage in enumerate(price.usage):
        yield (*path, "usage", index, "meter"), usage.meter
    if price.unit:
        yield (*path, "unit", "meter"), price.unit.meter


def _check_meter(catalogue: Catalogue, product: Product, meter_id: str, path: Path, problems: Problems) -> None:
    meter = catalogue.meters.get(meter_id)
    if meter is None:
        known = ", ".join(catalogue.meters) or "none: the file has no meters"
        hint = did_you_mean(meter_id, catalogue.meters)
        problems.add(path, f'there is no meter "{meter_id[:40]}".{hint}', known)
        return
    check_use(meter, product, meter_id, path, problems)
    if product.source == "reports" and (meter.counts.statuses != ("2xx",) or meter.weights or meter.weight != 1 or meter.property_name):
        allowed = 'the sources "stream" and "ingest"'
        problems.add((*path[:2], "source"), "APIM's reports know only successful calls: this meter has filters or weights", allowed)
    name = meter_event_name(product.id, meter_id)
    if len(name) > EVENT_NAME_MAX:
        allowed = f"{EVENT_NAME_MAX - len(name) + len(product.id)} characters with this meter"
        problems.add((*path[:2], "id"), f'Stripe refuses the meter name "{name}": it has {len(name)} characters', allowed)


def _check_currency(code: str, path: Path, problems: Problems) -> None:
    if code not in CURRENCIES:
        message = f'"{code[:10]}" is not a currency that Stripe charges in.{did_you_mean(code, sorted(CURRENCIES))}'
        problems.add(path, message, "ISO 4217 codes in lower case, for example usd, eur, jpy")


def _parts(price: Price) -> frozenset[str]:
    return frozenset(name for name in (*PARTS, "spend_cap") if getattr(price, name) not in (None, ()))


def _check_shape(product: Product, path: Path, problems: Problems) -> None:
    required, optional = SHAPES[product.model]
    optional |= frozenset() if product.is_free else {"spend_cap"}
    given = _parts(product.price) if product.price else frozenset()
    allowed = ", ".join(sorted(required | optional)) or "no price at all"
    for part in sorted(required - given):
        problems.add((*path, "price"), f'the model {product.model} needs "{part}" in its price', allowed)
    for part in sorted(given - required - optional):
        problems.add((*path, "price", part), f'the model {product.model} has no "{part}" in its price', allowed)
    if product.is_free and product.currencies:
        problems.add((*path, "currencies"), "a free product has no currencies", "no currencies")
    if product.model == "Hybrid" and not given - {"spend_cap"}:
        problems.add((*path, "price"), "the model Hybrid needs at least one part in its price", allowed)
    if product.model == "Tier" and product.quota is None:
        problems.add((*path, "quota"), 'the model Tier needs a quota: without one the fee buys everything. Did you mean "Hybrid"?', "quota")


def _check_price(product: Product, price: Price, currency: str, path: Path, problems: Problems) -> None:
    for name in ("base", "setup", "minimum", "maximum", "spend_cap"):
        _check_whole(getattr(price, name), currency, (*path, name), problems)
    if price.unit:
        _check_whole(price.unit.amount, currency, (*path, "unit", "amount"), problems)
    if price.minimum is not None and price.maximum is not None and price.minimum > price.maximum:
        problems.add((*path, "minimum"), "the least spend is above the most spend", f"at most {plain(price.maximum)}")
    _check_spend_cap(price, (*path, "spend_cap"), problems)
    meters = [usage.meter for usage in price.usage] + ([price.unit.meter] if price.unit else [])
    for meter_id in {meter_id for meter_id in meters if meters.count(meter_id) > 1}:
        problems.add((*path, "usage"), f'the meter "{meter_id}" is priced twice', "one price per meter")
    for index, usage in enumerate(price.usage):
        at = (*path, "usage", index)
        _check_usage(product, usage, at, problems)
        _check_rates(usage, currency, at, problems)
        if product.quota and product.quota.meter == usage.meter and product.quota.calls < usage.included:
            allowed = f"at least {usage.included}"
            problems.add((*path[:2], "quota", "calls"), f"the quota ({product.quota.calls}) is below the included amount", allowed)


def _check_spend_cap(price: Price, path: Path, problems: Problems) -> None:
    cap, fee = price.spend_cap, price.base or Decimal(0)
    if cap is not None and cap <= fee:
        problems.add(path, "the spend cap is not above the base fee: every period would begin beyond it", f"more than {plain(fee)}")
    elif cap is not None and price.maximum is not None and cap > price.maximum:
        problems.add(path, "the spend cap is above the most spend: it would never be reached", f"at most {plain(price.maximum)}")


def _check_usage(product: Product, usage: UsagePrice, path: Path, problems: Problems) -> None:
    if (usage.amount is None) == (not usage.tiers):
        problems.add(path, 'a usage price has either "amount" or "tiers"', "one of the two")
    if product.model == "Metered" and usage.included:
        problems.add((*path, "included"), "the model Metered includes nothing", "0, or the model Freemium")
    if product.model in ("Freemium", "TierWithOverage") and not usage.included and not usage.tiers:
        problems.add(path, f'the model {product.model} needs "included"', "the units that cost nothing, 1 or more")
    if product.model == "Volume" and usage.mode != "volume":
        problems.add((*path, "mode"), "the model Volume charges the whole quantity at one rate", '"mode": "volume"')
    if product.model == "VolumeDiscount" and not usage.discounts:
        problems.add((*path, "discounts"), "the model VolumeDiscount needs discounts", f"entries, or a text such as {EXAMPLE}")
    if usage.mode == "volume" and usage.included:
        allowed = "0, or a first tier or discount without a charge"
        problems.add((*path, "included"), "volume charges the whole quantity, so the included units would be charged too", allowed)
    if usage.tiers and (usage.included or usage.discounts):
        problems.add((*path, "tiers"), 'tiers stand alone: no "included" and no "discounts" beside them', "a first tier with the amount 0")
    for name in ("tiers", "discounts"):
        _check_slices([entry.up_to for entry in getattr(usage, name)], (*path, name), problems)


def _check_slices(ends: list[int | None], path: Path, problems: Problems) -> None:
    if ends and ends[-1] is not None:
        problems.add(
            (*path, len(ends) - 1, "up_to"), "the last tier has an end: usage beyond it would have no price", "null in the last tier"
        )
    previous = 0
    for index, end in enumerate(ends):
        if end is None and index < len(ends) - 1:
            problems.add((*path, index, "up_to"), "only the last tier is without an end", "a number")
        elif end is not None and end <= previous:
            problems.add((*path, index, "up_to"), f"the tier ends at {end}, inside the one before", f"more than {previous}")
        previous = end if end is not None else previous


def _check_rates(usage: UsagePrice, currency: str, path: Path, problems: Problems) -> None:
    amounts = [((*path, "amount"), usage.amount)] if usage.amount is not None else []
    amounts += [((*path, "tiers", index, "amount"), tier.amount) for index, tier in enumerate(usage.tiers)]
    for at, amount in amounts:
        _check_precision(to_minor(amount, currency), 1 if usage.rounding != "exact" and not has_slices(usage) else usage.per, at, problems)
    for index, tier in enumerate(usage.tiers):
        _check_whole(tier.flat, currency, (*path, "tiers", index, "flat"), problems)
    for index, discount in enumerate(usage.discounts if usage.amount is not None else ()):
        factor = (100 - discount.percent) / Decimal(100)
        _check_precision(
            to_minor(usage.amount or Decimal(0), currency) * factor, usage.per, (*path, "discounts", index, "percent"), problems
        )


def _check_precision(minor: Decimal, per: int, path: Path, problems: Problems) -> None:
    """Stripe takes 12 decimals of a minor unit: a rate must be exact within them."""
    numerator, denominator = minor.as_integer_ratio()
    if numerator * 10**UNIT_AMOUNT_DECIMALS % (denominator * per):
        message = f"the price of one unit has more than {UNIT_AMOUNT_DECIMALS} decimals of the minor unit"
        problems.add(path, message, "an amount that `per` divides exactly")


def _check_whole(amount: Decimal | None, currency: str, path: Path, problems: Problems) -> None:
    if amount is None:
        return
    minor, written = to_minor(amount, currency), f"{plain(amount)} {currency.upper()}"
    if minor % amount_step(currency):
        allowed = f"at most {exponent(currency)} decimals" if amount_step(currency) == 1 else f"whole {currency.upper()}"
        problems.add(path, f"{written} is too precise: this amount must be whole in what can be charged", allowed)
    if minor > amount_max(currency):
        most = display(amount_max(currency), currency)
        problems.add(path, f"{written} is more than Stripe can charge at once", f"at most {most}")
