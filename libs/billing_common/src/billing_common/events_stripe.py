"""Events that `webhook_ingress` makes of Stripe's webhooks: subscriptions, checkout, invoices and cards."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from billing_common.event_base import AccountEvent, InvoiceStatus, Minor, SubscriptionEvent, SubscriptionStatus

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
    component: str | None = Field(
        default=None, description="of a line that Turnpike added: rounding, minimum, maximum, correction, unbilled"
    )
    correction_id: UUID | None = Field(default=None, description="which correction, or which usage missing on an invoice, the line is for")


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
