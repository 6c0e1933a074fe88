"""Users, groups and who is in them."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from typing_extensions import override

from sandbox_apim.arm.errors import not_found, validation
from sandbox_apim.arm.kinds import Answer, Asked, Field, Kind, text, timestamp
from sandbox_apim.signin import make_token
from sandbox_apim.store import Entity

TOKEN_AGE_MAX = timedelta(days=30)
SSO_URL_AGE = timedelta(minutes=5)
BUILT_IN_GROUPS = ("administrators", "developers", "guests")


class Users(Kind):
    collection = ("users",)
    type_name = "users"
    title = "User"
    filters = ("name", "firstName", "lastName", "email", "note", "registrationDate", "state")
    only_eq = frozenset({"state"})
    delete_found = 204  # the SDK takes 202 or 204 only
    fields: ClassVar[dict[str, Field]] = {
        "email": text(required=True, length_max=254),
        "firstName": text(required=True, length_max=100),
        "lastName": text(required=True, length_max=100),
        "state": text(choices=("active", "blocked", "pending", "deleted"), default="active"),
        "note": text(),
        "identities": Field(list),
        "password": text(length_max=256),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        email = str(properties["email"])
        if "@" not in email.strip("@"):
            raise validation("email", "Email address is not valid.")
        for other in self.store.children("users"):
            if other.properties["email"].lower() == email.lower() and other.name.lower() != asked.ids[0].lower():
                raise validation("email", "User with same email already exists.")
        properties.pop("password", None)  # sign-in is delegated: nothing ever compares it
        properties.setdefault("identities", old.properties["identities"] if old else [{"provider": "Basic", "id": email}])
        properties["registrationDate"] = old.properties["registrationDate"] if old else timestamp(self.service.clock.now())
        return properties, {}

    @override
    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        groups: list[dict[str, Any]] = []
        if asked.query.get("expandgroups") == "true":
            groups = [group.properties for group in groups_of(self, entity)]
        return {**entity.properties, "groups": groups}

    @override
    def removing(self, asked: Asked, entity: Entity) -> None:
        owned = [
            one for one in self.store.children("subscriptions") if str(one.properties.get("ownerId", "")).lower() == entity.path.lower()
        ]
        if owned and asked.query.get("deletesubscriptions") != "true":
            raise validation("deleteSubscriptions", "The user has subscriptions: pass deleteSubscriptions=true.")
        for subscription in owned:
            self.store.delete(subscription.path)
        for group in self.store.children("groups"):
            self.store.delete(f"{group.path}/{entity.path}")

    @override
    def filter_fields(self) -> dict[str, Any]:
        return {**super().filter_fields(), "registrationDate": lambda user: datetime.fromisoformat(user.properties["registrationDate"])}

    @override
    def action(self, asked: Asked, entity: Entity, name: str) -> Answer:
        if name == "token":
            return Answer(200, {"value": self._token(asked, entity)})
        if name == "generatessourl":
            token = make_token(self.service.sign_in_keys["primary"], entity.name, datetime.now(UTC) + SSO_URL_AGE)
            return Answer(200, {"value": f"{self.service.portal_url()}/signin-sso?token={quote(token, safe='')}"})
        raise not_found(f"Action {name}")

    def _token(self, asked: Asked, entity: Entity) -> str:
        given = self.given(asked)
        key_type = str(given.get("keyType", "primary")).lower()
        if key_type not in {"primary", "secondary"}:
            raise validation("keyType", "keyType is one of primary, secondary.")
        try:
            expiry = datetime.fromisoformat(str(given.get("expiry")))
        except ValueError:
            raise validation("expiry", "expiry is required and is a time.") from None
        expiry = expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)
        now = datetime.now(UTC)  # tokens live on wall time
        if not now < expiry <= now + TOKEN_AGE_MAX:
            raise validation("expiry", "expiry is in the future and at most 30 days ahead.")
        return make_token(self.service.sign_in_keys[key_type], entity.name, expiry)


class Groups(Kind):
    collection = ("groups",)
    type_name = "groups"
    title = "Group"
    filters = ("name", "displayName", "description", "externalId")
    fields: ClassVar[dict[str, Field]] = {
        "displayName": text(required=True, length_max=300),
        "description": text(),
        "type": text(choices=("custom", "system", "external"), default="custom"),
        "externalId": text(),
    }

    @override
    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:
        built_in = asked.ids[0].lower() in BUILT_IN_GROUPS
        return {**properties, "type": "system" if built_in else properties["type"], "builtIn": built_in}, {}

    @override
    def removing(self, asked: Asked, entity: Entity) -> None:
        if entity.properties["builtIn"]:
            raise validation("groupId", "System groups cannot be deleted.")
        for product in self.store.children("products"):
            self.store.delete(f"{product.path}/{entity.path}")


class Link(Kind):
    """A relation without properties of its own: PUT without a body; the answer is the entity at the other end."""

    target: ClassVar[str]
    delete_needs_if_match = False

    def other(self, name: str) -> Entity | None:
        return self.store.get(f"{self.target}/{name}")

    @override
    def put(self, asked: Asked) -> Answer:
        self.require_parent(asked)
        other = self.other(asked.ids[-1])
        if other is None:
            raise not_found(self.title)
        existed = self.store.get(asked.entity_path) is not None
        if not existed:
            self.store.put("/".join((*asked.path[:-1], other.name)), {})
        return Answer(200 if existed else 201, self.envelope(other, asked))

    @override
    def get(self, asked: Asked) -> Answer:
        if asked.method != "HEAD":
            raise not_found(self.title)
        self.find(asked)
        return Answer(204)

    @override
    def list(self, asked: Asked) -> list[Entity]:
        self.require_parent(asked)
        others = [self.other(link.name) for link in self.store.children(asked.entity_path)]
        return [other for other in others if other is not None]


class GroupUsers(Link):
    collection = ("groups", "*", "users")
    type_name = "groups/users"
    title = "User"
    target = "users"


class UserGroups(Kind):
    """Read only: the groups a user is in."""

    collection = ("users", "*", "groups")
    type_name = "users/groups"
    title = "Group"

    @override
    def list(self, asked: Asked) -> list[Entity]:
        self.require_parent(asked)
        user = self.store.get("/".join(asked.path[:2]))
        return groups_of(self, user) if user is not None else []


def groups_of(kind: Kind, user: Entity) -> list[Entity]:
    """Return a user's groups; everybody but the administrator is a developer."""
    found = []
    for group in kind.store.children("groups"):
        built_in = "administrators" if user.name == "1" else "developers"
        if group.name == built_in or kind.store.get(f"{group.path}/{user.path}") is not None:
            found.append(group)
    return found


def fingerprint(value: str) -> str:
    """Return a short digest for logs and named references; never the value."""
    return base64.b32encode(hmac.new(b"sandbox-apim", value.encode(), hashlib.sha256).digest()[:10]).decode().lower()
