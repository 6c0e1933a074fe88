"""APIs, operations, loggers and named values."""

import re
from typing import Any, ClassVar

from typing_extensions import override

from sandbox_apim.arm.errors import not_found, validation
from sandbox_apim.arm.kinds import Answer, Asked, Field, Kind, http_address, text
from sandbox_apim.arm.people import fingerprint
from sandbox_apim.store import Entity

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "*")


class Apis(Kind):
    collection = ("apis",)
    type_name = "apis"
    title = "API"
    filters = ("name", "displayName", "description", "path", "serviceUrl")
    id_length_max = 256
    delete_found = 204
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=300),
        "path": text(length_max=400),
        "description": text(),
        "serviceUrl": text(length_max=2000),
        "protocols": Field(list),
        "subscriptionRequired": Field(bool, default=True),
        "subscriptionKeyParameterNames": Field(dict),
        "format": text(),
        "value": text(length_max=2**20),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if properties.get("format") or properties.get("value"):
            raise validation("format", "The sandbox does not import API definitions: create the API and its operations.")
        path = properties.get("path")
        if path is None:
            raise validation("path", "path is required.")
        path = path.strip("/")
        for other in self.store.children("apis"):
            if other.properties["path"].lower() == path.lower() and other.name.lower() != asked.ids[0].lower():
                raise validation("path", f"Cannot create API '{asked.ids[0]}' with the same Path '{path}' as API '{other.name}'.")
        if properties.get("serviceUrl"):
            http_address("serviceUrl", properties["serviceUrl"])
        properties.setdefault("protocols", ["https"])
        properties.setdefault("subscriptionKeyParameterNames", {"header": "Ocp-Apim-Subscription-Key", "query": "subscription-key"})
        fixed = {"apiRevision": "1", "isCurrent": True, "provisioningState": "Succeeded"}
        return {**properties, **fixed, "path": path}, {}

    @override
    def removing(self, asked: Asked, entity: Entity) -> None:
        for product in self.store.children("products"):
            self.store.delete(f"{product.path}/{entity.path}")
            for link in self.store.children(f"{product.path}/apiLinks"):
                if link.properties["apiId"] == entity.path:
                    self.store.delete(link.path)


class Operations(Kind):
    collection = ("apis", "*", "operations")
    type_name = "apis/operations"
    title = "Operation"
    filters = ("name", "displayName", "method", "description", "urlTemplate")
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=300),
        "method": text(required=True, choices=METHODS),
        "urlTemplate": text(required=True),
        "templateParameters": Field(list),
        "description": text(),
        "request": Field(dict),
        "responses": Field(list),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        template = properties["urlTemplate"]
        if not template.startswith("/"):
            raise validation("urlTemplate", "urlTemplate starts with /.")
        named = {parameter.get("name") for parameter in properties.get("templateParameters", []) if isinstance(parameter, dict)}
        missing = [name for name in re.findall(r"\{\*?([^}]+)\}", template) if name not in named]
        if missing:
            raise validation(
                "templateParameters", f"All template parameters used in the UriTemplate must be defined: {', '.join(missing)}."
            )
        for other in self.store.children("/".join(asked.path[:-1])):
            same = other.properties["method"] == properties["method"] and other.properties["urlTemplate"] == template
            if same and other.name.lower() != asked.ids[-1].lower():
                raise validation("urlTemplate", f"Operation with the same method and URL template already exists: '{other.name}'.")
        return properties, {}


class Loggers(Kind):
    collection = ("loggers",)
    type_name = "loggers"
    title = "Logger"
    filters = ("name", "description", "loggerType", "resourceId")
    id_length_max = 256
    fields: ClassVar[dict[str, Field]] = {
        "loggerType": text(required=True, choices=("azureEventHub", "applicationInsights", "azureMonitor")),
        "description": text(length_max=256),
        "credentials": Field(dict),
        "isBuffered": Field(bool, default=True),
        "resourceId": text(),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        given = properties.pop("credentials", None)
        credentials = dict(given) if given is not None else (old.secrets["credentials"] if old else {})
        if not all(isinstance(value, str) for value in credentials.values()):
            raise validation("credentials", "credentials hold texts.")
        if properties["loggerType"] == "azureEventHub" and not ("connectionString" in credentials or "endpointAddress" in credentials):
            raise validation("credentials", "credentials need a connectionString, or an endpointAddress with a managed identity.")
        if properties["loggerType"] == "azureEventHub":
            credentials.setdefault("name", "gateway.calls")
        return properties, {"credentials": credentials}

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        shown = {
            name: f"{{{{Logger-Credentials--{fingerprint(value)}}}}}" if name in {"connectionString", "instrumentationKey"} else value
            for name, value in entity.secrets["credentials"].items()
        }
        return {**entity.properties, "credentials": shown}


class NamedValues(Kind):
    collection = ("namedValues",)
    type_name = "namedValues"
    title = "Named value"
    filters = ("name", "displayName")
    id_length_max = 256
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=256),
        "value": text(length_max=4096),
        "secret": Field(bool, default=False),
        "tags": Field(list),
        "keyVault": Field(dict),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if properties.get("keyVault"):
            raise validation("keyVault", "The sandbox has no Key Vault.")
        name = properties["displayName"]
        if re.fullmatch(r"[A-Za-z0-9\-._]+", name) is None:
            raise validation("displayName", "displayName holds letters, digits, '-', '.' and '_'.")
        for other in self.store.children("namedValues"):
            if other.properties["displayName"] == name and other.name.lower() != asked.ids[0].lower():
                raise validation("displayName", f"Named value with the display name '{name}' already exists.")
        value = properties.pop("value", None) or (old.secrets["value"] if old else None)
        if not value:
            raise validation("value", "value is required.")
        return {**properties, "provisioningState": "Succeeded"}, {"value": value}

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        return dict(entity.properties) if entity.properties["secret"] else {**entity.properties, "value": entity.secrets["value"]}

    @override
    def action(self, asked: Asked, entity: Entity, name: str) -> Answer:
        if name == "listvalue":
            return Answer(200, {"value": entity.secrets["value"]}, entity.etag)
        raise not_found(f"Action {name}")
