"""Each service's secrets as files, `<folder>/<service>/<SETTING>`: what containers mount and Kubernetes Secrets are made from."""

import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embedded_servers import service_dsn
from turnpike_cli.environment import NEEDS_APIM, NEEDS_STRIPE
from turnpike_cli.parts import SERVICE_NAMES

CA_FILE = "ca.pem"
WEBHOOK_SECRETS = "STRIPE_WEBHOOK_SECRETS"


class ServiceSecrets:
    """The folder. What the environment names wins, what is there stays, what is missing is made or left to a person."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment

    def get(self, service: str, name: str) -> str | None:
        variable = f"{service}_{name}".upper()
        if value := self._environment.get(variable, "").strip():
            return value
        path = self._folder / service / variable
        return path.read_text().strip() if path.exists() else None

    def put(self, service: str, name: str, value: str) -> None:
        """Write for the owner alone, whole or not at all."""
        self._write(service, f"{service}_{name}".upper(), value.encode())

    def put_ca(self, content: bytes) -> None:
        for service in sorted(NEEDS_APIM):
            self._write(service, CA_FILE, content)

    def fill(self, *, admin_url: str, database: str, shared: Mapping[str, str]) -> None:
        """Write all that can be known. `shared` holds values for every service that has such a setting, e.g. STRIPE_API_KEY."""
        token_keys = next(filter(None, (self.get(service, "INTERNAL_TOKEN_KEYS") for service in SERVICE_NAMES)), secrets.token_hex(32))
        for service in SERVICE_NAMES:
            self.put(service, "DATABASE_URL", self._database_url(service, admin_url, database))
            self.put(service, "INTERNAL_TOKEN_KEYS", token_keys)
            for name, users in (
                ("STRIPE_API_KEY", NEEDS_STRIPE),
                ("APIM_STATIC_TOKEN", NEEDS_APIM),
                ("KAFKA_SASL_PASSWORD", SERVICE_NAMES),
            ):
                value = self._environment.get(f"{service}_{name}".upper(), "").strip() or shared.get(name) or self.get(service, name)
                if service in users and value:
                    self.put(service, name, value)
        made = b64encode(secrets.token_bytes(64)).decode()
        self.put("delegation_gateway", "DELEGATION_KEYS", self.get("delegation_gateway", "DELEGATION_KEYS") or made)
        for service, name in (("checkout", "USAGE_EVENT_HUB_CONNECTION"), ("usage_collector", "CALLS_KAFKA_SASL_PASSWORD")):
            if value := self.get(service, name):
                self.put(service, name, value)

    def passwords(self) -> dict[str, str]:
        """Return role -> password of each service whose database address is known."""
        addresses = {service: self.get(service, "DATABASE_URL") for service in SERVICE_NAMES}
        return {service: unquote(urlsplit(address).password or "") for service, address in addresses.items() if address}

    def _database_url(self, service: str, admin_url: str, database: str) -> str:
        if given := self._environment.get(f"{service}_DATABASE_URL".upper(), "").strip():
            return given
        password = self.passwords().get(service) or secrets.token_urlsafe(24)
        return service_dsn(admin_url, database, service, password)

    def _write(self, service: str, name: str, content: bytes) -> None:
        folder = self._folder / service
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f".{name}.part"
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        part.replace(folder / name)
