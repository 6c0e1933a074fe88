"""What exists once: the service itself and the portal's settings."""

from typing import Any, ClassVar

from typing_extensions import override

from sandbox_apim.arm.errors import ArmError, not_found, validation
from sandbox_apim.arm.kinds import Answer, Asked, Field, Kind, http_address, text
from sandbox_apim.signin import is_base64
from sandbox_apim.store import Entity


class PortalSettings(Kind):
    """`portalsettings/delegation|signin|signup`: PUT answers 200, PATCH 204."""

    collection = ("portalsettings",)
    type_name = "portalsettings"
    title = "Portal settings"
    names = ("delegation", "signin", "signup")
    fields: ClassVar[dict[str, Field]] = {
        "url": text(length_max=2000),
        "validationKey": text(length_max=500),
        "subscriptions": Field(dict),
        "userRegistration": Field(dict),
        "enabled": Field(bool),
        "termsOfService": Field(dict),
    }

    @override
    def find(self, asked: Asked) -> Entity:
        name = asked.ids[0].lower()
        if name not in self.names:
            raise not_found(self.title)
        found = self.store.get(asked.entity_path)
        return found or self.store.put(f"portalsettings/{name}", default_settings(name), {})

    @override
    def list(self, asked: Asked) -> list[Entity]:
        return [
            self.store.get(f"portalsettings/{name}") or self.store.put(f"portalsettings/{name}", default_settings(name), {})
            for name in self.names
        ]

    @override
    def put(self, asked: Asked) -> Answer:
        self.find(asked)
        answer = super().put(asked)
        return Answer(200, answer.body, answer.etag)

    @override
    def patch(self, asked: Asked) -> Answer:
        answer = super().patch(asked)
        return Answer(204, None, answer.etag)

    @override
    def delete(self, asked: Asked) -> Answer:
        raise ArmError(405, "MethodNotAllowed", "Portal settings cannot be deleted.")

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        name = asked.ids[0].lower()
        allowed = {"url", "validationKey", "subscriptions", "userRegistration"} if name == "delegation" else {"enabled", "termsOfService"}
        kept = {**default_settings(name), **{key: value for key, value in properties.items() if key in allowed}}
        secrets = dict(old.secrets) if old else {}
        key = kept.pop("validationKey", None)
        if key is not None:
            if not is_base64(key):
                raise validation("validationKey", "validationKey is a base64 text.")
            secrets["validationKey"] = key
        if name == "delegation":
            self._check_delegation(kept, secrets)
        return kept, secrets

    def _check_delegation(self, kept: dict[str, Any], secrets: dict[str, Any]) -> None:
        enabled = any(kept[switch].get("enabled") for switch in ("subscriptions", "userRegistration"))
        if kept.get("url"):
            http_address("url", kept["url"])
        if enabled and not kept.get("url"):
            raise validation("url", "url is required when delegation is enabled.")
        if enabled and not secrets.get("validationKey"):
            raise validation("validationKey", "validationKey is required when delegation is enabled.")

    @override
    def action(self, asked: Asked, entity: Entity, name: str) -> Answer:
        if name == "listsecrets" and entity.name.lower() == "delegation":
            return Answer(200, {"validationKey": entity.secrets.get("validationKey")}, entity.etag)
        raise not_found(f"Action {name}")


def default_settings(name: str) -> dict[str, Any]:
    if name == "delegation":
        return {"subscriptions": {"enabled": False}, "userRegistration": {"enabled": False}}
    if name == "signin":
        return {"enabled": False}
    return {"enabled": True, "termsOfService": {"enabled": False, "consentRequired": False, "text": ""}}


def service_resource(kind: Kind, prefix: str) -> dict[str, Any]:
    """Show the service itself, with the addresses of the three listeners."""
    service = kind.service
    return {
        "id": prefix,
        "name": prefix.rsplit("/", 1)[-1],
        "type": "Microsoft.ApiManagement/service",
        "location": "Sandbox",
        "etag": "AAAAAAAAAAE=",
        "sku": {"name": "Developer", "capacity": 1},
        "properties": {
            "provisioningState": "Succeeded",
            "targetProvisioningState": "",
            "publisherName": "Sandbox",
            "publisherEmail": "admin@example.com",
            "gatewayUrl": service.gateway_url(),
            "developerPortalUrl": service.portal_url(),
            "portalUrl": service.portal_url(),
            "managementApiUrl": service.management_url(),
            "developerPortalStatus": "Enabled",
            "legacyPortalStatus": "Disabled",
            "platformVersion": "stv2.1",
        },
    }
