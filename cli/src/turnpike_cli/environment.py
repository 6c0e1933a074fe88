"""What each process of the stack is told through its environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from embedded_servers import Postgres, service_dsn
from turnpike_cli.parts import Part
from turnpike_cli.state import Secrets

HOST = "127.0.0.1"
DATABASE = "turnpike"
AZURE_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"  # the sandbox answers to any
RESOURCE_GROUP = "turnpike"
SERVICE_NAME = "sandbox"
NEEDS_STRIPE = {"checkout", "webhook_ingress", "stripe_reporter"}
NEEDS_APIM = {"delegation_gateway", "checkout", "usage_collector", "subscription_enforcer"}


@dataclass(frozen=True)
class Wiring:
    """All that the environments are made of."""

    folder: Path
    ports: dict[str, dict[str, int]]
    secrets: Secrets
    postgres: Postgres

    def url(self, part: str, port: str = "http", scheme: str = "http") -> str:
        return f"{scheme}://{HOST}:{self.ports[part][port]}"

    @property
    def superuser_dsn(self) -> str:
        return self.postgres.dsn()  # its password exists once the server was started

    @property
    def kafka(self) -> str:
        return f"{HOST}:{self.ports['kafka']['client']}"

    @property
    def webhook_url(self) -> str:
        return self.url("webhook_ingress") + "/webhooks/stripe"

    @property
    def ca_file(self) -> Path:
        return self.folder / "sandbox_apim" / "ca.pem"

    def database_url(self, service: str) -> str:
        return service_dsn(self.superuser_dsn, DATABASE, service, self.secrets.database_passwords[service])

    def environment(self, part: Part) -> dict[str, str]:
        """Return the whole environment of a process. Variables of the caller with the part's prefix win over ours."""
        prefix = part.name.upper() + "_"
        ours = self.settings(part)
        named = {f"{prefix}{name}": value for name, value in ours.items()}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
        chosen = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
        no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), HOST, "localhost"]))
        return inherited | {"PYTHONUNBUFFERED": "1", "NO_PROXY": no_proxy, "no_proxy": no_proxy} | named | chosen

    def settings(self, part: Part) -> dict[str, str]:
        """Return the part's settings without their prefix."""
        if part.name == "sandbox_stripe":
            return self._stripe_sandbox()
        if part.name == "sandbox_apim":
            return self._apim_sandbox()
        return self._service(part) | _SPECIAL.get(part.name, _nothing)(self)

    def _stripe_sandbox(self) -> dict[str, str]:
        return {
            "HTTP_PORT": str(self.ports["sandbox_stripe"]["http"]),
            "DATA_PATH": str(self.folder / "sandbox_stripe" / "stripe.sqlite3"),
            "API_KEY": self.secrets.stripe_api_key,
        }

    def _apim_sandbox(self) -> dict[str, str]:
        ports = self.ports["sandbox_apim"]
        return {
            "ARM_PORT": str(ports["arm"]),
            "PORTAL_PORT": str(ports["portal"]),
            "GATEWAY_PORT": str(ports["gateway"]),
            "DATA_DIR": str(self.ca_file.parent),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "ARM_TOKEN": self.secrets.arm_token,
            "CLOCK_URL": self.url("sandbox_stripe") + "/_sandbox/clock",
        }

    def _service(self, part: Part) -> dict[str, str]:
        ports = self.ports[part.name]
        settings = {
            "DATABASE_URL": self.database_url(part.name),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "INTERNAL_TOKEN_KEYS": self.secrets.internal_token_key,
            "INTERNAL_PORT": str(ports["internal"]),
            "CLOCK_URL": self.url("sandbox_stripe") + "/_sandbox/clock",
            "CLOCK_OFFSET_ALLOWED": "true",
            "MIGRATE_ON_START": "true",
        }
        if "http" in ports:
            settings["HTTP_PORT"] = str(ports["http"])
        if part.name in NEEDS_STRIPE:
            settings |= self.stripe()
        if part.name in NEEDS_APIM:
            settings |= self.apim()
        return settings

    def stripe(self) -> dict[str, str]:
        address = self.url("sandbox_stripe")
        return {"STRIPE_API_KEY": self.secrets.stripe_api_key, "STRIPE_API_BASE": address, "STRIPE_METER_EVENTS_BASE": address}

    def apim(self) -> dict[str, str]:
        return {
            "APIM_BASE_URL": self.url("sandbox_apim", "arm", "https"),
            "APIM_SUBSCRIPTION_ID": AZURE_SUBSCRIPTION,
            "APIM_RESOURCE_GROUP": RESOURCE_GROUP,
            "APIM_SERVICE_NAME": SERVICE_NAME,
            "APIM_CA_FILE": str(self.ca_file),
            "APIM_STATIC_TOKEN": self.secrets.arm_token,
        }


def _nothing(_: Wiring) -> dict[str, str]:
    return {}


def _delegation_gateway(wiring: Wiring) -> dict[str, str]:
    return {
        "DELEGATION_KEYS": wiring.secrets.delegation_key,
        "CONFIGURE_DELEGATION": "true",
        "PUBLIC_URL": wiring.url("delegation_gateway"),
        "PORTAL_URL": wiring.url("sandbox_apim", "portal"),
        "GATEWAY_URL": wiring.url("sandbox_apim", "gateway"),
        "CHECKOUT_URL": wiring.url("checkout", "internal"),
        "COLLECTOR_URL": wiring.url("usage_collector", "internal"),
        "REPORTER_URL": wiring.url("stripe_reporter", "internal"),
        "STRIPE_PAGE_ORIGINS": wiring.url("sandbox_stripe"),
    }


def _checkout(wiring: Wiring) -> dict[str, str]:
    # The sandbox sends to the stack's Kafka whatever the connection string says; its key is of no use elsewhere.
    connection = f"Endpoint=sb://{HOST}/;SharedAccessKeyName=send;SharedAccessKey={wiring.secrets.delegation_key[:44]}"
    return {
        "GATEWAY_URL": wiring.url("delegation_gateway", "internal"),
        "COLLECTOR_URL": wiring.url("usage_collector", "internal"),
        "USAGE_EVENT_HUB_CONNECTION": connection,
        "PRICING_URL": wiring.url("delegation_gateway") + "/pricing",
    }


def _webhook_ingress(wiring: Wiring) -> dict[str, str]:
    return {"STRIPE_WEBHOOK_SECRETS": wiring.secrets.webhook_secret or ""}


def _stripe_reporter(wiring: Wiring) -> dict[str, str]:
    return {"COLLECTOR_URL": wiring.url("usage_collector", "internal")}


def _usage_collector(_wiring: Wiring) -> dict[str, str]:
    # One machine, one process each: totals go out sooner, and stragglers are not minutes away.
    return {"PUBLISH_INTERVAL_SECONDS": "0.2", "STRAGGLER_GRACE_SECONDS": "0.3", "LATE_INTERVAL_SECONDS": "0.3"}


_SPECIAL = {
    "stripe_reporter": _stripe_reporter,
    "usage_collector": _usage_collector,
    "delegation_gateway": _delegation_gateway,
    "checkout": _checkout,
    "webhook_ingress": _webhook_ingress,
}
