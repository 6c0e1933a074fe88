"""The lines of an invoice before they are stored: base fees in advance, usage in arrears, parts of periods."""

from datetime import UTC, datetime
from decimal import Decimal

from sandbox_stripe import money, rating
from sandbox_stripe.errors import Json
from sandbox_stripe.world import World

TIMES = "\N{MULTIPLICATION SIGN}"


def price_in(price: Json, currency: str) -> Json:
    """Return a price in a subscription's currency."""
    if price["currency"] == currency:
        return price
    option = price["_currency_options"][currency]
    return {
        **price,
        "currency": currency,
        **{key: option[key] for key in ("unit_amount", "unit_amount_decimal")},
        "_tiers": option.get("tiers"),
    }


def price_of(world: World, item: Json, currency: str) -> Json:
    found = world.store.find(item["_price"], "price", deleted=True)
    assert found is not None
    return price_in(found, currency)


def is_metered(price: Json) -> bool:
    return bool(price["recurring"]) and price["recurring"]["usage_type"] == "metered"


def name_of(world: World, price: Json) -> str:
    product = world.store.find(price["product"], "product", deleted=True)
    name = product["name"] if product else "Product"
    return f"{name} ({price['nickname']})" if price["nickname"] else str(name)


def day_text(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%-d %b %Y")


def spec(price: Json, item: Json | None, line: rating.RatedLine, description: str, period: tuple[int, int], **extra: object) -> Json:
    return {
        "amount": line.amount_minor, "description": description, "quantity": line.quantity,
        "unit_amount_decimal": rating.text_of(line.unit_amount),
        "period": {"start": period[0], "end": period[1]}, "price": price["id"], "product": price["product"], "currency": price["currency"],
        "item": item["id"] if item else None, "proration": False, "usage": False, **extra,
    }  # fmt: skip


def describe(world: World, price: Json, line: rating.RatedLine) -> str:
    """Write a line as Stripe does: `12345 x Calls (Tier 2 at $0.001)`."""
    name = name_of(world, price)
    every = f" / {price['recurring']['interval']}" if price["recurring"] else ""
    if line.unit_amount is None:
        return f"{name} ({line.note} at {money.show(line.amount_minor, price['currency'])}{every})"
    transform = price.get("transform_quantity")
    per = f" per {transform['divide_by']} units" if transform else ""
    note = f"{line.note} at " if line.note else "at "
    return f"{line.quantity} {TIMES} {name} ({note}{money.show(line.unit_amount, price['currency'])}{per}{every})"


def advance(world: World, price: Json, item: Json | None, period: tuple[int, int]) -> list[Json]:
    """Return the lines of a licensed price for a whole period."""
    quantity = (item or {}).get("quantity") or 1
    return [spec(price, item, line, describe(world, price, line), period) for line in rating.rate(price, quantity)]


def usage(world: World, price: Json, item: Json, customer: str, period: tuple[int, int]) -> list[Json]:
    """Return the lines of a metered price for what the meter has between two moments; none where no time lies between."""
    if period[0] >= period[1]:
        return []
    quantity = used(world, price, customer, period)
    return [spec(price, item, line, describe(world, price, line), period, usage=True) for line in rating.rate(price, quantity)]


def used(world: World, price: Json, customer: str, period: tuple[int, int]) -> int:
    meter = world.store.find(price["recurring"]["meter"], "billing.meter", deleted=True)
    assert meter is not None
    total = world.store.usage(meter["event_name"], customer, period[0], period[1], meter["default_aggregation"]["formula"])
    return max(total, 0)


def part(world: World, price: Json, item: Json, period: tuple[int, int], whole: tuple[int, int], *, credit: bool = False) -> Json:
    """Return the prorated line of a licensed price: a charge for the rest of a period, or a credit for what is unused of it."""
    quantity = item.get("quantity") or 1
    exact = rating.exact_total(price, quantity)
    amount = rating.prorate(-exact if credit else exact, period[1] - period[0], whole[1] - whole[0])
    words = "Unused time" if credit else "Remaining time"
    count = f"{quantity} {TIMES} " if quantity > 1 else ""
    description = f"{words} on {count}{name_of(world, price)} from {day_text(period[0])} to {day_text(period[1])}"
    return spec(price, item, rating.RatedLine(quantity, Decimal(amount) / quantity, amount), description, period, proration=True)


def trial(world: World, price: Json, item: Json, period: tuple[int, int]) -> Json:
    quantity = item.get("quantity") or 1
    return spec(price, item, rating.RatedLine(quantity, Decimal(0), 0), f"Trial period for {name_of(world, price)}", period)
