"""The shape of monetizationModels.json: meters, products and prices, each field explained for whoever edits the file."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from billing_common.catalogue_notation import EXAMPLE, discounts_of
from billing_common.money import plain

PRODUCT_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # what the developer portal, APIM, Stripe and a URL all take as it is
METER_ID_PATTERN = r"^[a-z][a-z0-9_]{0,31}$"
OPERATION_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
STATUS_PATTERN = r"^[1-5](xx|[0-9]{2})$"
NAME_PATTERN = r"\S"
PATTERN_WORDS = {
    PRODUCT_ID_PATTERN: "letters, digits, - and _, at most 64; a letter or digit first",
    METER_ID_PATTERN: "lower-case letters, digits and _, at most 32; a letter first",
    OPERATION_ID_PATTERN: "letters, digits, ., - and _, at most 80; a letter or digit first",
    NAME_PATTERN: "a text that is not only blanks",
    STATUS_PATTERN: "a class such as 2xx, or a code such as 404",
}
AMOUNT_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?")  # a negative one is told to be out of range
OPERATIONS_MAX = 100  # of one API: the condition stays below APIM's longest expression, 16,384 characters

PricingModel = Literal["Free", "Freemium", "Metered", "Tier", "TierWithOverage", "Unit", "Volume", "Graduated", "VolumeDiscount", "Hybrid"]
Interval = Literal["month", "year"]
Source = Literal["stream", "ingest", "reports"]
BlockRounding = Literal["exact", "started", "completed"]


def meter_event_name(product_id: str, meter_id: str) -> str:
    """Return the event name of a product's meter at Stripe."""
    return f"turnpike_{product_id}_{meter_id}"


def _decimal(value: Any) -> Any:
    if isinstance(value, float):
        message = 'write the amount as text, for example "0.10": this number has already lost its exact value'
        raise ValueError(message)  # noqa: TRY004 - pydantic turns only ValueError into a problem with a path
    if isinstance(value, str) and not AMOUNT_TEXT.fullmatch(value):  # Python would also read 1_0, 1e3 and other scripts' digits
        raise PydanticCustomError("decimal_parsing", "no decimal number")
    return value


Amount = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0, le=Decimal("1e12"), allow_inf_nan=False),
    PlainSerializer(plain, when_used="json", return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}, {"type": "number", "minimum": 0}]}),
]
Count = Annotated[int, Field(ge=1, le=10**15)]
OperationId = Annotated[str, Field(pattern=OPERATION_ID_PATTERN)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Counts(Part):
    """Which calls a meter counts. Calls that the gateway refused are never counted."""

    methods: tuple[str, ...] = Field(default=(), description="HTTP methods that count; empty: all")
    templates: tuple[str, ...] = Field(default=(), description="URL templates that count, as in APIM: /orders/{id}; empty: all")
    statuses: tuple[Annotated[str, Field(pattern=STATUS_PATTERN)], ...] = Field(
        default=("2xx",), min_length=1, description="status classes (2xx) or codes (404) that count"
    )


class Weight(Part):
    """How much a call counts when it matches."""

    method: str | None = Field(default=None, description="HTTP method; absent: any")
    template: str | None = Field(default=None, description="URL template; absent: any")
    weight: int = Field(ge=0, le=1_000_000, description="what such a call adds")


class Meter(Part):
    """What is measured: which calls count and how much each adds. A product that prices a meter has a Stripe meter of its own for it."""

    name: str = Field(min_length=1, max_length=100, pattern=NAME_PATTERN, description="shown on invoices: API calls")
    unit: str = Field(
        default="call", min_length=1, max_length=30, pattern=NAME_PATTERN, description="one of what is counted, singular: call"
    )
    counts: Counts = Field(default=Counts(), description="which calls count; default: those answered with 2xx")
    weight: int = Field(default=1, ge=1, le=1_000_000, description="what a call adds when no entry of weights matches")
    weights: tuple[Weight, ...] = Field(default=(), max_length=100, description="the first that matches decides")
    property_name: str | None = Field(
        default=None,
        alias="property",
        max_length=64,
        description="property of the usage event: the number to add (tokens, responseBytes) instead of a weight; the number whose "
        "highest is taken (max; quantity is the event's own); the value whose different ones are counted (unique; sid, method, "
        "template and status are the call's own)",
    )
    aggregation: Literal["sum", "count", "unique", "max"] = Field(
        default="sum",
        description="how a period's usage becomes one number: sum of weights or of the property; count of calls, whatever their weight; "
        "unique: how many different values the property had; max: its highest value",
    )

    @property
    def has_state(self) -> bool:
        """Whether what an event adds depends on the events before it in the period."""
        return self.aggregation in {"unique", "max"}

    def counts_call(self, *, method: str, template: str | None, status: int) -> bool:
        """Tell whether a call counts for this meter."""
        code = str(status)
        return (
            (not self.counts.methods or method.upper() in self.counts.methods)
            and (not self.counts.templates or template in self.counts.templates)
            and any(code == wanted or (wanted.endswith("xx") and code[0] == wanted[0]) for wanted in self.counts.statuses)
        )

    def weight_of(self, *, method: str | None, template: str | None) -> int:
        """Return what one counted call adds where the meter names no property."""
        for entry in self.weights:
            if entry.method in (None, method) and entry.template in (None, template):
                return entry.weight
        return self.weight


class Bounded(Part):
    """A slice up to a last unit, or without an end."""

    up_to: Count | None

    @model_serializer(mode="wrap")
    def _with_its_end(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the end also where it is null: there it has a meaning, and the field is required."""
        return {"up_to": self.up_to, **write(self)}


class Tier(Bounded):
    """A slice of usage at its own rate."""

    up_to: Count | None = Field(description="last unit of the tier; null in the last tier: no end")
    amount: Amount = Field(description="price of `per` units in this tier")
    flat: Amount = Field(default=Decimal(0), description="added once when the tier is entered; in the first tier always")


class VolumeDiscount(Bounded):
    """A slice of usage with a discount on the standard amount."""

    up_to: Count | None = Field(description="last unit; null in the last entry: no end")
    percent: Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=100)] = Field(description="discount on the standard amount")


Discounts = Annotated[tuple[VolumeDiscount, ...], BeforeValidator(discounts_of, json_schema_input_type=str | tuple[VolumeDiscount, ...])]


class UsagePrice(Part):
    """What usage of one meter costs, in arrears."""

    meter: str = Field(description="id of a meter of this file")
    amount: Amount | None = Field(default=None, description="price of `per` units beyond what is included")
    per: Count = Field(default=1, description="units the amount is for: 100 for a price per 100 calls")
    included: int = Field(default=0, ge=0, le=10**15, description="units of each period that cost nothing; never prorated")
    rounding: BlockRounding = Field(
        default="exact",
        description="exact: pro rata per unit; started: each started block of `per` units beyond what is included; completed: full ones",
    )
    tiers: tuple[Tier, ...] = Field(default=(), max_length=1000, description="instead of amount: one rate per slice")
    mode: Literal["graduated", "volume"] = Field(
        default="graduated", description="graduated: each slice at its own rate; volume: the whole quantity at the rate of its tier"
    )
    discounts: Discounts = Field(
        default=(), max_length=100, description=f"volume discounts on `amount`, which become tiers: entries, or a text such as {EXAMPLE}"
    )


class UnitPrice(Part):
    """A package of usage: each started one is charged."""

    meter: str = Field(description="id of a meter of this file")
    size: Count = Field(description="units of the meter in one package")
    amount: Amount = Field(description="price of one package")
    at_least: int = Field(default=1, ge=0, le=1000, description="packages charged in each period whatever the usage")


class Price(Part):
    """All that is charged for a product in one currency."""

    base: Amount | None = Field(default=None, description="base fee of each interval, paid in advance; see policies.proration")
    setup: Amount | None = Field(default=None, description="one-off fee on the first invoice")
    usage: tuple[UsagePrice, ...] = Field(default=(), max_length=18, description="price of each meter, paid in arrears")
    unit: UnitPrice | None = Field(default=None, description="packages of usage, paid in arrears")
    minimum: Amount | None = Field(
        default=None, description="least spend in a period, of a part of one its share; the difference is added to the invoice"
    )
    maximum: Amount | None = Field(default=None, description="most spend in a period; the rest is taken off the invoice")
    spend_cap: Amount | None = Field(
        default=None, description="bill so far of a period of which 50, 80 and 100 % are announced; only told: calls and charges go on"
    )


class RateLimit(Part):
    """How fast one key may call."""

    calls: Count = Field(description="calls in the window")
    per_seconds: int = Field(default=60, ge=1, le=300, description="length of the window; APIM takes at most 300")


class Quota(Part):
    """How much one subscription may call in a window, over all of its keys."""

    calls: Count = Field(description="calls in the window")
    window: Literal["30_days", "calendar_month"] = Field(
        default="calendar_month",
        description="30_days: fixed periods of 30 days, from the subscription's start, or where calls stop for several keys "
        "from 1 January of the year 1 as API Management counts them; calendar_month: UTC months",
    )
    beyond: Literal["stop", "overage"] = Field(default="stop", description="stop: refused with 403; overage: only announced")
    meter: str = Field(default="calls", description="meter whose thresholds are announced")
    thresholds: tuple[Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=10)], ...] = Field(
        default=(Decimal("0.5"), Decimal("0.8"), Decimal(1)), description="shares of the quota that are announced once per period"
    )


class Policies(Part):
    """What happens at the edges."""

    late_usage: Literal["next_invoice", "waive", "hold"] = Field(
        default="next_invoice", description="usage that comes after the invoice is final, or is missing on it"
    )
    proration: Literal["by_second", "none"] = Field(
        default="by_second", description="base fee and minimum of a part of a period: their share by the second, or none"
    )
    dunning_grace_days: int = Field(default=0, ge=0, le=60, description="days of access after the last failed retry")


class Product(Part):
    """A plan as it is sold: an APIM product and what Stripe charges for it."""

    id: str = Field(pattern=PRODUCT_ID_PATTERN, description="APIM product id; never reuse one")
    name: str = Field(min_length=1, max_length=100, pattern=NAME_PATTERN, description="as shown in the portal and on invoices")
    description: str = Field(default="", max_length=1000, description="as shown in the portal")
    model: PricingModel = Field(description="the kind of pricing; says which parts `price` has")
    interval: Interval = Field(default="month", description="billing interval of every part of the price")
    billing_anchor: Literal["calendar", "anniversary"] = Field(
        default="calendar", description="calendar: periods start on day 1, 00:00 UTC; anniversary: at the moment of subscribing"
    )
    trial_days: int = Field(default=0, ge=0, le=730, description="free days at the start; only with billing_anchor anniversary")
    source: Source = Field(default="stream", description="who counts: APIM's event stream, HTTP ingest or APIM's reports")
    currency: str | None = Field(default=None, description="ISO 4217 code of `price`; default: the file's currency")
    price: Price | None = Field(default=None, description="absent for Free")
    currencies: dict[str, Price] = Field(default_factory=dict, description="the same price in further currencies")
    rate_limit: RateLimit | None = Field(default=None, description="absent: unlimited")
    quota: Quota | None = Field(default=None, description="absent: unlimited")
    apis: tuple[Annotated[str, Field(pattern=PRODUCT_ID_PATTERN)], ...] = Field(
        default=(), description="APIM ids of the APIs a key of this product may call"
    )
    operations: dict[str, Annotated[tuple[OperationId, ...], Field(min_length=1, max_length=OPERATIONS_MAX)]] = Field(
        default_factory=dict,
        description="id of an API of `apis` -> ids of the only operations of it that a key may call; an API that is not named: all of them",
    )
    features: tuple[Annotated[str, Field(max_length=80)], ...] = Field(default=(), max_length=15, description="shown on the pricing page")
    keys: int = Field(default=1, ge=1, le=100, description="keys a subscription may have")
    on_end: Literal["cancel", "free"] = Field(
        default="cancel", description="free: go on with the Free product, under a key of its own, when the paid one ends"
    )
    policies: Policies = Field(default=Policies(), description="late usage, proration, dunning")

    @property
    def is_free(self) -> bool:
        """A free product has no price at Stripe: no card, no subscription, no invoice."""
        return self.model == "Free"

    def priced_meters(self) -> tuple[str, ...]:
        """Return the meters that Stripe bills, in the order of the invoice."""
        if self.price is None:
            return ()
        unit = (self.price.unit.meter,) if self.price.unit else ()
        return tuple(dict.fromkeys((*(usage.meter for usage in self.price.usage), *unit)))

    def meter_ids(self) -> tuple[str, ...]:
        """Return the meters that are counted for this product: those it prices and the one its quota watches."""
        watched = (self.quota.meter,) if self.quota else ()
        return tuple(dict.fromkeys((*self.priced_meters(), *watched)))
