"""Subscriptions: the pair of keys, who owns it, what it opens and in which state it is."""

import re
import secrets
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from sandbox_apim.arm.errors import not_found, validation
from sandbox_apim.arm.kinds import Answer, Asked, Field, Kind, relative_id, text, timestamp
from sandbox_apim.store import Entity

STATES = ("active", "suspended", "submitted", "rejected", "cancelled", "expired")
COUNTED_STATES = ("active", "submitted")
SID = re.compile(r"[^*#&+:<>?]{1,256}")
ONLY_BY_PATCH = ("expirationDate", "stateComment")


def new_key() -> str:
    return secrets.token_hex(16)


class Subscriptions(Kind):
    collection: ClassVar[tuple[str, ...]] = ("subscriptions",)
    type_name = "subscriptions"
    title = "Subscription"
    filters = ("name", "displayName", "stateComment", "ownerId", "scope", "userId", "productId", "state")
    only_eq = frozenset({"state"})
    id_length_max = 256
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=100),
        "scope": text(required=True),
        "ownerId": text(),
        "state": text(choices=STATES),
        "primaryKey": text(length_max=256),
        "secondaryKey": text(length_max=256),
        "stateComment": text(),
        "expirationDate": text(),
        "allowTracing": Field(bool),
    }

    @override
    def put(self, asked: Asked) -> Answer:
        if SID.fullmatch(asked.ids[0]) is None:
            raise validation("sid", "sid has 1 to 256 characters and none of * # & + : < > ?")
        given = self.given(asked)
        for name in ONLY_BY_PATCH:
            if given.get(name) is not None:
                raise validation(name, f"{name} can be set only by PATCH.")
        return super().put(asked)

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        before = old.properties if old else {}
        kept = {name: value for name, value in properties.items() if name not in {"primaryKey", "secondaryKey"}}
        kept["scope"] = self._scope(kept["scope"], unchanged=before.get("scope"))
        if kept.get("ownerId"):
            kept["ownerId"] = self._owner(kept["ownerId"], unchanged=before.get("ownerId"))
        kept.setdefault("state", before.get("state", "submitted"))
        now = timestamp(self.service.clock.now())
        kept["createdDate"] = before.get("createdDate", now)
        if "startDate" in before or kept["state"] == "active":
            kept["startDate"] = before.get("startDate", now)
        if kept["state"] == "cancelled":
            kept["endDate"] = before.get("endDate", now)
        if kept.get("expirationDate"):
            kept["expirationDate"] = self._date(kept["expirationDate"])
        if old is None:
            self._check_limit(kept)
        return kept, self._keys(asked, properties, old)

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        shown = {**entity.properties, "scope": f"{asked.prefix}/{entity.properties['scope']}"}
        if shown.get("ownerId"):
            shown["ownerId"] = f"{asked.prefix}/{shown['ownerId']}"
        return shown

    @override
    def filter_fields(self) -> dict[str, Any]:
        prefix = "/"
        return {
            **super().filter_fields(),
            "scope": lambda one: prefix + one.properties["scope"],
            "ownerId": lambda one: prefix + one.properties["ownerId"] if one.properties.get("ownerId") else "",
            "userId": lambda one: str(one.properties.get("ownerId", "")).rpartition("/")[2],
            "productId": lambda one: str(one.properties["scope"]).partition("products/")[2],
        }

    @override
    def action(self, asked: Asked, entity: Entity, name: str) -> Answer:
        if name == "listsecrets":
            return Answer(200, dict(entity.secrets), entity.etag)
        changed = {"regenerateprimarykey": "primaryKey", "regeneratesecondarykey": "secondaryKey"}.get(name)
        if changed is None:
            raise not_found(f"Action {name}")
        self.store.put(entity.path, entity.properties, {**entity.secrets, changed: new_key()})
        return Answer(204)

    def _scope(self, given: str, unchanged: str | None) -> str:
        if given == unchanged:
            return given
        path = relative_id(given, "scope") if "/" in given else given
        if path.lower() == "apis":
            return "apis"
        kind = path.partition("/")[0].lower()
        entity = self.store.get(path) if kind in {"products", "apis"} and path.count("/") == 1 else None
        if entity is None:
            raise validation("scope", f"Scope '{given}' names no product or API of this service.")
        if kind == "products" and not entity.properties["subscriptionRequired"]:
            raise validation("scope", "The product is open: it takes no subscriptions.")
        return entity.path

    def _owner(self, given: str, unchanged: str | None) -> str:
        if given == unchanged:
            return given
        path = relative_id(given, "ownerId")
        entity = self.store.get(path) if path.lower().startswith("users/") else None
        if entity is None:
            raise validation("ownerId", f"User '{given}' not found.")
        return entity.path

    def _check_limit(self, kept: dict[str, Any]) -> None:
        product = self.store.get(kept["scope"]) if kept["scope"].startswith("products/") else None
        limit = product.properties.get("subscriptionsLimit") if product else None
        if limit is None:
            return
        held = [
            one
            for one in self.store.children("subscriptions")
            if one.properties["scope"] == kept["scope"]
            and one.properties.get("ownerId") == kept.get("ownerId")  # all without an owner share one
            and one.properties["state"] in COUNTED_STATES
        ]
        if len(held) >= limit:
            raise validation("subscriptionsLimit", "Subscriptions limit reached for same user")

    def _keys(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> dict[str, str]:
        keys = {}
        for name in ("primaryKey", "secondaryKey"):
            keys[name] = properties.get(name) or (old.secrets[name] if old else new_key())
            if self.service.directory.key_is_taken(keys[name], asked.entity_path):
                raise validation(name, f"{name} is in use by another subscription.")
        if keys["primaryKey"] == keys["secondaryKey"]:
            raise validation("secondaryKey", "The two keys differ.")
        return keys

    def _date(self, given: str) -> str:
        try:
            return timestamp(datetime.fromisoformat(given))
        except ValueError:
            raise validation("expirationDate", "expirationDate is a time.") from None


class UserSubscriptions(Subscriptions):
    """Read only: what a user owns."""

    collection = ("users", "*", "subscriptions")
    type_name = "users/subscriptions"

    @override
    def list(self, asked: Asked) -> list[Entity]:
        self.require_parent(asked)
        owner = "/".join(asked.path[:2]).lower()
        return [one for one in self.store.children("subscriptions") if str(one.properties.get("ownerId", "")).lower() == owner]

    @override
    def find(self, asked: Asked) -> Entity:
        entity = self.store.get(f"subscriptions/{asked.ids[-1]}")
        if entity is None or str(entity.properties.get("ownerId", "")).lower() != "/".join(asked.path[:2]).lower():
            raise not_found(self.title)
        return entity


class ProductSubscriptions(Subscriptions):
    """Read only: who has a product."""

    collection = ("products", "*", "subscriptions")
    type_name = "products/subscriptions"

    @override
    def list(self, asked: Asked) -> list[Entity]:
        self.require_parent(asked)
        scope = "/".join(asked.path[:2]).lower()
        return [one for one in self.store.children("subscriptions") if one.properties["scope"].lower() == scope]
