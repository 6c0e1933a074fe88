"""Amounts for people: Stripe's currency table and the words of an invoice line."""

from decimal import Decimal

ZERO_DECIMAL = frozenset({"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"})
THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "inr": "₹", "jpy": "¥"}


def exponent(currency: str) -> int:
    return 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2


def show(minor: Decimal | int, currency: str) -> str:
    """Write an amount with its currency, with all the digits it has, two at least where the currency has two."""
    places = exponent(currency)
    major = abs(Decimal(minor)).scaleb(-places)
    digits = max(places, -int(major.normalize().as_tuple().exponent) if major else places)
    text = f"{major:,.{digits}f}"
    symbol = SYMBOLS.get(currency)
    sign = "-" if minor < 0 else ""
    return f"{sign}{symbol}{text}" if symbol else f"{sign}{text} {currency.upper()}"
