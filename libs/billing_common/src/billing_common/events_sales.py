"""Events of `delegation_gateway` and `checkout`: accounts, wishes of consumers, and the catalogue that is sold."""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from billing_common.event_base import AccountEvent, Event, SubscriptionEvent

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
