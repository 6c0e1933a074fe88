"""What the sandbox reads from its environment; no other module reads it."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting has a default: the sandbox starts with none."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_STRIPE_", frozen=True)

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=12111, ge=0, le=65_535)
    data_path: Path = Path("sandbox-stripe.sqlite3")
    public_url: str = Field(default="", description="base address in page addresses; http://<host>:<port> when empty")
    api_key: SecretStr = SecretStr("sk_test_turnpike_sandbox")
    portal_base: str = Field(default="", description="base address of billing portal pages; public_url when empty")
    log_level: str = "INFO"

    draft_seconds: int = Field(default=3_600, ge=0, description="how long an invoice stays a draft")
    draft_postponed_max_seconds: int = Field(default=72 * 3_600, ge=0, description="how long a failing webhook can delay finalization")
    dunning_days: tuple[float, ...] = Field(default=(3, 5, 7), description="days from each failed payment to the next try")
    dunning_end: str = Field(default="unpaid", pattern="^(unpaid|canceled|past_due)$")
    minimum_charge_minor: dict[str, int] = Field(
        default={"usd": 50, "eur": 50, "gbp": 30}, description="smaller totals go to the customer's balance"
    )
    meter_identifier_seconds: int = Field(default=24 * 3_600, ge=1, description="how long (wall time) an identifier is remembered")
    clock_offset_max_seconds: int = Field(default=10 * 366 * 86_400, ge=0)

    webhook_timeout_seconds: float = 10.0
    webhook_first_retry_seconds: float = 0.5
    webhook_retry_max_seconds: float = 10.0
    webhook_attempts_max: int = 60
    webhook_concurrency: int = 16

    rate_limit_per_second: int = Field(default=0, ge=0, description="0 = no limit; Stripe: 100 live, 25 in a sandbox")
    rate_limit_meter_events_per_second: int = Field(default=0, ge=0, description="0 = no limit; Stripe: 1000 live")
    body_bytes_max: int = 1_000_000

    def base_url(self) -> str:
        return self.public_url.rstrip("/") or f"http://{self.http_host}:{self.http_port}"
