"""The address of the pricing page: read with an answer for every mistake, and written so that each state can be shared."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode

from billing_common.catalogue import Catalogue
from billing_common.catalogue_model import Interval
from billing_common.catalogue_problems import did_you_mean
from delegation_gateway.pricing import MONTHS, Question, currencies_of, intervals_of, meters_for, products_for
from turnpike_ui.formats import count

UNITS_MAX = 10**12
UNITS_DEFAULT = 120_000
SLIDER_TOP_MIN = 10_000_000
TYPED_MAX = 40  # characters of a wrong value that are shown again
ADDRESS_MAX = 4_096
THEMES = ("system", "light", "dark")
OWN_NAMES = frozenset({"currency", "interval", "product", "by", "theme"})
NUMBER = re.compile(r"[0-9]{1,16}|[0-9]{1,3}(?:[ \u00a0\u202f,.'_][0-9]{2,3})*[ \u00a0\u202f,.'_][0-9]{3}")

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class Reading:
    """What the address asks for. Where `errors` names a parameter, its default stands in `question`."""

    question: Question
    by: str | None  # the meter along which cost is drawn; None where no plan is metered
    product_id: str | None = None  # the plan that was asked for
    theme: str = "system"
    typed: Mapping[str, str] = field(default_factory=dict)  # meter -> as it was written
    errors: Mapping[str, str] = field(default_factory=dict)  # parameter -> what to do


class AddressTooLongError(Exception):
    """The query holds more than any page of ours asks for."""


def parameter(meter_id: str) -> str:
    """Return the name of a meter's parameter: its id, unless that is one of our own names. A meter's id has no dot."""
    return f"meter.{meter_id}" if meter_id in OWN_NAMES else meter_id


def read(pairs: Sequence[tuple[str, str]], catalogue: Catalogue) -> Reading:
    """Read the query; a parameter that we do not know is left alone, as campaigns add some."""
    if sum(len(name) + len(value) for name, value in pairs) > ADDRESS_MAX:
        raise AddressTooLongError
    given = dict(pairs)
    errors: dict[str, str] = {}
    interval = _one_of(given.get("interval", ""), "interval", intervals_of(catalogue), errors)
    currency = _one_of(given.get("currency", "").lower(), "currency", currencies_of(catalogue), errors)
    meters = meters_for(catalogue, interval)
    usage, typed = {}, {}
    for meter_id in meters:
        usage[meter_id] = default_usage(catalogue, meter_id, interval)
        text = given.get(parameter(meter_id))
        if text is not None and (number := read_number(text)) is None:
            typed[meter_id] = text[:TYPED_MAX]
            errors[parameter(meter_id)] = _number_wanted(catalogue, meter_id)
        elif text is not None:
            usage[meter_id] = number or 0
    by = _one_of(given.get("by", ""), "by", meters, errors) if meters else None
    product_id = _product(given.get("product", ""), catalogue, interval, errors)
    theme = _one_of(given.get("theme", ""), "theme", THEMES, errors)
    known = {*OWN_NAMES, *(parameter(meter_id) for meter_id in meters)}
    for name, times in Counter(name for name, _ in pairs if name in known).items():
        if times > 1:
            errors[name] = f'"{name}" is given {times} times: give it once'
    return Reading(Question(tuple(usage.items()), currency, interval), by, product_id, theme, typed, errors)


def read_number(text: str) -> int | None:
    """Read "120,000", "120 000" and "120000"; None for what is no whole number or beyond what is priced."""
    if not NUMBER.fullmatch(text.strip(" ")):
        return None
    number = int("".join(character for character in text if character in "0123456789"))
    return number if number <= UNITS_MAX else None


def _one_of(value: str, name: str, allowed: Sequence[Choice], errors: dict[str, str]) -> Choice:
    """Return what was chosen, or else the first that is allowed."""
    for choice in allowed:
        if choice == value.strip():
            return choice
    if value.strip():
        errors[name] = f'Choose one of {", ".join(allowed[:20])} for "{name}"'
    return allowed[0]


def _product(product_id: str, catalogue: Catalogue, interval: Interval, errors: dict[str, str]) -> str | None:
    ids = [product.id for product in products_for(catalogue, interval)]
    if not product_id or product_id in ids:
        return product_id or None
    if product_id not in {product.id for product in catalogue.products}:  # a plan billed in the other interval is just not shown
        errors["product"] = f'Choose one of {", ".join(ids[:20])} for "product".{did_you_mean(product_id[:TYPED_MAX], ids)}'
    return None


def _number_wanted(catalogue: Catalogue, meter_id: str) -> str:
    return f"Enter {catalogue.meters[meter_id].name} a month as a whole number from 0 to {count(UNITS_MAX)}, for example 120,000"


def default_usage(catalogue: Catalogue, meter_id: str, interval: Interval) -> int:
    """Return usage that shows how plans differ: a fifth more than what the middle one includes."""
    prices = [product.price for product in products_for(catalogue, interval) if product.price is not None]
    included = sorted(usage.included for price in prices for usage in price.usage if usage.meter == meter_id and usage.included)
    return round_to_two(included[len(included) // 2] // MONTHS[interval] * 6 // 5) or UNITS_DEFAULT if included else UNITS_DEFAULT


def slider_top(catalogue: Catalogue, meter_id: str, interval: Interval) -> int:
    """Return the largest usage of the slider: a power of ten well beyond what is usual, and beyond every tier and package."""
    reached = [default_usage(catalogue, meter_id, interval) * 20]
    for product in products_for(catalogue, interval):
        for price in [product.price] if product.price else []:
            reached += [tier.up_to or 0 for usage in price.usage if usage.meter == meter_id for tier in usage.tiers]
            reached += [price.unit.size * 5] if price.unit and price.unit.meter == meter_id else []
    top = SLIDER_TOP_MIN if catalogue.meters[meter_id].unit == "call" else 10
    while top < max(reached) and top < UNITS_MAX:
        top *= 10
    return top


def round_to_two(number: int) -> int:
    """Round down to two significant digits."""
    unit = int("1" + "0" * (len(str(number)) - 2))
    return number // unit * unit


def first_digit(number: int) -> int:
    """Return the power of ten at or below a number."""
    return int("1" + "0" * (len(str(number)) - 1))


@dataclass(frozen=True)
class Address:
    """Writes the address of a reading, leaving out what is the default anyway."""

    catalogue: Catalogue
    reading: Reading

    def query(self, changes: Mapping[str, str] | None = None) -> str:
        """Return the query of this state with some parameters changed."""
        question = self.reading.question
        usage = {parameter(meter_id): str(units) for meter_id, units in question.usage}
        rest = {"interval": question.interval, "currency": question.currency, "product": self.reading.product_id or ""}
        values = usage | rest | {"by": self.reading.by or "", "theme": self.reading.theme} | dict(changes or {})
        defaults = {
            "interval": intervals_of(self.catalogue)[0],
            "currency": currencies_of(self.catalogue)[0],
            "by": next((meter_id for meter_id, _ in question.usage), ""),
            "product": "",
            "theme": "system",
        }
        return urlencode([(name, value) for name, value in values.items() if value != defaults.get(name)])

    def with_usage(self, meter_id: str, units: int) -> str:
        return self.query({parameter(meter_id): str(units)})
