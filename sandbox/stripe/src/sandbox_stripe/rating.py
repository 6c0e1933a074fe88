"""What a quantity costs under a price: pure, exact, one rounding per line, halves up.

Written on its own, from Stripe's documentation: it is what Turnpike's own quotes are checked against.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext

from sandbox_stripe.errors import Json

PRECISION = 60  # 18 digits of quantity times 18 + 12 digits of rate, exactly


@dataclass(frozen=True)
class RatedLine:
    """One line of an invoice: a slice of the quantity at one rate, or a flat amount."""

    quantity: int
    unit_amount: Decimal | None
    amount_minor: int
    note: str = ""


def round_minor(amount: Decimal) -> int:
    """Round to the minor unit, halves away from zero."""
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def text_of(amount: Decimal | None) -> str | None:
    """Return a decimal as Stripe writes it: plain digits, no trailing zeros."""
    if amount is None:
        return None
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount_of(entry: Json, key: str) -> Decimal:
    value = entry.get(f"{key}_decimal")
    return Decimal(str(value if value not in {None, ""} else entry.get(key) or 0))


def rate(price: Json, quantity: int) -> list[RatedLine]:
    """Return the lines of a quantity: one for a plain or volume price, one a slice for graduated tiers, flat amounts apart."""
    with localcontext() as context:
        context.prec = PRECISION
        if price["billing_scheme"] != "tiered":
            return [_plain(price, quantity)]
        tiers: list[Json] = price["_tiers"]
        return _volume(tiers, quantity) if price["tiers_mode"] == "volume" else _graduated(tiers, quantity)


def total(price: Json, quantity: int) -> int:
    return sum(line.amount_minor for line in rate(price, quantity))


def _plain(price: Json, quantity: int) -> RatedLine:
    units = Decimal(quantity)
    transform = price.get("transform_quantity")
    if transform:
        mode = ROUND_CEILING if transform["round"] == "up" else ROUND_FLOOR
        units = (units / transform["divide_by"]).to_integral_value(mode)
    unit_amount = amount_of(price, "unit_amount")
    return RatedLine(quantity, unit_amount, round_minor(unit_amount * units))


def _flat(tier: Json, number: int) -> list[RatedLine]:
    """Return the line of a flat amount: it has no quantity, and it is there when the amount is 0 but not when none was given."""
    if tier.get("flat_amount") is None and tier.get("flat_amount_decimal") is None:
        return []
    return [RatedLine(0, None, round_minor(amount_of(tier, "flat_amount")), f"Tier {number}")]


def _volume(tiers: list[Json], quantity: int) -> list[RatedLine]:
    number, tier = next((n, t) for n, t in enumerate(tiers, 1) if t["up_to"] is None or quantity <= t["up_to"])
    unit_amount = amount_of(tier, "unit_amount")
    return [RatedLine(quantity, unit_amount, round_minor(unit_amount * quantity), f"Tier {number}"), *_flat(tier, number)]


def _graduated(tiers: list[Json], quantity: int) -> list[RatedLine]:
    lines: list[RatedLine] = []
    below = 0
    for number, tier in enumerate(tiers, 1):
        upper = quantity if tier["up_to"] is None else min(quantity, tier["up_to"])
        units = max(upper - below, 0)
        if units == 0 and number > 1:
            break
        unit_amount = amount_of(tier, "unit_amount")
        lines.append(RatedLine(units, unit_amount, round_minor(unit_amount * units), f"Tier {number}"))
        lines.extend(_flat(tier, number))
        if tier["up_to"] is None:
            break
        below = tier["up_to"]
    return lines


def exact_total(price: Json, quantity: int) -> Decimal:
    """Return what a quantity costs before any rounding: prorations round once, at their own end."""
    if price["billing_scheme"] == "tiered":
        return Decimal(total(price, quantity))
    with localcontext() as context:
        context.prec = PRECISION
        units = Decimal(quantity)
        transform = price.get("transform_quantity")
        if transform:
            mode = ROUND_CEILING if transform["round"] == "up" else ROUND_FLOOR
            units = (units / transform["divide_by"]).to_integral_value(mode)
        return amount_of(price, "unit_amount") * units


def prorate(amount: Decimal, part_seconds: int, whole_seconds: int) -> int:
    """Return the share of an amount for a part of its period, rounded once."""
    with localcontext() as context:
        context.prec = PRECISION
        return round_minor(amount * part_seconds / whole_seconds)
