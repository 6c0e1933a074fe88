"""Every event on Turnpike's topics: one class per topic, plain values only, no personal data and no secrets.

The Kafka record is the event's JSON; its CloudEvents 1.0 attributes stand in the headers as well (`ce_id`, `ce_source`,
`ce_type`, `ce_subject`, `ce_time`). The key is `subject`: the subscription or account id, so order holds per customer.
Ids are derived from the cause, so whoever announces the same fact twice announces the same event.
"""

from abc import abstractmethod
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

NAMESPACE = UUID("6f1f9d43-8d0f-5f0c-9c0e-6b1a5e4f7a10")  # every derived id of Turnpike starts here

NIL = UUID(int=0)
SubscriptionStatus = Literal["incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"]
InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
Minor = Annotated[int, Field(description="Amount in the currency's minor unit (cents for USD)")]


def derive_id(*parts: str) -> UUID:
    """Return the uuid5 of the parts: the same parts always give the same id."""
    return uuid5(NAMESPACE, "\x1f".join(parts))


class InvalidEventError(Exception):
    """No retry can make this event right: it is stored as a dead letter and the next one is read."""


class Event(BaseModel):
    """What every event carries.

    `cause_id` names what made it happen (a request, a webhook, another event); `event_id` is uuid5 of topic, key and cause.
    `occurred_at` is business time (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[str]
    publisher: ClassVar[str]

    event_id: UUID = NIL
    cause_id: str
    occurred_at: AwareDatetime

    @property
    @abstractmethod
    def key(self) -> str:
        """The Kafka key and CloudEvents subject."""

    @model_validator(mode="after")
    def _derive_event_id(self) -> Self:
        if self.event_id == NIL:
            object.__setattr__(self, "event_id", derive_id(self.topic, self.key, self.cause_id))
        return self

    def headers(self) -> dict[str, str]:
        """Return the CloudEvents attributes, as Kafka headers."""
        return {
            "content-type": "application/json",
            "ce_specversion": "1.0",
            "ce_id": str(self.event_id),
            "ce_source": f"/turnpike/{self.publisher}",
            "ce_type": self.topic,
            "ce_subject": self.key,
            "ce_time": self.occurred_at.isoformat(),
        }


class AccountEvent(Event):
    """Facts about who pays."""

    account_id: str

    @property
    def key(self) -> str:
        return self.account_id


class SubscriptionEvent(Event):
    """Facts about one subscription. `subscription_id` is Turnpike's own id and the first APIM sid."""

    subscription_id: str
    account_id: str

    @property
    def key(self) -> str:
        return self.subscription_id


# --- delegation_gateway -------------------------------------------------------------------------------------------------


class AccountRegistered(AccountEvent):
    topic = "account.registered"
    publisher = "delegation_gateway"
    user_id: str = Field(description="APIM user id of the first member; the e-mail address is asked for at the gateway's internal door")


class AccountClosed(AccountEvent):
    topic = "account.closed"
    publisher = "delegation_gateway"


class SubscriptionRequested(SubscriptionEvent):
    topic = "subscription.requested"
    publisher = "delegation_gateway"
    user_id: str
    product_id: str
    catalogue_version: int
    display_name: str = Field(max_length=100)
    currency: str | None = Field(default=None, description="ISO 4217, lower case; the product's default currency when absent")


class SubscriptionCancellationRequested(SubscriptionEvent):
    topic = "subscription.cancellation_requested"
    publisher = "delegation_gateway"
    user_id: str
    when: Literal["now", "period_end"]


class SubscriptionChangeRequested(SubscriptionEvent):
    topic = "subscription.change_requested"
    publisher = "delegation_gateway"
    user_id: str
    product_id: str = Field(description="the product to change to")
    when: Literal["now", "period_end"]
    prorate_at: AwareDatetime | None = Field(
        default=None, description="with now: the second that the price was shown for, so that exactly that is charged"
    )
    catalogue_version: int | None = Field(default=None, ge=1, description="the version whose price was shown")


class SubscriptionChangeWithdrawn(SubscriptionEvent):
    """The customer stays on the present product after all: a change that waits for the end of the period is not made."""

    topic = "subscription.change_withdrawn"
    publisher = "delegation_gateway"
    user_id: str
    change_id: str = Field(description="event id of the subscription.change_requested that is taken back")


class KeyWish(BaseModel):
    model_config = ConfigDict(frozen=True)

    sid: str = Field(description="of the key at API Management: the subscription's id, _ and a number from 2 on, never used again")
    name: str = Field(max_length=100, description="as its owner named it")
    revoked: bool = False


class SubscriptionKeysChanged(SubscriptionEvent):
    """All keys beside the first that a subscription's owner has asked for. Newer revisions replace older ones."""

    topic = "subscription.keys_changed"
    publisher = "delegation_gateway"
    user_id: str
    revision: int = Field(ge=1)
    keys: tuple[KeyWish, ...] = Field(max_length=1000)


# --- checkout -----------------------------------------------------------------------------------------------------------


class CatalogueApplied(Event):
    """The whole catalogue, numbered. Every service keeps the versions it needs."""

    topic = "catalogue.applied"
    publisher = "checkout"
    version: int = Field(ge=1)
    document: dict[str, Any] = Field(
        description="monetizationModels.json in the new form, as contracts/monetizationModels.schema.json says"
    )
    stripe_ids: dict[str, Any] = Field(
        default_factory=dict,
        description="product id -> {product, prices: {component: price id}, meters: {meter id: {id, event_name}}}; "
        "a component is base, unit or usage:<meter>",
    )

    @property
    def key(self) -> str:
        return "catalogue"


class SubscriptionRequestFailed(SubscriptionEvent):
    topic = "subscription.request_failed"
    publisher = "checkout"
    reason: str = Field(description="a stable code, e.g. unknown_product, already_subscribed")


class SubscriptionChangeProgressed(SubscriptionEvent):
    """Where a change of plan stands. Newer revisions of a change replace older ones.

    scheduled: Stripe makes it at `effective_at`. closing: usage from `effective_at` on belongs to the new plan and waits until Stripe has
    made the change. made: Stripe has the new plan. failed (see `reason`), withdrawn: the subscription stays on what it was on.
    """

    topic = "subscription.change_progressed"
    publisher = "checkout"
    change_id: str
    revision: int = Field(ge=1)
    state: Literal["scheduled", "closing", "made", "failed", "withdrawn"]
    product_id: str = Field(description="the product to change to")
    catalogue_version: int
    effective_at: AwareDatetime
    reason: str | None = Field(default=None, description="a stable code, e.g. card_declined, same_product, below_usage")


# --- webhook_ingress (SubscriptionCreated of free products: checkout) ------------------------------------------------------


class SubscriptionItem(BaseModel):
    model_config = ConfigDict(frozen=True)

    stripe_item_id: str
    price_id: str
    lookup_key: str | None = None
    quantity: int | None = Field(default=None, description="null for metered prices")


class SubscriptionState(SubscriptionEvent):
    """The full state of a subscription at one revision: newer revisions replace older ones, whatever order they come in."""

    revision: int = Field(ge=1)
    user_id: str
    product_id: str
    catalogue_version: int
    display_name: str
    status: SubscriptionStatus
    currency: str
    started_at: AwareDatetime
    current_period_start: AwareDatetime
    current_period_end: AwareDatetime | None = Field(description="null for free products: their period has no end")
    cancel_at_period_end: bool = False
    cancel_at: AwareDatetime | None = None
    canceled_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    latest_invoice_id: str | None = None
    stripe_subscription_id: str | None = Field(default=None, description="null for free products")
    stripe_customer_id: str | None = Field(default=None, description="null for free products")
    items: tuple[SubscriptionItem, ...] = ()
    plan_since: AwareDatetime | None = Field(
        default=None, description="since when its fees are those of this product and version; null while it is on what it began with"
    )


class SubscriptionCreated(SubscriptionState):
    topic = "subscription.created"
    publisher = "webhook_ingress"


class SubscriptionUpdated(SubscriptionState):
    topic = "subscription.updated"
    publisher = "webhook_ingress"


class SubscriptionDeleted(SubscriptionState):
    topic = "subscription.deleted"
    publisher = "webhook_ingress"


class CheckoutEvent(SubscriptionEvent):
    session_id: str
    stripe_customer_id: str | None = None
    stripe_subscription_id: str | None = None
    payment_status: Literal["paid", "unpaid", "no_payment_required"]


class CheckoutCompleted(CheckoutEvent):
    topic = "checkout.completed"
    publisher = "webhook_ingress"


class CheckoutExpired(CheckoutEvent):
    topic = "checkout.expired"
    publisher = "webhook_ingress"


class InvoiceLine(BaseModel):
    model_config = ConfigDict(frozen=True)

    line_id: str
    description: str
    amount_minor: Minor
    quantity: Decimal | None = None
    unit_amount_decimal: Decimal | None = Field(default=None, description="minor units, exact")
    price_id: str | None = None
    period_start: AwareDatetime
    period_end: AwareDatetime
    proration: bool = False
    component: str | None = Field(default=None, description="of a line that Turnpike added: rounding, minimum, maximum, correction")
    correction_id: UUID | None = Field(default=None, description="which correction of usage the line is for")


class InvoiceState(SubscriptionEvent):
    """The full state of an invoice at one revision."""

    revision: int = Field(ge=1)
    invoice_id: str
    number: str | None = None
    stripe_subscription_id: str
    stripe_customer_id: str
    status: InvoiceStatus
    billing_reason: str
    currency: str
    total_minor: Minor
    amount_due_minor: Minor
    amount_paid_minor: Minor
    amount_remaining_minor: Minor
    attempt_count: int = 0
    next_payment_attempt: AwareDatetime | None = None
    period_start: AwareDatetime
    period_end: AwareDatetime
    created_at: AwareDatetime
    finalizes_at: AwareDatetime | None = Field(default=None, description="when Stripe turns the draft into a final invoice by itself")
    lines: tuple[InvoiceLine, ...] = ()


class InvoiceCreated(InvoiceState):
    topic = "invoice.created"
    publisher = "webhook_ingress"


class InvoiceFinalized(InvoiceState):
    topic = "invoice.finalized"
    publisher = "webhook_ingress"


class InvoicePaid(InvoiceState):
    topic = "invoice.paid"
    publisher = "webhook_ingress"


class InvoicePaymentFailed(InvoiceState):
    topic = "invoice.payment_failed"
    publisher = "webhook_ingress"


class PaymentMethodChanged(AccountEvent):
    topic = "payment_method.changed"
    publisher = "webhook_ingress"
    revision: int = Field(ge=1)
    stripe_customer_id: str
    default_payment_method_id: str | None
    card_last4: str | None = None


# --- usage_collector ------------------------------------------------------------------------------------------------------


class UsageCollected(SubscriptionEvent):
    """One window's running total: a newer revision replaces an older one, so losing or repeating one does no harm."""

    topic = "usage.collected"
    publisher = "usage_collector"
    product_id: str
    catalogue_version: int
    meter_id: str
    segment_start: AwareDatetime
    hour: AwareDatetime = Field(description="start of the hour, UTC")
    timestamp: AwareDatetime = Field(description="max(hour, segment_start): the time of the Stripe meter event")
    quantity: int = Field(description="running total of the window in the meter's unit")
    revision: int = Field(ge=1)


class UsageSegmentClosed(SubscriptionEvent):
    """No more usage will be counted in this segment: what the reporter must have at Stripe before the invoice is final."""

    topic = "usage.segment_closed"
    publisher = "usage_collector"
    segment_start: AwareDatetime
    segment_end: AwareDatetime
    reason: Literal["period_end", "cancellation", "change"]
    totals: dict[str, int] = Field(description="meter id -> total of all windows of the segment")
    product_id: str | None = Field(default=None, description="the plan whose usage it holds")
    catalogue_version: int | None = None


class UsageThresholdReached(SubscriptionEvent):
    topic = "usage.threshold_reached"
    publisher = "usage_collector"
    meter_id: str
    period_start: AwareDatetime
    period_end: AwareDatetime | None = Field(default=None, description="of a quota's window; null: an included amount, or not known")
    threshold: Decimal = Field(description="share of the included amount, 0.5 = 50 %")
    quantity: int
    hard_stop: bool = False
    product_id: str | None = Field(default=None, description="the product whose quota or allowance it is a share of")


class UsageCorrected(SubscriptionEvent):
    """What was counted was wrong or came too late. Before a segment is closed its running totals follow (`usage.collected`).

    After that they stand as they were invoiced, and the invoice is moved by the difference between two totals of the segment,
    rated by its plan. Who made a correction, and why, is asked for at the collector's internal door.
    """

    topic = "usage.corrected"
    publisher = "usage_collector"
    correction_id: UUID
    kind: Literal["adjustment", "deletion", "late"]
    amounts: dict[str, int] = Field(description="meter id -> what is added, negative where it is taken away")
    at: AwareDatetime = Field(description="the time of the usage")
    product_id: str
    catalogue_version: int
    segment_start: AwareDatetime
    segment_end: AwareDatetime | None = Field(description="null: open-ended")
    after_close: bool = Field(description="false: it is in the running totals")
    totals_before: dict[str, int] = Field(default_factory=dict, description="of the closed segment, with all earlier corrections")
    totals_after: dict[str, int] = Field(default_factory=dict, description="the same with this one")


# --- stripe_reporter ------------------------------------------------------------------------------------------------------


class UsageReported(SubscriptionEvent):
    topic = "usage.reported"
    publisher = "stripe_reporter"
    meter_id: str
    segment_start: AwareDatetime
    hour: AwareDatetime
    quantity: int = Field(description="what Stripe has acknowledged for the window, in total")


class UsageRejected(SubscriptionEvent):
    topic = "usage.rejected"
    publisher = "stripe_reporter"
    meter_id: str
    hour: AwareDatetime
    quantity: int
    code: str
    remedy: str


class UsageSettled(SubscriptionEvent):
    """Everything of a closed segment is at Stripe and acknowledged."""

    topic = "usage.settled"
    publisher = "stripe_reporter"
    segment_start: AwareDatetime
    segment_end: AwareDatetime
    reason: Literal["period_end", "cancellation", "change"]
    totals: dict[str, int]
    product_id: str | None = Field(default=None, description="the plan whose usage it holds")
    catalogue_version: int | None = None


# --- subscription_enforcer ------------------------------------------------------------------------------------------------


class AccessEvent(SubscriptionEvent):
    """Access as applied at the gateway. `revision` grows by one with each applied change of a subscription."""

    user_id: str
    product_id: str
    sid: str
    revision: int = Field(ge=1)
    sids: tuple[str, ...] = Field(default=(), description="of all its keys that are not revoked, the first included; empty: only sid")
    reason: str = Field(description="subscribed, payment_failed, paid, cancellation, canceled, paused, keys")
    effective_at: AwareDatetime


class AccessGranted(AccessEvent):
    topic = "access.granted"
    publisher = "subscription_enforcer"


class AccessSuspended(AccessEvent):
    topic = "access.suspended"
    publisher = "subscription_enforcer"


class AccessRestored(AccessEvent):
    topic = "access.restored"
    publisher = "subscription_enforcer"


class AccessRevoked(AccessEvent):
    topic = "access.revoked"
    publisher = "subscription_enforcer"


ALL_EVENTS: tuple[type[Event], ...] = (
    AccountRegistered, AccountClosed, SubscriptionRequested, SubscriptionCancellationRequested, SubscriptionChangeRequested,
    SubscriptionChangeWithdrawn, SubscriptionKeysChanged, CatalogueApplied, SubscriptionRequestFailed, SubscriptionChangeProgressed,
    SubscriptionCreated, SubscriptionUpdated, SubscriptionDeleted,
    CheckoutCompleted, CheckoutExpired, InvoiceCreated, InvoiceFinalized, InvoicePaid, InvoicePaymentFailed, PaymentMethodChanged,
    UsageCollected, UsageSegmentClosed, UsageThresholdReached, UsageCorrected, UsageReported, UsageRejected, UsageSettled,
    AccessGranted, AccessSuspended, AccessRestored, AccessRevoked,
)  # fmt: skip

USAGE_RECORDED_TOPIC = "usage.recorded"  # raw CloudEvents from HTTP ingest, in docs/architecture.md's shape
GATEWAY_CALLS_TOPIC = "gateway.calls"  # what APIM's log-to-eventhub writes; a setting, because Event Hubs may hold it

__all__ = ["ALL_EVENTS", "GATEWAY_CALLS_TOPIC", "NAMESPACE", "USAGE_RECORDED_TOPIC", "Event", "InvalidEventError", "datetime", "derive_id"]
