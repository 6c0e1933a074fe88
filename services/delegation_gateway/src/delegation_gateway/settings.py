"""What the delegation gateway reads from its environment; no other module reads it."""

import base64
import binascii
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from billing_common.settings import ApimSettings, ServiceSettings, SettingsConfigDict


class Settings(ServiceSettings, ApimSettings):
    model_config = SettingsConfigDict(env_prefix="DELEGATION_GATEWAY_", frozen=True)

    delegation_keys: SecretStr = Field(
        description="comma separated base64 validation keys of APIM's delegation; the first is set, all verify"
    )
    configure_delegation: bool = Field(default=False, description="write address and first key into APIM's delegation settings at start")
    public_url: str = Field(description="where browsers reach this service, e.g. https://billing.example.com")
    portal_url: str = Field(description="the developer portal, e.g. https://contoso.developer.azure-api.net")
    gateway_url: str | None = Field(default=None, description="the API gateway, for the example call on the key's page")
    checkout_url: str = Field(description="internal door of checkout, e.g. http://checkout:8001")
    checkout_timeout_seconds: float = Field(default=20, gt=0)
    stripe_page_origins: str = Field(
        default="https://checkout.stripe.com,https://billing.stripe.com", description="origins that forms may lead to, comma separated"
    )
    session_hours: int = Field(default=12, ge=1, le=720)
    sign_in_attempts_per_account_max: int = Field(default=10, ge=1, description="failed sign-ins in 15 minutes")
    sign_in_attempts_per_address_max: int = Field(default=100, ge=1, description="failed sign-ins in 15 minutes")
    registrations_per_address_max: int = Field(default=200, ge=1, description="in 15 minutes")

    @field_validator("delegation_keys")
    @classmethod
    def _keys_are_base64(cls, value: SecretStr) -> SecretStr:
        for key in value.get_secret_value().split(","):
            try:
                decoded = base64.b64decode(key.strip(), validate=True)
            except (binascii.Error, ValueError):
                raise ValueError("each key is base64, as APIM's listSecrets gives it: openssl rand -base64 64") from None
            if len(decoded) < 32:
                raise ValueError("each key needs at least 32 bytes: openssl rand -base64 64")
        return value

    @field_validator("public_url", "portal_url", "checkout_url")
    @classmethod
    def _addresses_are_whole(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("give a whole address: https://host")
        return value.rstrip("/")

    @cached_property
    def validation_keys(self) -> tuple[str, ...]:
        return tuple(key.strip() for key in self.delegation_keys.get_secret_value().split(","))

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def form_action_origins(self) -> list[str]:
        portal = urlsplit(self.portal_url)
        stripe = [origin.strip() for origin in self.stripe_page_origins.split(",") if origin.strip()]
        return [f"{portal.scheme}://{portal.netloc}", *stripe]
