"""What the checkout service reads from its environment; no other module reads it."""

from datetime import timedelta

from pydantic import Field, HttpUrl, SecretStr

from billing_common.settings import ApimSettings, ServiceSettings, SettingsConfigDict, StripeSettings


class Settings(ServiceSettings, StripeSettings, ApimSettings):
    """Prefix CHECKOUT_."""

    model_config = SettingsConfigDict(env_prefix="CHECKOUT_", frozen=True)

    usage_event_hub_connection: SecretStr = Field(description="connection string with Send rights that APIM's logger uses")
    usage_event_hub_name: str = Field(default="gateway.calls", min_length=1, description="event hub that APIM writes each call to")
    gateway_url: HttpUrl | None = Field(default=None, description="internal door of delegation_gateway, asked for the e-mail of an account")
    pricing_url: HttpUrl | None = Field(
        default=None,
        description="public pricing page, e.g. https://billing.example.com/pricing: where answers to refused calls send people",
    )
    collector_url: HttpUrl | None = Field(
        default=None,
        description="internal door of usage_collector, asked what a changed price would have cost; without it the plan says so",
    )
    drift_interval: timedelta = Field(
        default=timedelta(hours=1),
        ge=timedelta(seconds=10),
        description="wall time between looks for what was changed by hand at Stripe or APIM",
    )
    draft_hold_margin: timedelta = Field(
        default=timedelta(minutes=30),
        ge=timedelta(minutes=1),
        le=timedelta(hours=71),
        description="a draft whose usage is not all at Stripe is held open from so long before it becomes final (business time)",
    )
    draft_final_after: timedelta = Field(
        default=timedelta(minutes=30),
        ge=timedelta(minutes=1),
        le=timedelta(hours=72),
        description="a held draft becomes final so long after its usage is complete: Stripe adds usage up with a delay (business time)",
    )
    draft_held_alert: timedelta = Field(
        default=timedelta(hours=6),
        ge=timedelta(0),
        description="a draft that is held for longer raises the alert DraftHeld (business time)",
    )
    intent_poll_seconds: float = Field(default=1, gt=0, le=60, description="how often waiting calls to Stripe are looked for")
