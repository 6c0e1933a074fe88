"""How money, counts and times are written: one way, on every page."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, format_decimal, get_currency_symbol
from markupsafe import Markup

LOCALE = "en_US"
DATE_PATTERN = "d MMMM yyyy"
# Stripe's table, which differs from ISO 4217 in places: what is not here has two decimals.
NO_DECIMALS = frozenset(["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"])
THREE_DECIMALS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


def exponent(currency: str) -> int:
    """Return how many decimals the currency's minor unit stands for."""
    code = currency.lower()
    return 0 if code in NO_DECIMALS else 3 if code in THREE_DECIMALS else 2


def money(amount_minor: int, currency: str) -> str:
    """`money(10995, "usd")` is `$109.95`."""
    return amount(Decimal(amount_minor).scaleb(-exponent(currency)), currency)


def amount(major: Decimal, currency: str) -> str:
    """Write an amount in the major unit with the currency's decimals, and with more where it has more: rates stay exact."""
    least = exponent(currency)
    digits = -int(major.normalize().as_tuple().exponent)
    fraction = "." + "0" * max(least, digits) if max(least, digits) > 0 else ""
    code = currency.upper()
    gap = _gap(get_currency_symbol(code, LOCALE))
    return format_currency(major, code, format=f"¤{gap}#,##0{fraction}", locale=LOCALE, currency_digits=False)


def _gap(symbol: str) -> str:
    """Return what stands between symbol and number: a code needs a space, a sign does not."""
    return "\N{NO-BREAK SPACE}" if symbol[-1].isalpha() else ""


def rate(amount_minor: Decimal | int, currency: str, per: int = 1) -> str:
    """Write what `per` units cost, given the exact minor amount of one unit: `rate(Decimal("0.15"), "usd", 100)` is `$0.15`."""
    return amount(Decimal(amount_minor) * per / (Decimal(10) ** exponent(currency)), currency)


def count(value: Decimal | int) -> str:
    """Write a number in full, with separators."""
    return format_decimal(value, locale=LOCALE, decimal_quantization=False)


def short_count(value: float) -> str:
    """Write a number for an axis: 50K, 1.5M."""
    for limit, letter in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if abs(value) >= limit:
            return f"{value / limit:.10g}{letter}"
    return f"{value:.10g}"


def short_money(amount_minor: float, currency: str, highest_minor: float = 0) -> str:
    """Write an amount for an axis: $0, $2.50, $500, $12.5K; all alike on an axis that reaches ten thousand."""
    major = amount_minor / 10 ** exponent(currency)
    if max(amount_minor, highest_minor) / 10 ** exponent(currency) >= 10_000:
        symbol = get_currency_symbol(currency.upper(), LOCALE)
        return f"{symbol}{_gap(symbol)}{short_count(major)}"
    if major == int(major):
        return amount(Decimal(int(major)), currency).removesuffix("." + "0" * exponent(currency))
    return amount(round(Decimal(major), exponent(currency)), currency)


def percent(value: Decimal | float) -> str:
    return f"{round(value * 100)}%"


def day(value: date, pattern: str = DATE_PATTERN) -> Markup:
    """Write a day in UTC, as a `<time>` element."""
    text = format_date(_utc(value), pattern, locale=LOCALE)
    return Markup('<time datetime="{}">{}</time>').format(_utc(value).strftime("%Y-%m-%d"), text)


def moment(value: datetime) -> Markup:
    """Write a time with its zone, as a `<time>` element."""
    at = value.astimezone(UTC)
    text = format_datetime(at, "d MMMM yyyy, HH:mm", tzinfo=UTC, locale=LOCALE)
    return Markup('<time datetime="{}">{} UTC</time>').format(at.strftime("%Y-%m-%dT%H:%M:%SZ"), text)


def clock_time(value: datetime) -> Markup:
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%H:%M"))


def month(value: date) -> str:
    return format_date(_utc(value), "MMMM yyyy", locale=LOCALE)


def span(start: datetime, end: datetime) -> str:
    """Write a period by its first and its last day: 1 to 30 Nov; the end itself is no longer part of it."""
    first, last = start.astimezone(UTC), end.astimezone(UTC) - timedelta(seconds=1)
    same_month = (first.year, first.month) == (last.year, last.month)
    return f"{format_date(first, 'd' if same_month else 'd MMM', locale=LOCALE)} \N{EN DASH} {format_date(last, 'd MMM', locale=LOCALE)}"


def plural(value: Decimal | int, one: str, many: str | None = None) -> str:
    """`plural(2, "call")` is `2 calls`."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def _utc(value: date) -> date:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


FILTERS = {
    "money": money,
    "amount": amount,
    "rate": rate,
    "count": count,
    "short_count": short_count,
    "short_money": short_money,
    "percent": percent,
    "day": day,
    "moment": moment,
    "clock_time": clock_time,
    "month": month,
    "plural": plural,
    "span": span,
}
