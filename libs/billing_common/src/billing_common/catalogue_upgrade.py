"""The older form of the file: Microsoft's bare array, amounts in cents, quantities in units of 100 calls."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from billing_common.catalogue_problems import Problems
from billing_common.money import UnknownCurrencyError, exponent, plain

CALLS_PER_UNIT = 100


class _Old(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Recurring(_Old):
    interval: Literal["month", "year"]
    intervalCount: int = Field(default=1, ge=1, le=1)  # noqa: N815 - the name in the file


class _Unit(_Old):
    currency: str = "usd"
    unitAmount: Annotated[Decimal, Field(ge=0)] = Decimal(0)  # noqa: N815
    quota: int = Field(default=0, ge=0)
    maxUnits: int = Field(default=0, ge=0)  # noqa: N815


class _Metered(_Old):
    currency: str = "usd"
    unitAmount: Annotated[Decimal, Field(ge=0)] = Decimal(0)  # noqa: N815


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
    try:
        models = TypeAdapter(list[_Model]).validate_python(value)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            problems.add(tuple(entry["loc"]), f"the older form is not followed here: {entry['msg'].lower()}")
        return {}
    products = [_product(model, index, problems) for index, model in enumerate(models)]
    return {
        "$schema": "contracts/monetizationModels.schema.json",
        "version": 1,
        "currency": products[0]["currency"] if products else "usd",
        "meters": {"calls": {"name": "API calls"}},
        "products": products,
    }


def _product(model: _Model, index: int, problems: Problems) -> dict[str, Any]:
    unit, metered = model.prices.unit, model.prices.metered
    currency = (unit or metered or _Metered()).currency.lower()
    try:
        exponent(currency)
    except UnknownCurrencyError:
        problems.add((index, "prices"), f'"{currency[:10]}" is not a currency that Stripe charges in')
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
        return {"unit": {"meter": "calls", "size": calls or CALLS_PER_UNIT, "amount": _amount(unit.unitAmount, currency)}}
    if model.pricingModelType in ("Tier", "TierWithOverage") and unit:
        price["base"] = _amount(unit.unitAmount, currency)
    if model.pricingModelType in ("Freemium", "Metered", "TierWithOverage") and metered:
        usage: dict[str, Any] = {"meter": "calls", "amount": _amount(metered.unitAmount, currency), "per": CALLS_PER_UNIT}
        included = {} if model.pricingModelType == "Metered" else {"included": calls}
        price["usage"] = [{**usage, **included}]
    return price


def _amount(cents: Decimal, currency: str) -> str:
    return plain(cents.scaleb(-exponent(currency)))
