"""The rating function against a slow calculator that walks call by call over the raw JSON and shares no code with it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.catalogue import Catalogue
from billing_common.rating import Facts, Period, QuantityChange, rate

SEEDS = 600  # `make test-deep` runs 100,000
START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = {"month": (28, 29, 30, 31), "year": (365, 366)}
EXPONENTS = {"usd": 2, "inr": 2, "jpy": 0, "kwd": 3}
METERS = ("calls", "bytes", "tokens")
CALLS_MAX = 120
Json = dict[str, Any]
Question = tuple[Json, dict[str, int], Facts, Period]

# --- random catalogues, usages and facts ------------------------------------------------------------------------------------------


def amount(random: Random, places: int) -> str:
    number = random.randint(0, 2000)
    return f"{number // 10**places}.{number % 10**places:0{places}}" if places else str(number)


def slices(random: Random, value: Callable[[], Json]) -> list[Json]:
    ends = sorted({random.randint(1, 100) for _ in range(random.randint(0, 3))})
    return [{"up_to": end, **value()} for end in [*ends, None]]


def usage_price(random: Random, meter: str, places: int) -> Json:
    entry: Json = {
        "meter": meter,
        "per": random.choice([1, 4, 10, 100]),
        "mode": random.choice(["graduated", "graduated", "volume"]),
        "rounding": random.choice(["exact", "exact", "started", "completed"]),
    }
    kind = random.choice(["plain", "tiers", "discounts"])
    if kind == "tiers":
        flat = random.choice(["0", amount(random, places)])
        return entry | {"tiers": slices(random, lambda: {"amount": amount(random, 3), "flat": random.choice(["0", flat])})}
    entry["amount"] = amount(random, 3)
    if entry["mode"] == "graduated":
        entry["included"] = random.choice([0, 0, 1, 30, 77])
    if kind == "discounts":
        entry["discounts"] = slices(random, lambda: {"percent": random.choice(["0", "20", "40", "12.5"])})
    return entry


def catalogue_document(random: Random) -> Json:
    currency = random.choice(sorted(EXPONENTS))
    places = EXPONENTS[currency]
    meters = METERS[: random.randint(1, 3)]
    packaged = random.choice([False, True])
    price: Json = {"usage": [usage_price(random, meter, places) for meter in (meters[:-1] if packaged else meters)]}
    if packaged:
        size, least = random.randint(1, 50), random.randint(0, 2)
        price["unit"] = {"meter": meters[-1], "size": size, "amount": amount(random, places), "at_least": least}
    price |= {name: amount(random, places) for name in ("base", "setup") if random.choice([False, True])}
    limits = sorted((amount(random, places), amount(random, places)), key=Fraction)
    price |= {name: limit for name, limit in zip(("minimum", "maximum"), limits, strict=True) if random.randint(0, 3) == 0}
    product = {
        "id": "it", "name": "It", "interval": random.choice(["month", "month", "month", "year"]), "price": price,
        "policies": {"proration": random.choice(["by_second", "by_second", "none"])}, "quota": {"calls": 5000, "beyond": "overage"},
    }  # fmt: skip
    if random.randint(0, 30) == 0:
        product["price"] = price = {"usage": [], "base": amount(random, places), "setup": price.get("setup", "0")}
    product["model"] = random.choice(models_of(price))
    used = dict.fromkeys(("calls", *(entry["meter"] for entry in (*price["usage"], *([price["unit"]] if "unit" in price else ())))))
    return {"version": 1, "currency": currency, "meters": {meter: {"name": meter} for meter in used}, "products": [product]}


def models_of(price: Json) -> list[str]:
    """Name the models that allow just these parts; the model changes no amount, only what may be written."""
    parts, usage = {name for name, part in price.items() if part != []}, price["usage"]
    allowances, metered = all(entry.get("included") or "tiers" in entry for entry in usage), bool(usage) and "unit" not in parts
    fits = {
        "Hybrid": True,
        "Tier": parts <= {"base", "setup"},
        "Unit": {"unit"} <= parts <= {"unit", "base", "setup", "maximum"},
        "Freemium": {"usage"} <= parts <= {"usage", "maximum"} and allowances,
        "Metered": metered and "base" not in parts and not any(entry.get("included") for entry in usage),
        "TierWithOverage": {"base", "usage"} <= parts <= {"base", "usage", "setup", "maximum"} and allowances,
        "Volume": metered and all(entry["mode"] == "volume" for entry in usage),
        "Graduated": metered,
        "VolumeDiscount": metered and all("discounts" in entry for entry in usage),
    }
    return [model for model, fit in fits.items() if fit]


def subscription(random: Random, period: Period) -> Facts:
    seconds = seconds_of(period)
    began = random.choice([0, -86_400, random.randint(0, seconds - 10)])
    drawn = {random.choice([0, random.randint(0, seconds - 1)]) for _ in range(random.randint(0, 3))}
    moments = sorted(moment for moment in drawn if moment > began)
    ended = moments.pop(random.randrange(len(moments))) if moments and random.choice([False, True]) else None
    return Facts(
        started_at=period.start + timedelta(seconds=began),
        ended_at=None if ended is None else period.start + timedelta(seconds=ended),
        end_reason=random.choice(["change", "cancellation"]),
        trial_end=period.end if random.randint(0, 30) == 0 else None,
        quantity=random.randint(1, 4),
        quantity_changes=tuple(QuantityChange(period.start + timedelta(seconds=at), random.randint(1, 4)) for at in moments),
        credit_minor=random.choice([0, 0, 500]),
    )


def seconds_of(period: Period) -> int:
    return round((period.end - period.start).total_seconds())


def question(random: Random) -> Question:
    """Half of all usages stand at the end of a tier, an allowance or a block, or one call beside it."""
    document = catalogue_document(random)
    price, usage = document["products"][0]["price"], {}
    for meter in document["meters"]:
        near = random.choice([edge for edge in edges_of(price, meter) if edge <= CALLS_MAX])
        usage[meter] = max(0, random.choice([near + random.randint(-1, 1), random.randint(0, CALLS_MAX)]))
    period = Period(START, START + timedelta(days=random.choice(DAYS[document["products"][0]["interval"]])))
    return document, usage, subscription(random, period), period


def edges_of(price: Json, meter: str) -> list[int]:
    edges = [0]
    for entry in price["usage"]:
        if entry["meter"] == meter:
            included = entry.get("included", 0)
            edges += [included, included + entry["per"]]
            edges += [slice_["up_to"] for slice_ in (*entry.get("tiers", ()), *entry.get("discounts", ())) if slice_["up_to"]]
    return edges + ([price["unit"]["size"]] if price.get("unit", {}).get("meter") == meter else [])


# --- the slow calculator ----------------------------------------------------------------------------------------------------------


def half_up(minor: Fraction) -> int:
    sign = -1 if minor < 0 else 1
    return sign * ((2 * abs(minor).numerator + minor.denominator) // (2 * minor.denominator))


class SlowCalculator:
    def __init__(self, document: Json, period: Period) -> None:
        product = document["products"][0]
        self.start, self.seconds = period.start, seconds_of(period)
        self.price, self.prorated = product["price"], product["policies"]["proration"] == "by_second"
        self.cent = Fraction(10) ** EXPONENTS[document["currency"]]

    def minor(self, amount: str) -> Fraction:
        return Fraction(amount) * self.cent

    def total(self, usage: dict[str, int], known: Facts) -> int:
        setup = half_up(self.minor(self.price["setup"])) if known.started_at >= self.start and "setup" in self.price else 0
        return setup if known.trial_end else setup + self.spent(usage, known)

    def spent(self, usage: dict[str, int], known: Facts) -> int:
        spent = self.base(known)
        if known.ended_at is not None and known.ended_at <= max(known.started_at, self.start):
            return spent  # no time to use anything in
        for entry in self.price["usage"]:
            spent += self.usage(entry, usage[entry["meter"]])
        if "unit" in self.price:
            spent += self.packages(self.price["unit"], usage[self.price["unit"]["meter"]])
        spent = max(spent, self.least(known))
        if "maximum" in self.price:
            spent = min(spent, half_up(self.minor(self.price["maximum"])))
        return spent

    def least(self, known: Facts) -> int:
        """Count the seconds that were bought: to the period's end, unless another plan began before."""
        begin = max(0, self.second(known.started_at))
        if not self.prorated:
            return 0 if begin else half_up(self.minor(self.price.get("minimum", "0")))
        changed = known.ended_at is not None and known.end_reason == "change"
        bought = (self.second(known.ended_at) if changed and known.ended_at else self.seconds) - begin
        return half_up(self.minor(self.price.get("minimum", "0")) * bought / self.seconds)

    def base(self, known: Facts) -> int:
        """Walk through the changes in order of time; every one is a line of its own."""
        if "base" not in self.price:
            return 0
        begin = max(0, self.second(known.started_at))
        if begin and not self.prorated:
            return 0
        fee, count = self.minor(self.price["base"]), known.quantity
        spent = self.rest(fee * count, begin)
        if not self.prorated:
            return spent
        end = None if known.ended_at is None else self.second(known.ended_at)
        for change in known.quantity_changes:
            at = self.second(change.at)
            if end is None or at < end:
                spent -= self.rest(fee * count, at)
                count = change.quantity
                spent += self.rest(fee * count, at)
        if end is not None and known.end_reason == "change":
            spent -= self.rest(fee * count, end)
        return spent

    def rest(self, fee: Fraction, second: int) -> int:
        return half_up(fee * (self.seconds - second) / self.seconds)

    def second(self, instant: datetime) -> int:
        return round((instant - self.start).total_seconds())

    def usage(self, entry: Json, calls: int) -> int:
        return self.exact(entry, self.billed(entry, calls))

    def billed(self, entry: Json, calls: int) -> int:
        """Count the units of each block when its first call comes, or its last."""
        if entry["rounding"] == "exact":
            return calls
        per, billed = entry["per"], 0
        for call in range(1, calls + 1):
            beyond = call - entry.get("included", 0)
            if beyond <= 0:
                billed += 1
            elif beyond % per == (1 % per if entry["rounding"] == "started" else 0):
                billed += per
        return billed

    def exact(self, entry: Json, calls: int) -> int:
        counted: dict[int, int] = {}
        for call in range(1, calls + 1):
            place = self.place(entry, calls if entry["mode"] == "volume" else call)
            counted[place] = counted.get(place, 0) + 1
        entered = {self.place(entry, max(calls, 1))} if entry["mode"] == "volume" else {*counted, self.place(entry, 1)}
        fees = [half_up(self.minor(entry["tiers"][place]["flat"])) for place in entered] if "tiers" in entry else []
        return sum(fees) + sum(half_up(self.rate(entry, place) * count) for place, count in counted.items())

    def place(self, entry: Json, call: int) -> int:
        """Return the number of the slice a call lies in; -1 for what is included."""
        if call <= entry.get("included", 0):
            return -1
        listed = entry.get("tiers") or entry.get("discounts") or [{"up_to": None}]
        return next(number for number, slice_ in enumerate(listed) if slice_["up_to"] is None or call <= slice_["up_to"])

    def rate(self, entry: Json, place: int) -> Fraction:
        if place == -1:
            return Fraction(0)
        if "tiers" in entry:
            return self.minor(entry["tiers"][place]["amount"]) / entry["per"]
        percent = Fraction(entry["discounts"][place]["percent"]) if "discounts" in entry else Fraction(0)
        return self.minor(entry["amount"]) * (100 - percent) / 100 / entry["per"]

    def packages(self, unit: Json, calls: int) -> int:
        started = sum(1 for call in range(1, calls + 1) if (call - 1) % unit["size"] == 0)
        return half_up(self.minor(unit["amount"])) * max(started, unit["at_least"])


# --- the comparisons --------------------------------------------------------------------------------------------------------------

some = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
randoms = st.randoms(use_true_random=False, note_method_calls=False)


def answer(document: Json, usage: dict[str, int], known: Facts, period: Period) -> tuple[int, int]:
    catalogue = Catalogue.from_document(document)
    rated = rate(catalogue, catalogue.product("it"), period=period, usage=usage, facts=known)
    return rated.total_minor, rated.due_minor


def compare(document: Json, usage: dict[str, int], known: Facts, period: Period) -> None:
    expected = SlowCalculator(document, period).total(usage, known)
    assert expected >= 0
    assert answer(document, usage, known, period) == (expected, expected - min(expected, known.credit_minor)), (document, usage, known)


@some
@given(random=randoms)
def test_the_result_equals_a_slow_calculation_call_by_call(random: Random) -> None:
    compare(*question(random))


def test_so_it_does_for_many_seeds() -> None:
    for seed in range(SEEDS):
        compare(*question(Random(seed)))


@some
@given(random=randoms)
def test_more_usage_never_costs_less_where_the_price_is_not_by_volume(random: Random) -> None:
    document, usage, known, period = question(random)
    document["products"][0]["model"] = "Hybrid"
    for entry in document["products"][0]["price"]["usage"]:
        entry["mode"] = "graduated"
    grown = {meter: quantity + random.randint(0, 150) for meter, quantity in usage.items()}
    assert answer(document, usage, known, period)[0] <= answer(document, grown, known, period)[0]


@some
@given(random=randoms)
def test_meters_add_up(random: Random) -> None:
    """With no limit on the spend, each meter costs what it costs alone."""
    document, usage, known, period = question(random)
    document["products"][0]["model"] = "Hybrid"
    price = document["products"][0]["price"]
    price.pop("minimum", None)
    price.pop("maximum", None)
    nothing = dict.fromkeys(usage, 0)
    idle = answer(document, nothing, known, period)[0]
    alone = [answer(document, nothing | {meter: quantity}, known, period)[0] - idle for meter, quantity in usage.items()]
    assert answer(document, usage, known, period)[0] == idle + sum(alone)
