"""What the reporter reads from its environment; no other module reads it."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from billing_common.settings import ServiceSettings, StripeSettings


class Settings(ServiceSettings, StripeSettings):
    model_config = SettingsConfigDict(env_prefix="STRIPE_REPORTER_", frozen=True)

    report_delay_seconds: float = Field(default=60, ge=0, le=3600, description="business seconds between an hour's end and its report")
    concurrency_max: int = Field(default=16, ge=1, le=128, description="calls to Stripe in flight at once, per replica")
    calls_per_second_start: float = Field(default=100, gt=0, le=1000)
    calls_per_second_max: float = Field(default=500, gt=0, le=1000, description="Stripe takes 1,000 meter events a second in live mode")
    reads_per_second_max: float = Field(
        default=80, gt=0, le=1000, description="summaries of confirmed usage; Stripe takes 100 calls a second in live mode, of all kinds"
    )
    lease_seconds: float = Field(default=60, ge=30, le=600, description="how long a replica may hold one customer and meter")
    retry_max_seconds: float = Field(default=60, gt=0, le=600, description="longest pause between two tries of one customer and meter")
    stopped_retry_seconds: float = Field(default=60, gt=0, le=3600, description="pause after Stripe refused the key")
    summary_lag_seconds: float = Field(
        default=900, ge=0, description="how long Stripe's meter summaries may lag behind what it acknowledged"
    )
    stream_from_rows: int = Field(
        default=20_000,
        ge=0,
        le=1_000_000,
        description="so many unsent meter events, several to each customer, go through Stripe's v2 stream instead of v1; 0: never",
    )
    poll_seconds: float = Field(default=1, gt=0, le=60, description="how often a quiet reporter looks for work of other replicas")
    reconcile_every_seconds: float = Field(default=3600, ge=10, description="wall time between two comparisons of all stations")
    collector_url: str = Field(description="internal door of usage_collector, e.g. http://usage-collector:8001")
    collector_timeout_seconds: float = Field(default=20, gt=0, le=300)
    close_alert_seconds: float = Field(
        default=1800, ge=0, description="warn when a draft with open usage becomes final in less than this (business time)"
    )
