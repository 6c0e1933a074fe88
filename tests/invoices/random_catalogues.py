"""Random catalogues that can be sold: every pricing model that Stripe bills, in two currencies, as `monetizationModels.json` has them."""

import json
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

from billing_common.catalogue import Catalogue
from billing_common.money import CURRENCIES, exponent

Json = dict[str, Any]

MODELS = ("Freemium", "Metered", "Tier", "TierWithOverage", "Unit", "Volume", "Graduated", "VolumeDiscount", "Hybrid")
METERS = ("calls", "bytes", "tokens")
NO_DECIMALS, THREE_DECIMALS = ("jpy", "krw", "clp"), ("kwd", "bhd", "tnd")
WHOLE_ONLY = ("isk", "ugx")  # two decimals at Stripe, always 00
TWO_DECIMALS = tuple(sorted(code for code in CURRENCIES if exponent(code) == 2 and code not in WHOLE_ONLY))


class Maker:
    """Makes the products of one catalogue: they share interval, anchor and currencies, so that a plan can be changed for another."""

    def __init__(self, random: Random, prefix: str) -> None:
        self.random = random
        self.prefix = prefix
        self.interval = "year" if random.random() < 0.2 else "month"
        self.anchor = random.choice(["calendar", "anniversary"])
        self.proration = random.choice(["by_second", "by_second", "by_second", "none"])
        self.trial_days = random.choice([0, 0, 1, 14, 31]) if self.anchor == "anniversary" else 0
        first = random.choice(
            [random.choice(TWO_DECIMALS), "usd", "eur", random.choice(NO_DECIMALS), random.choice(THREE_DECIMALS), *WHOLE_ONLY]
        )
        self.currencies = (first, random.choice([code for code in ("usd", "inr", "jpy", "kwd") if code != first]))

    def catalogue(self, products: int) -> Catalogue:
        meters: Json = {meter: {"name": meter.capitalize()} for meter in METERS}
        made = [self._product(f"{self.prefix}{letter}") for letter in "abc"[:products]]
        used = {entry["meter"] for product in made for entry in product["price"].get("usage", ())}
        used |= {product["price"]["unit"]["meter"] for product in made if "unit" in product["price"]}
        meters = {meter: fields for meter, fields in meters.items() if meter in used or meter == "calls"}
        if "calls" not in used:
            made[0]["quota"] = {"calls": 10**9, "beyond": "overage"}
        return Catalogue.parse(json.dumps({"version": 1, "currency": self.currencies[0], "meters": meters, "products": made}))

    def _product(self, product_id: str) -> Json:
        model = self.random.choice(MODELS)
        shape = self.random.random()  # the same parts in both currencies, other amounts
        prices = [_Price(Random(shape), self.random, currency).of(model) for currency in self.currencies]
        product: Json = {
            "id": product_id, "name": product_id, "model": model, "interval": self.interval, "billing_anchor": self.anchor,
            "price": prices[0], "currencies": {self.currencies[1]: prices[1]}, "policies": {"proration": self.proration},
        }  # fmt: skip
        if self.trial_days:
            product["trial_days"] = self.trial_days
        if model == "Tier":
            product["quota"] = {"calls": 50_000}
        return product


class _Price:
    """Draws one price in one currency: its parts from one source, its amounts from another."""

    def __init__(self, random: Random, amounts: Random, currency: str) -> None:
        self.random = random
        self.amounts = amounts
        self.places = 0 if currency in WHOLE_ONLY else exponent(currency)

    def of(self, model: str) -> Json:
        make: dict[str, Callable[[], Json]] = {
            "Freemium": lambda: {"usage": [self._plain("calls", included=True)]},
            "Metered": lambda: {"usage": [self._plain("calls")], **self._some("setup"), **self._limits()},
            "Tier": lambda: {"base": self._whole(), **self._some("setup")},
            "TierWithOverage": lambda: {"base": self._whole(), "usage": [self._plain("calls", included=True)], **self._some("setup")},
            "Unit": lambda: {"unit": self._packages("calls"), **self._some("setup", "base")},
            "Volume": lambda: {"usage": [self._tiers("calls", "volume")], **self._some("base", "setup"), **self._limits()},
            "Graduated": lambda: {"usage": [self._tiers("calls", "graduated")], **self._some("base", "setup"), **self._limits()},
            "VolumeDiscount": lambda: {"usage": [self._discounts("calls")], **self._some("base", "setup"), **self._limits()},
            "Hybrid": self._hybrid,
        }
        return make[model]()

    def _hybrid(self) -> Json:
        meters = list(METERS[: self.random.randint(1, 3)])
        kinds = (
            self._plain,
            lambda meter: self._plain(meter, included=True),
            self._discounts,
            lambda meter: self._tiers(meter, self.random.choice(["volume", "graduated"])),
        )
        price: Json = {"unit": self._packages(meters.pop())} if len(meters) > 1 and self.random.random() < 0.5 else {}
        price["usage"] = [self.random.choice(kinds)(meter) for meter in meters]
        return price | self._some("base", "base", "setup") | self._limits()

    def _plain(self, meter: str, *, included: bool = False) -> Json:
        allowance = {"included": self.random.choice([1, 100, 1000, self.random.randint(2, 5000)])} if included else {}
        return {"meter": meter, "amount": self._rate(), **self._blocks(), **allowance}

    def _tiers(self, meter: str, mode: str) -> Json:
        def tier(end: int | None) -> Json:
            return {"up_to": end, "amount": self._rate(), "flat": self.amounts.choice(["0", "0", self._whole()])}

        return {"meter": meter, "mode": mode, "tiers": [tier(end) for end in [*self._ends(), None]], **self._blocks()}

    def _discounts(self, meter: str) -> Json:
        ends, mode = self._ends(), self.random.choice(["graduated", "volume"])
        steps = [f"to {end} {self.random.randint(1, 40)} % off" for end in ends[1:]]
        text = ", ".join([f"0-{ends[0]} standard", *steps, f"above {self.random.randint(41, 100)} % off"]) if ends else "from 0 12.5 % off"
        allowance = {"included": self.random.choice([10, 3000])} if mode == "graduated" and self.random.random() < 0.3 else {}
        return {"meter": meter, "mode": mode, "amount": self._rate(), "discounts": text, **self._blocks(), **allowance}

    def _packages(self, meter: str) -> Json:
        return {
            "meter": meter, "size": self.random.choice([1, 7, 100, 1500]), "amount": self._whole(), "at_least": self.random.randint(0, 3),
        }  # fmt: skip

    def _blocks(self) -> Json:
        return {"per": self.random.choice([1, 10, 100]), "rounding": self.random.choice(["exact", "started", "completed", "completed"])}

    def _ends(self) -> list[int]:
        return sorted(self.random.sample(range(1, 5000), self.random.randint(0, 3)))

    def _limits(self) -> Json:
        low, high = sorted((self._whole(), self._whole()), key=Decimal)
        return {name: limit for name, limit in (("minimum", low), ("maximum", high)) if self.random.random() < 0.3}

    def _some(self, *names: str) -> Json:
        return {name: self._whole() for name in names if self.random.random() < 0.5}

    def _whole(self) -> str:
        """An amount in whole minor units, now and then 0."""
        number = self.amounts.choice([0, *(self.amounts.randint(1, 99_999) for _ in range(5))])
        return format(Decimal(number).scaleb(-self.places), "f")

    def _rate(self) -> str:
        """An amount with up to four digits more than the minor unit has."""
        return format(Decimal(self.amounts.randint(0, 30_000)).scaleb(-self.places - self.amounts.randint(0, 4)), "f")
