"""Policies at the four scopes; a policy the gateway could not run is refused here."""

from typing import Any, ClassVar

from typing_extensions import override

from sandbox_apim.arm.errors import ArmError, not_found, validation
from sandbox_apim.arm.kinds import Asked, Field, Kind, text
from sandbox_apim.policy.document import PolicyError, Scope, Surroundings, parse
from sandbox_apim.policy.tokens import escape_raw
from sandbox_apim.store import Entity


class Policies(Kind):
    collection: ClassVar[tuple[str, ...]] = ("policies",)
    type_name: ClassVar[str] = "policies"
    title = "Policy"
    filters = ("name",)
    scope: ClassVar[Scope] = "global"
    fields: ClassVar[dict[str, Field]] = {
        "value": text(required=True, length_max=262_144),
        "format": text(choices=("xml", "rawxml", "xml-link", "rawxml-link"), default="xml"),
    }

    @override
    def require_parent(self, asked: Asked) -> None:
        parent = "/".join(asked.path[: len(self.collection) - 1])
        if parent and self.store.get(parent) is None:
            raise not_found(self.collection[-3].removesuffix("s").capitalize() if len(self.collection) > 2 else "Parent")

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if asked.ids[-1].lower() != "policy":
            raise validation("policyId", "policyId is 'policy'.")
        if properties["format"].endswith("-link"):
            raise validation("format", "The sandbox fetches no policies: send xml or rawxml.")
        directory = self.service.directory
        around = Surroundings(self.scope, asked.entity_path.lower(), directory.logger_topic)
        try:
            parse(directory.resolve_named_values(properties["value"]), around, raw=properties["format"] == "rawxml")
        except PolicyError as error:
            details = [{"code": "ValidationError", "target": error.element, "message": str(error)}]
            raise ArmError(400, "ValidationError", "One or more fields contain incorrect values:", details=details) from error
        return properties, {}

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        """Show in the format that is asked for: the default is xml, with expressions escaped."""
        kept = entity.properties["format"]
        wanted = asked.query.get("format", "xml") if asked.method == "GET" else kept
        value = entity.properties["value"]
        if kept == "rawxml" and wanted == "xml":
            value = escape_raw(value)
        return {"format": wanted, "value": value}  # escaped expressions are valid in rawxml as well


class ProductPolicies(Policies):
    collection = ("products", "*", "policies")
    type_name = "products/policies"
    scope = "product"


class ApiPolicies(Policies):
    collection = ("apis", "*", "policies")
    type_name = "apis/policies"
    scope = "api"


class OperationPolicies(Policies):
    collection = ("apis", "*", "operations", "*", "policies")
    type_name = "apis/operations/policies"
    scope = "operation"
