"""Settings every service has, and the two outside systems some have. A service's own settings module extends these."""

import os
import sys
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from pydantic import Field, FilePath, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ApimSettings", "KafkaSettings", "ServiceSettings", "SettingsConfigDict", "StripeSettings", "load_settings"]

# Where containers mount secrets: a file named like the variable serves as well.
SECRETS = Path(os.environ.get("TURNPIKE_SECRETS_FOLDER", "/run/secrets"))
S = TypeVar("S", bound=BaseSettings)
Port = int


class ContainerSettings(BaseSettings):
    """The base of all others: of several bases the last one's configuration holds, so each must know the folder."""

    model_config = SettingsConfigDict(frozen=True, secrets_dir=SECRETS if SECRETS.is_dir() else None)


class KafkaSettings(ContainerSettings):
    """How Kafka is reached."""

    kafka_bootstrap_servers: str = Field(description="host:port, comma separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SASL_SSL", "SASL_PLAINTEXT", "SSL"] = Field(
        default="PLAINTEXT", description="SASL_SSL for Event Hubs"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(default="PLAIN", description="PLAIN for Event Hubs")
    kafka_sasl_username: str = Field(default="", description="$ConnectionString for Event Hubs")
    kafka_sasl_password: SecretStr = SecretStr("")


class ServiceSettings(KafkaSettings):
    """Read from the environment; each name has the service's own prefix, e.g. CHECKOUT_DATABASE_URL."""

    database_url: SecretStr = Field(description="postgresql://role:password@host:port/database; the role owns the service's schema")
    database_pool_size: int = Field(default=6, ge=2, le=50)
    internal_token_keys: SecretStr = Field(description="comma separated secrets of at least 32 characters; the first signs, all verify")
    http_host: str = "127.0.0.1"
    http_port: Port = Field(default=8000, ge=0, le=65535)
    internal_host: str = "127.0.0.1"
    internal_port: Port = Field(default=8001, ge=0, le=65535)
    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    migrate_on_start: bool = Field(
        default=False, description="apply this service's migrations before serving; production runs a Job instead"
    )
    clock_url: HttpUrl | None = Field(default=None, description="where to read the business clock's offset at start (sandbox only)")
    clock_offset_allowed: bool = Field(default=False, description="let PUT /clock move the business clock (sandbox only)")

    @field_validator("internal_token_keys")
    @classmethod
    def _keys_are_long(cls, value: SecretStr) -> SecretStr:
        keys = [key.strip() for key in value.get_secret_value().split(",")]
        if any(len(key) < 32 for key in keys):
            raise ValueError("each key needs at least 32 characters: openssl rand -hex 32")
        return value

    @model_validator(mode="after")
    def _production_runs_on_wall_time(self) -> "ServiceSettings":
        if self.environment == "production" and (self.clock_offset_allowed or self.clock_url):
            raise ValueError("CLOCK_OFFSET_ALLOWED and CLOCK_URL must not be set in production: business time is wall time there")
        return self

    @property
    def token_keys(self) -> tuple[str, ...]:
        return tuple(key.strip() for key in self.internal_token_keys.get_secret_value().split(","))


class StripeSettings(ContainerSettings):
    """Where Stripe is. Without base addresses the SDK's own are used."""

    stripe_api_key: SecretStr = Field(description="a restricted key, rk_..., with this service's permissions: docs/how-to/deploy.md")
    stripe_api_base: str | None = Field(default=None, description="the sandbox; Stripe itself when absent")
    stripe_meter_events_base: str | None = Field(default=None, description="of the v2 stream; STRIPE_API_BASE when absent")
    stripe_timeout_seconds: float = Field(default=20, gt=0)


class ApimSettings(ContainerSettings):
    """Which API Management service. Without a static token `DefaultAzureCredential` is used."""

    apim_base_url: str = "https://management.azure.com"
    apim_subscription_id: str = Field(description="the Azure subscription of the API Management service")
    apim_resource_group: str = Field(description="its resource group")
    apim_service_name: str = Field(description="its name")
    apim_ca_file: FilePath | None = Field(default=None, description="CA of the sandbox's certificate")
    apim_static_token: SecretStr | None = Field(default=None, description="sandbox only: a fixed bearer token")
    apim_timeout_seconds: float = Field(default=30, gt=0)


def load_settings(settings_class: type[S]) -> S:
    """Read the settings or end the process with one line for each that is missing or wrong (exit 2)."""
    try:
        return settings_class()
    except ValidationError as error:
        _explain(settings_class, error)


def _explain(settings_class: type[BaseSettings], error: ValidationError) -> NoReturn:
    prefix = settings_class.model_config.get("env_prefix", "")
    for problem in error.errors(include_input=False, include_url=False):
        name = f"{prefix}{'_'.join(str(part) for part in problem['loc'])}".upper()
        text = "is not set" if problem["type"] == "missing" else f"is wrong: {problem['msg']}"
        field = settings_class.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
        hint = f" ({field.description})" if field is not None and field.description else ""
        sys.stderr.write(f"setting {name or 'combination'} {text}{hint}\n")
    raise SystemExit(2)
