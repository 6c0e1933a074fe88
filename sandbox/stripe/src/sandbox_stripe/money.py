"""Amounts for people: Stripe's currency table and the words of an invoice line."""

from decimal import Decimal

ZERO_DECIMAL = frozenset({"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"})
THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
WHOLE_AMOUNTS = frozenset({"isk", "ugx"})  # written with two decimals that are always 00
SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "inr": "₹", "jpy": "¥"}


def exponent(currency: str) -> int:
    return 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2


def chargeable(minor: int, currency: str) -> int:
    """Return the nearest amount that can be charged: Stripe rounds invoices of these currencies to whole units, halves up."""
    return (minor + 50) // 100 * 100 if currency in WHOLE_AMOUNTS else minor


def show(minor: Decimal | int, currency: str) -> str:
    """Write an amount with its currency, with all the digits it has, two at least where the currency has two."""
    places = exponent(currency)
    major = abs(Decimal(minor)).scaleb(-places)
    digits = max(places, -int(major.normalize().as_tuple().exponent) if major else places)
    text = f"{major:,.{digits}f}"
    symbol = SYMBOLS.get(currency)
    sign = "-" if minor < 0 else ""
    return f"{sign}{symbol}{text}" if symbol else f"{sign}{text} {currency.upper()}"
