"""What the subscription enforcer reads from its environment; no other module reads it."""

from datetime import timedelta

from pydantic import Field

from billing_common.settings import ApimSettings, ServiceSettings, SettingsConfigDict


class Settings(ServiceSettings, ApimSettings):
    model_config = SettingsConfigDict(env_prefix="SUBSCRIPTION_ENFORCER_", frozen=True)

    repair_interval: timedelta = Field(
        default=timedelta(minutes=15),
        ge=timedelta(seconds=1),
        description="how often (wall time) API Management is compared with what was applied",
    )
    suspensions_per_hour_min: int = Field(
        default=5, ge=0, description="suspensions for missing payment an hour (business time) that nobody has to approve"
    )
    suspensions_per_hour_share: float = Field(
        default=0.02, ge=0, le=1, description="or this share of the live subscriptions, if that is more"
    )
