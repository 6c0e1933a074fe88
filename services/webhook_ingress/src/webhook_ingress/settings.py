"""What the webhook ingress reads from its environment; no other module reads it."""

from datetime import timedelta

from pydantic import Field, SecretStr, field_validator

from billing_common.settings import ServiceSettings, SettingsConfigDict, StripeSettings


class Settings(ServiceSettings, StripeSettings):
    model_config = SettingsConfigDict(env_prefix="WEBHOOK_INGRESS_", frozen=True)

    stripe_webhook_secrets: SecretStr = Field(
        description="signing secrets of the webhook endpoint, comma separated: while one is rolled, the old and the new"
    )
    signature_tolerance: timedelta = Field(default=timedelta(seconds=300), gt=timedelta(0), le=timedelta(hours=1))
    concurrency: int = Field(default=8, ge=1, le=32, description="Stripe objects worked on at the same time")
    recovery_interval: timedelta = Field(default=timedelta(hours=1), ge=timedelta(seconds=1))
    recovery_overlap: timedelta = Field(
        default=timedelta(hours=1),
        ge=timedelta(0),
        le=timedelta(days=30),
        description="how far before the newest stored event to look again",
    )
    keep_events: timedelta = Field(default=timedelta(days=40), ge=timedelta(days=31), description="how long raw events are kept once done")

    @field_validator("stripe_webhook_secrets")
    @classmethod
    def _every_secret_says_something(cls, value: SecretStr) -> SecretStr:
        if not all(secret.strip() for secret in value.get_secret_value().split(",")):
            raise ValueError("an empty secret would accept anybody's signature: give whsec_... values, comma separated")
        return value

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        return tuple(secret.strip() for secret in self.stripe_webhook_secrets.get_secret_value().split(","))
