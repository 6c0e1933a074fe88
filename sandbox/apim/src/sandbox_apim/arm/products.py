"""Products, their groups and their APIs."""

from typing import Any, ClassVar

from typing_extensions import override

from sandbox_apim.arm.errors import not_found, validation
from sandbox_apim.arm.kinds import Asked, Field, Kind, relative_id, text
from sandbox_apim.arm.people import Link
from sandbox_apim.store import Entity


class Products(Kind):
    collection = ("products",)
    type_name = "products"
    title = "Product"
    filters = ("name", "displayName", "description", "terms", "state")
    only_eq = frozenset({"state"})
    id_length_max = 256
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=300),
        "description": text(length_max=1000),
        "terms": text(length_max=10_000),
        "subscriptionRequired": Field(bool, default=True),
        "approvalRequired": Field(bool),
        "subscriptionsLimit": Field(int),
        "state": text(choices=("notPublished", "published"), default="notPublished"),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if properties["subscriptionRequired"]:
            properties.setdefault("approvalRequired", False)
            if properties.get("subscriptionsLimit", 1) < 1:
                raise validation("subscriptionsLimit", "subscriptionsLimit is at least 1.")
            return properties, {}
        for name in ("approvalRequired", "subscriptionsLimit"):
            if properties.get(name) not in {None, False}:
                raise validation(name, f"{name} can be set only when subscriptionRequired is true.")
            properties.pop(name, None)
        return properties, {}

    @override
    def removing(self, asked: Asked, entity: Entity) -> None:
        owned = [one for one in self.store.children("subscriptions") if one.properties["scope"].lower() == entity.path.lower()]
        if owned and asked.query.get("deletesubscriptions") != "true":
            raise validation("deleteSubscriptions", "The product has subscriptions: pass deleteSubscriptions=true.")
        for subscription in owned:
            self.store.delete(subscription.path)


class ProductGroups(Link):
    collection = ("products", "*", "groups")
    type_name = "products/groups"
    title = "Group"
    target = "groups"


class ProductApis(Link):
    collection = ("products", "*", "apis")
    type_name = "products/apis"
    title = "API"
    target = "apis"

    @override
    def list(self, asked: Asked) -> list[Entity]:
        """APIs of either form: linked by id or through an API link."""
        linked = super().list(asked)
        links = self.store.children("/".join((*asked.path[:2], "apiLinks")))
        more = [self.other(link.properties["apiId"].rsplit("/", 1)[-1]) for link in links]
        return linked + [api for api in more if api is not None and api not in linked]

    @override
    def removing(self, asked: Asked, entity: Entity) -> None:
        for link in self.store.children("/".join((*asked.path[:2], "apiLinks"))):
            if link.properties["apiId"].lower() == f"apis/{asked.ids[-1]}".lower():
                self.store.delete(link.path)


class ProductLinks(Kind):
    """The newer form of a relation: an entity with an id of its own."""

    delete_needs_if_match = False
    filters = ("name",)
    property_name: ClassVar[str]
    target: ClassVar[str]

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        path = relative_id(properties[self.property_name], self.property_name)
        other = self.store.get(path)
        if other is None or not path.lower().startswith(f"{self.target}/"):
            raise not_found(self.title)
        return {self.property_name: other.path}, {}

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        return {self.property_name: f"{asked.prefix}/{entity.properties[self.property_name]}"}


class ProductApiLinks(ProductLinks):
    collection = ("products", "*", "apiLinks")
    type_name = "products/apiLinks"
    title = "API"
    property_name = "apiId"
    target = "apis"
    fields: ClassVar[dict[str, Field]] = {"apiId": text(required=True)}


class ProductGroupLinks(ProductLinks):
    collection = ("products", "*", "groupLinks")
    type_name = "products/groupLinks"
    title = "Group"
    property_name = "groupId"
    target = "groups"
    fields: ClassVar[dict[str, Field]] = {"groupId": text(required=True)}
