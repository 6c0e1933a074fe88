"""The older form of the file: Microsoft's bare array, amounts in cents, quantities in units of 100 calls."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from billing_common.catalogue_problems import Problems, add_validation_problems, did_you_mean
from billing_common.catalogue_source import Path
from billing_common.money import CURRENCIES, UnknownCurrencyError, exponent, plain

CALLS_PER_UNIT = 100
UNIT_AMOUNT, QUOTA, METERED_AMOUNT = ("prices", "unit", "unitAmount"), ("prices", "unit", "quota"), ("prices", "metered", "unitAmount")
# part of a product in the present form -> where it stood in the older one
OLDER_PLACES: dict[Path, Path] = {
    ("name",): ("id",),
    ("model",): ("pricingModelType",),
    ("interval",): ("recurring", "interval"),
    ("currency",): ("prices",),
    ("quota",): QUOTA,
    ("price",): ("prices",),
    ("price", "base"): UNIT_AMOUNT,
    ("price", "unit", "amount"): UNIT_AMOUNT,
    ("price", "unit", "size"): QUOTA,
    ("price", "usage", 0, "included"): QUOTA,
    ("price", "usage", 0, "amount"): METERED_AMOUNT,
}


class _Old(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Recurring(_Old):
    interval: Literal["month", "year"]
    intervalCount: int = Field(default=1, ge=1, le=1)  # noqa: N815 - the name in the file


class _Unit(_Old):
    currency: str = "usd"
    unitAmount: Annotated[Decimal, Field(ge=0)] | None = None  # noqa: N815
    quota: int = Field(default=0, ge=0)
    maxUnits: int = Field(default=0, ge=0)  # noqa: N815


class _Metered(_Old):
    currency: str = "usd"
    unitAmount: Annotated[Decimal, Field(ge=0)]  # noqa: N815


class _Prices(_Old):
    unit: _Unit | None = None
    metered: _Metered | None = None


class _Model(_Old):
    id: str
    pricingModelType: Literal["Free", "Freemium", "Metered", "Tier", "TierWithOverage", "Unit"]  # noqa: N815
    recurring: _Recurring | None = None
    prices: _Prices = _Prices()


def upgrade_document(value: list[Any], problems: Problems) -> dict[str, Any]:
    """Return the present form; note what does not fit in `problems`."""
    if not value:
        problems.add((), "the list is empty", "at least one model, as in docs/examples/older-form.json")
    try:
        models = TypeAdapter(list[_Model]).validate_python(value)
    except ValidationError as error:
        add_validation_problems(problems, error, _Model, depth=1)
        return {}
    for index, model in enumerate(models):
        _check(model, index, problems)
    products = [_product(model, index, problems) for index, model in enumerate(models)]
    currency = products[0]["currency"] if products else "usd"
    for product in products:
        if product["currency"] == currency:
            del product["currency"]
    return {
        "version": 1,
        "currency": currency,
        "meters": {"calls": {"name": "API calls"}},
        "products": products,
    }


def _check(model: _Model, index: int, problems: Problems) -> None:
    """Refuse what the older program read past: an amount that is missing, or that no invoice would have."""
    unit, metered, kind = model.prices.unit, model.prices.metered, model.pricingModelType
    fee, rate = kind in ("Tier", "TierWithOverage", "Unit"), kind in ("Freemium", "Metered", "TierWithOverage")
    path = (index, "prices")
    if fee and (unit is None or unit.unitAmount is None):
        problems.add((*path, "unit", "unitAmount"), f"the model {kind} has no fee", "an amount in cents")
    if kind not in ("Free", "Metered") and (unit is None or unit.quota == 0):
        problems.add((*path, "unit", "quota"), f"the model {kind} has no quota", "units of 100 calls, 1 or more")
    if not fee and unit is not None and unit.unitAmount:
        problems.add((*path, "unit", "unitAmount"), f"the model {kind} charges no fee: this amount would be lost", "0, or another model")
    if rate and metered is None:
        problems.add((*path, "metered"), f"the model {kind} has no price for usage", "an amount in cents for each 100 calls")
    if not rate and metered is not None:
        problems.add(
            (*path, "metered"), f"the model {kind} charges no usage: this amount would be lost", "no metered price, or another model"
        )
    if unit is not None and metered is not None and unit.currency.lower() != metered.currency.lower():
        problems.add((*path, "metered", "currency"), "one product has one currency", unit.currency.lower() or "usd")


def _product(model: _Model, index: int, problems: Problems) -> dict[str, Any]:
    unit, metered = model.prices.unit, model.prices.metered
    currency = unit.currency.lower() if unit else metered.currency.lower() if metered else "usd"
    try:
        exponent(currency)
    except UnknownCurrencyError:
        hint = did_you_mean(currency, sorted(CURRENCIES))
        place = (index, "prices", "unit" if unit else "metered", "currency")
        problems.add(place, f'"{currency[:10]}" is not a currency that Stripe charges in.{hint}', "ISO 4217 codes")
        return {"currency": currency}
    calls = (unit.quota if unit else 0) * CALLS_PER_UNIT
    product: dict[str, Any] = {
        "id": model.id,
        "name": model.id.capitalize(),
        "model": model.pricingModelType,
        "currency": currency,
        "interval": model.recurring.interval if model.recurring else "month",
    }
    price = _price(model, currency, calls)
    if price:
        product["price"] = price
    if calls and model.pricingModelType in ("Free", "Tier"):
        product["quota"] = {"calls": calls}
    return product


def _price(model: _Model, currency: str, calls: int) -> dict[str, Any]:
    unit, metered = model.prices.unit, model.prices.metered
    price: dict[str, Any] = {}
    if model.pricingModelType == "Unit" and unit:
        return {"unit": {"meter": "calls", "size": calls, "amount": _amount(unit.unitAmount or Decimal(0), currency)}}
    if model.pricingModelType in ("Tier", "TierWithOverage") and unit:
        price["base"] = _amount(unit.unitAmount or Decimal(0), currency)
    if model.pricingModelType in ("Freemium", "Metered", "TierWithOverage") and metered:
        usage: dict[str, Any] = {"meter": "calls", "amount": _amount(metered.unitAmount, currency), "per": CALLS_PER_UNIT}
        included = {} if model.pricingModelType == "Metered" else {"included": calls}
        price["usage"] = [{**usage, **included}]
    return price


def _amount(cents: Decimal, currency: str) -> str:
    return plain(cents.scaleb(-exponent(currency)))
