"""What the delegation gateway reads from its environment; no other module reads it."""

import base64
import binascii
import re
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from billing_common.settings import ApimSettings, ServiceSettings, SettingsConfigDict

ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")


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
    collector_url: str | None = Field(default=None, description="internal door of usage_collector: usage by endpoint on the page")
    reporter_url: str | None = Field(default=None, description="internal door of stripe_reporter: invoices explained to their owner")
    checkout_timeout_seconds: float = Field(default=20, gt=0)
    usage_timeout_seconds: float = Field(default=10, gt=0, description="for one answer of the collector or the reporter")
    stripe_page_origins: str = Field(
        default="https://checkout.stripe.com,https://billing.stripe.com", description="origins that forms may lead to, comma separated"
    )
    pricing_frame_origins: str = Field(
        default="", description="origins whose pages may show /pricing/embed in a frame, comma separated; empty: none"
    )
    pricing_cors_origins: str = Field(
        default="", description="origins whose scripts may read /v1/pricing, comma separated, or * for all; empty: none"
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

    @field_validator("pricing_frame_origins", "pricing_cors_origins")
    @classmethod
    def _origins_are_whole(cls, value: str, info: ValidationInfo) -> str:
        for origin in _listed(value):
            if not ORIGIN.fullmatch(origin) and not (origin == "*" and info.field_name == "pricing_cors_origins"):
                raise ValueError("give origins without a path, comma separated: https://www.example.com,https://docs.example.com")
        return value

    @cached_property
    def frame_origins(self) -> list[str]:
        return _listed(self.pricing_frame_origins)

    @cached_property
    def cors_origins(self) -> list[str]:
        return _listed(self.pricing_cors_origins)

    @cached_property
    def validation_keys(self) -> tuple[str, ...]:
        return tuple(key.strip() for key in self.delegation_keys.get_secret_value().split(","))

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def form_action_origins(self) -> list[str]:
        portal = urlsplit(self.portal_url)
        return [f"{portal.scheme}://{portal.netloc}", *_listed(self.stripe_page_origins)]


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
