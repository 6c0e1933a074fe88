"""How entities are validated, kept and shown; each kind states only what is special about it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from billing_common.clock import BusinessClock
from sandbox_apim.arm.errors import not_found, precondition_failed, validation
from sandbox_apim.directory import Directory
from sandbox_apim.limits import Limits
from sandbox_apim.reports import Reports
from sandbox_apim.store import Entity, Store

TEXT_MAX = 1000


@dataclass(frozen=True)
class Service:
    """What the kinds work with."""

    store: Store
    directory: Directory
    clock: BusinessClock
    limits: Limits
    reports: Reports
    sign_in_keys: dict[str, bytes]
    report_lag_seconds: float
    portal_url: Any  # () -> str
    gateway_url: Any
    management_url: Any


@dataclass(frozen=True)
class Asked:
    """One management request, already routed."""

    method: str
    path: tuple[str, ...]  # decoded segments below the service
    ids: tuple[str, ...]  # those that are ids
    query: dict[str, str]
    body: Any
    if_match: str | None
    prefix: str  # "/subscriptions/.../service/name"
    base_url: str

    @property
    def entity_path(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One property: its JSON type and limits."""

    type: type | tuple[type, ...]
    required: bool = False
    length_max: int = TEXT_MAX
    choices: tuple[str, ...] = ()
    default: Any = None


def text(*, required: bool = False, length_max: int = TEXT_MAX, choices: tuple[str, ...] = (), default: str | None = None) -> Field:
    return Field(str, required, length_max, choices, default)


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Kind:
    """The common behaviour: PUT replaces, PATCH merges, DELETE forgets, all with ETags."""

    collection: ClassVar[tuple[str, ...]]  # ("products", "*", "policies"): "*" is an id
    type_name: ClassVar[str]
    title: ClassVar[str]
    fields: ClassVar[dict[str, Field]] = {}
    filters: ClassVar[tuple[str, ...]] = ("name", "displayName")
    only_eq: ClassVar[frozenset[str]] = frozenset()
    id_length_max: ClassVar[int] = 80
    delete_found: ClassVar[int] = 200
    delete_needs_if_match: ClassVar[bool] = True

    def __init__(self, service: Service) -> None:
        self.service = service
        self.store = service.store

    # --- what a kind overrides ---

    def checked(self, asked: Asked, properties: dict[str, Any], old: Entity | None) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ARG002 - for kinds that need it
        """Return properties and secrets to keep; raise a validation error."""
        return properties, (old.secrets if old else {})

    def shown(self, entity: Entity, asked: Asked) -> dict[str, Any]:  # noqa: ARG002 - for kinds that need it
        return dict(entity.properties)

    def removing(self, asked: Asked, entity: Entity) -> None:
        """Refuse or clean up before an entity goes."""

    def action(self, asked: Asked, entity: Entity, name: str) -> Answer:  # noqa: ARG002 - for kinds that need it
        raise not_found(f"Action {name}")

    def filter_fields(self) -> dict[str, Any]:
        def reader(field: str) -> Any:
            return (lambda entity: entity.name) if field == "name" else (lambda entity: entity.properties.get(field))

        return {field: reader(field) for field in self.filters}

    # --- the verbs ---

    def list(self, asked: Asked) -> list[Entity]:
        self.require_parent(asked)
        return self.store.children(asked.entity_path)

    def get(self, asked: Asked) -> Answer:
        entity = self.find(asked)
        return Answer(200, self.envelope(entity, asked), entity.etag)

    def put(self, asked: Asked) -> Answer:
        self.require_parent(asked)
        old = self.store.get(asked.entity_path)
        self.check_if_match(asked, old, required=False)
        properties = self.validated(self.given(asked), complete=True)
        kept, hidden = self.checked(asked, properties, old)
        entity = self.store.put(asked.entity_path, kept, hidden)
        return Answer(200 if old else 201, self.envelope(entity, asked), entity.etag)

    def patch(self, asked: Asked) -> Answer:
        old = self.find(asked)
        self.check_if_match(asked, old, required=True)
        changes = self.validated(self.given(asked), complete=False)
        merged = {name: value for name, value in {**old.properties, **changes}.items() if value is not None}
        kept, hidden = self.checked(asked, merged, old)
        entity = self.store.put(asked.entity_path, kept, hidden)
        return Answer(200, self.envelope(entity, asked), entity.etag)

    def delete(self, asked: Asked) -> Answer:
        entity = self.store.get(asked.entity_path)
        if entity is None:
            return Answer(204)
        self.check_if_match(asked, entity, required=self.delete_needs_if_match)
        self.removing(asked, entity)
        self.store.delete(entity.path)
        return Answer(self.delete_found)

    # --- shared pieces ---

    def envelope(self, entity: Entity, asked: Asked) -> dict[str, Any]:
        return {
            "id": f"{asked.prefix}/{entity.path}",
            "type": f"Microsoft.ApiManagement/service/{self.type_name}",
            "name": entity.name,
            "properties": self.shown(entity, asked),
        }

    def find(self, asked: Asked) -> Entity:
        entity = self.store.get(asked.entity_path)
        if entity is None:
            raise not_found(self.title)
        return entity

    def require_parent(self, asked: Asked) -> None:
        if len(self.collection) > 2 and self.store.get("/".join(asked.path[:2])) is None:
            raise not_found(self.collection[0].removesuffix("s").capitalize())

    def given(self, asked: Asked) -> dict[str, Any]:
        properties = asked.body.get("properties") if isinstance(asked.body, dict) else None
        if not isinstance(properties, dict):
            raise validation("properties", "A JSON object with 'properties' is required.")
        return properties

    def validated(self, given: dict[str, Any], *, complete: bool) -> dict[str, Any]:
        """Check types, lengths and choices; unknown properties are left out, as ARM does."""
        found: dict[str, Any] = {}
        for name, field in self.fields.items():
            value = given.get(name, field.default if complete else None)
            if value is None:
                if name in given and not complete and not field.required:
                    found[name] = None  # an explicit null removes the property
                if field.required and (complete or name in given):
                    raise validation(name, f"{name} is required.")
                continue
            found[name] = _checked_value(name, field, value)
        return found

    def check_if_match(self, asked: Asked, entity: Entity | None, *, required: bool) -> None:
        if asked.if_match is None:
            if required:
                raise validation("If-Match", "The If-Match header is required.")
            return
        if asked.if_match != "*" and (entity is None or asked.if_match != entity.etag):
            raise precondition_failed()


def _checked_value(name: str, field: Field, value: Any) -> Any:
    wrong_bool = isinstance(value, bool) and field.type is not bool
    if not isinstance(value, field.type) or wrong_bool:
        raise validation(name, f"{name} has the wrong type.")
    if isinstance(value, str) and len(value) > field.length_max:
        raise validation(name, f"{name} has at most {field.length_max} characters.")
    if field.required and value == "":
        raise validation(name, f"{name} should not be empty.")
    if not field.choices:
        return value
    chosen = next((choice for choice in field.choices if choice.lower() == str(value).lower()), None)
    if chosen is None:
        raise validation(name, f"{name} is one of {', '.join(field.choices)}.")
    return chosen


def relative_id(value: str, target: str) -> str:
    """Turn a full ARM id or `/products/pro` into `products/pro`."""
    path = value.lower().rpartition("/providers/microsoft.apimanagement/service/")[2]
    if path != value.lower():
        start = len(value) - len(path) + path.find("/") + 1 if "/" in path else len(value)
        return value[start:].strip("/")
    if not value.startswith("/"):
        raise validation(target, f"{target} is a relative id such as /products/pro or a full one.")
    return value.strip("/")


def http_address(name: str, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise validation(name, f"{name} is an http or https address.")
    return value
