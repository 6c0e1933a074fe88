"""What the sandbox reads from its environment (prefix SANDBOX_APIM_); no other module reads it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Every field is a setting with a default: `python -m sandbox_apim` starts without any."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_APIM_", frozen=True)

    http_host: str = Field(default="127.0.0.1", description="the address all three listeners bind")
    arm_port: int = Field(default=8443, ge=0, le=65535, description="management REST API, https")
    portal_port: int = Field(default=8081, ge=0, le=65535, description="developer portal, http")
    gateway_port: int = Field(default=8080, ge=0, le=65535, description="gateway data plane, http")
    arm_host_names: str = Field(default="", description="further names for the certificate, comma separated (e.g. sandbox-apim in compose)")
    data_dir: Path = Field(default=Path("data/sandbox-apim"), description="database, CA and certificate")
    portal_public_url: HttpUrl | None = Field(default=None, description="how a browser reaches the portal")
    gateway_public_url: HttpUrl | None = Field(default=None, description="how a caller reaches the gateway")
    kafka_bootstrap_servers: str = Field(
        default="", description="host:port, comma separated; empty: nothing is sent, calls are still counted"
    )
    arm_token: SecretStr = Field(default=SecretStr("sandbox-arm-token"), description="the bearer token the management API accepts")
    arm_rate_limits: bool = Field(default=False, description="enforce Azure's token buckets (reads 250, writes 200, deletes 200)")
    arm_subscription_id: str = Field(default="", description="empty: any Azure subscription id names this service")
    arm_resource_group: str = Field(default="", description="empty: any resource group names this service")
    arm_service_name: str = Field(default="", description="empty: any service name names this service")
    clock_url: HttpUrl | None = Field(default=None, description="where to read the business clock's offset at start")
    clock_wait_seconds: float = Field(default=30, ge=0, description="how long a start waits for a clock that is not listening yet")
    sample_api: HttpUrl | Literal["built-in"] = Field(default="built-in", description="backend of the seeded API `orders`")
    report_lag_seconds: float = Field(default=0, ge=0, description="how far reports trail the calls; Azure's trail by up to 30 minutes")
    call_log_rows_max: int = Field(default=2_000_000, ge=1000, description="calls kept for reports; older ones go first")
    outbox_rows_max: int = Field(default=500_000, ge=100, description="log lines that wait for Kafka; above it calls are refused with 503")
    backend_timeout_seconds: float = Field(default=30, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
