"""Currencies and rounding: how many minor units a currency has, and the one way an amount is rounded."""

from decimal import ROUND_HALF_UP, Context, Decimal, localcontext

_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"
# Stripe keeps two decimals for ISK and UGX although their amounts must be whole: they stand here on purpose.
_TWO = """
    usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc cve czk
    dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr isk jmd kes kgs khr kyd kzt lak lbp lkr lrd
    lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln qar ron rsd sar sbd scr sek
    sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah ugx uyu uzs wst xcd yer zar zmw
"""
WHOLE_ONLY = frozenset({"isk", "ugx"})
# How many digits an amount in minor units may have to be charged: Stripe's table, eight where it names no other.
AMOUNT_DIGITS = {"idr": 12, "lbp": 11, "cop": 10, "huf": 10, "jpy": 10, "inr": 9}
ZERO_DECIMAL, THREE_DECIMAL, TWO_DECIMAL = (frozenset(codes.split()) for codes in (_ZERO, _THREE, _TWO))
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | TWO_DECIMAL
UNIT_AMOUNT_DECIMALS = 12  # Stripe's limit for unit_amount_decimal, counted in minor units
EXACT = Context(prec=60)  # more digits than any quantity times any rate has: nothing is rounded on the way


class UnknownCurrencyError(Exception):
    """The code is none of the currencies that Stripe charges in."""


def exponent(currency: str) -> int:
    """Return the number of decimals of the currency's minor unit, from Stripe's table."""
    if currency in ZERO_DECIMAL:
        return 0
    if currency in THREE_DECIMAL:
        return 3
    if currency in TWO_DECIMAL:
        return 2
    raise UnknownCurrencyError(currency)


def amount_step(currency: str) -> int:
    """Return the smallest amount that can be charged, in minor units: 100 where the two decimals are always 00."""
    return 100 if currency in WHOLE_ONLY else 1


def amount_max(currency: str) -> int:
    """Return the largest amount, in minor units, that can be charged at once."""
    return int(10 ** AMOUNT_DIGITS.get(currency, 8)) - 1


def to_minor(amount: Decimal, currency: str) -> Decimal:
    """Return a major amount (89.95) in minor units (8995), exact and not rounded."""
    return EXACT.scaleb(amount, exponent(currency))


def to_major(minor: int, currency: str) -> Decimal:
    """Return minor units (8995) as the amount people read (89.95)."""
    return EXACT.scaleb(Decimal(minor), -exponent(currency))


def round_half_up(minor: Decimal) -> int:
    """Round to whole minor units, halves away from zero: what Stripe does once per invoice line."""
    with localcontext(EXACT):
        return int(minor.quantize(Decimal(1), ROUND_HALF_UP))


def plain(value: Decimal) -> str:
    """Write a decimal without an exponent and without trailing zeros: the SDK would send 1E-7 as it is."""
    text = format(value or Decimal(0), "f")  # there is no minus zero in money
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def display(minor: int, currency: str) -> str:
    """Return an amount for people: `USD 1,499.90`."""
    return f"{currency.upper()} {to_major(minor, currency):,.{exponent(currency)}f}"
