"""Events of `usage_collector`, `stripe_reporter` and `subscription_enforcer`: usage, its way to Stripe, and access."""

from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from billing_common.event_base import SubscriptionEvent

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
    """Usage has reached something that its plan names: said once for each threshold, period and subscription, whatever totals do later.

    A plan, or a version of it, whose `limit` is another has thresholds of its own.

    `allowance`: a share of a quota or of an included amount. `tier`: the meter's total entered the tier of the price with the number
    `threshold`; one that jumps over several says each of them. `spend_cap`: a share of an amount of money, reached by the bill so far;
    it has no meter (""). Only `hard_stop` asks for anything.
    """

    topic = "usage.threshold_reached"
    publisher = "usage_collector"
    meter_id: str
    period_start: AwareDatetime
    period_end: AwareDatetime | None = Field(default=None, description="of a quota's window; null: an included amount, or not known")
    threshold: Decimal = Field(description="share of the quota or included amount, 0.5 = 50 %; of a tier its number, 2 = the second one")
    quantity: int = Field(description="what the meter has counted; of a spend cap the bill so far, in minor units")
    hard_stop: bool = False
    product_id: str | None = Field(default=None, description="the product whose quota, allowance or tier it is")
    kind: str = Field(default="allowance", description="allowance, tier or spend_cap; one that is not known asks for nothing")
    limit: int | None = Field(
        default=None, description="what the threshold is a share of; of a tier the last unit of the one before it; null: an older event"
    )
    currency: str | None = Field(default=None, description="of a spend cap")


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


class UsageUnbilled(SubscriptionEvent):
    """A final invoice bills less of a meter than was counted for its service period, in time and all of it at Stripe.

    Stripe bills that on no later invoice. It is said once for each quantity; should more of the same period be found, `billed`
    of the next one is `counted` of this one.
    """

    topic = "usage.unbilled"
    publisher = "stripe_reporter"
    unbilled_id: UUID
    invoice_id: str
    invoice_number: str | None = None
    product_id: str
    catalogue_version: int = Field(description="one that sells at the price of the invoice's line")
    meter_id: str
    component: str = Field(description="which of the product's prices: unit or usage:<meter>")
    period_start: AwareDatetime = Field(description="of the service period on the invoice's line")
    period_end: AwareDatetime
    billed: int = Field(description="what the invoice bills, with what was said before")
    counted: int = Field(description="what was counted; corrections after the close of the period are in neither")


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
