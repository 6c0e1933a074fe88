"""What the gateway looks up for a call: key to subscription, path to API and operation, and the policies in effect."""

import re
from dataclasses import dataclass

from sandbox_apim.policy.document import Base, Document, Forward, PolicyError, Scope, Surroundings, parse
from sandbox_apim.policy.steps import Step
from sandbox_apim.store import Entity, Store

NAMED_VALUE = re.compile(r"\{\{([A-Za-z0-9\-._]+)\}\}")
DEFAULT_GLOBAL = "<policies><inbound /><backend><forward-request /></backend><outbound /><on-error /></policies>"
DEFAULT_INNER = (
    "<policies><inbound><base /></inbound><backend><base /></backend><outbound><base /></outbound><on-error><base /></on-error></policies>"
)


@dataclass(frozen=True, slots=True)
class Effective:
    """The policies of all scopes in one, `<base />` replaced."""

    inbound: tuple[Step, ...]
    before_backend: tuple[Step, ...]
    forwards: bool
    after_backend: tuple[Step, ...]
    outbound: tuple[Step, ...]
    on_error: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: re.Pattern[str]
    operation: Entity


@dataclass(frozen=True, slots=True)
class Matched:
    api: Entity
    operation: Entity | None
    rest: str  # the path relative to the API


class Directory:
    """Answers from memory. Built again when entities other than subscriptions and users change; keys are kept up to date one by one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, str] = {}  # key -> path of the subscription
        self._keys_of: dict[str, tuple[str, ...]] = {}
        self._stale = True
        self._apis: list[tuple[str, Entity, list[Route]]] = []
        self._products_of: dict[str, list[Entity]] = {}
        self._product_apis: dict[str, set[str]] = {}
        self._effective: dict[tuple[str, str, str], Effective] = {}
        for entity in store.children("subscriptions"):
            self._learn_keys(entity.path.lower())
        store.listeners.append(self._on_change)

    def subscription_of(self, key: str) -> Entity | None:
        path = self._keys.get(key)
        return self._store.get(path) if path else None

    def key_is_taken(self, key: str, by_other_than: str) -> bool:
        return self._keys.get(key, by_other_than.lower()) != by_other_than.lower()

    def match(self, method: str, path: str) -> Matched | None:
        """Find API and operation: the longest API path first, literal templates before those with parameters."""
        self._refresh()
        for prefix, api, routes in self._apis:
            if not (path == prefix or path.startswith(prefix + "/") or not prefix):
                continue
            rest = path[len(prefix) :] or "/"
            for route in routes:
                if route.method in {method, "*"} and route.pattern.fullmatch(rest):
                    return Matched(api, route.operation, rest)
            if prefix:  # an API without a path would hold every path: there, no operation means no API
                return Matched(api, None, rest)
        return None

    def products_of(self, api: Entity) -> list[Entity]:
        self._refresh()
        return self._products_of.get(api.name.lower(), [])

    def product_holds(self, product: str, api: Entity) -> bool:
        self._refresh()
        return api.name.lower() in self._product_apis.get(product.lower(), set())

    def effective(self, product: Entity | None, api: Entity | None, operation: Entity | None) -> Effective:
        self._refresh()
        key = (product.path if product else "", api.path if api else "", operation.path if operation else "")
        found = self._effective.get(key)
        if found is None:
            found = self._effective[key] = self._compile(*key)
        return found

    def logger_topic(self, logger_id: str) -> str | None:
        """Return the event hub a logger writes to; None: no such logger of that type."""
        logger = self._store.get(f"loggers/{logger_id}")
        if logger is None or logger.properties.get("loggerType") != "azureEventHub":
            return None
        return str(logger.secrets["credentials"].get("name") or "gateway.calls")

    def resolve_named_values(self, text: str) -> str:
        """Replace {{name}} by its value; an unknown one is a PolicyError."""
        known = {entity.properties["displayName"]: entity for entity in self._store.children("namedValues")}

        def value(match: re.Match[str]) -> str:
            entity = known.get(match.group(1))
            if entity is None:
                raise PolicyError(f"Cannot find a property '{match.group(1)}'")
            return str(entity.secrets["value"])

        return NAMED_VALUE.sub(value, text)

    def _on_change(self, path: str) -> None:
        if path.startswith("subscriptions/"):
            self._learn_keys(path)
        elif not path.startswith("users/"):
            self._stale = True

    def _learn_keys(self, path: str) -> None:
        for key in self._keys_of.pop(path, ()):
            self._keys.pop(key, None)
        entity = self._store.get(path)
        if entity is not None:
            keys = (entity.secrets["primaryKey"], entity.secrets["secondaryKey"])
            self._keys_of[path] = keys
            self._keys.update(dict.fromkeys(keys, path))

    def _refresh(self) -> None:
        if not self._stale:
            return
        self._effective = {}
        self._apis = sorted(
            ((_prefix(api), api, self._routes(api)) for api in self._store.children("apis")), key=lambda entry: len(entry[0]), reverse=True
        )
        self._product_apis, self._products_of = {}, {}
        for product in self._store.children("products"):
            held = {entity.name.lower() for entity in self._store.children(f"{product.path}/apis")}
            held |= {link.properties["apiId"].rsplit("/", 1)[-1].lower() for link in self._store.children(f"{product.path}/apiLinks")}
            self._product_apis[product.name.lower()] = held
            for api in held:
                self._products_of.setdefault(api, []).append(product)
        self._stale = False

    def _routes(self, api: Entity) -> list[Route]:
        operations = self._store.children(f"{api.path}/operations")
        ordered = sorted(operations, key=lambda operation: operation.properties["urlTemplate"].count("{"))
        return [
            Route(operation.properties["method"].upper(), _pattern(operation.properties["urlTemplate"]), operation) for operation in ordered
        ]

    def _compile(self, product: str, api: str, operation: str) -> Effective:
        scopes: tuple[tuple[Scope, str], ...] = (("operation", operation), ("api", api), ("product", product))
        chain = [self._document(scope, path) for scope, path in scopes if path]
        chain.append(self._document("global", ""))
        flat = {section: _flatten(chain, section) for section in ("inbound", "backend", "outbound", "on-error")}
        backend = flat["backend"]
        cut = next((index for index, step in enumerate(backend) if isinstance(step, Forward)), len(backend))
        return Effective(
            _only_steps(flat["inbound"]),
            _only_steps(backend[:cut]),
            cut < len(backend),
            _only_steps(backend[cut + 1 :]),
            _only_steps(flat["outbound"]),
            _only_steps(flat["on-error"]),
        )

    def _document(self, scope: Scope, owner: str) -> Document:
        path = f"{owner}/policies/policy" if owner else "policies/policy"
        entity = self._store.get(path)
        default = DEFAULT_INNER if owner else DEFAULT_GLOBAL
        around = Surroundings(scope, path.lower(), self.logger_topic)
        if entity is None:
            return parse(default, around, raw=False)
        raw = entity.properties["format"] == "rawxml"
        return parse(self.resolve_named_values(entity.properties["value"]), around, raw=raw)


def _only_steps(found: list[Step | Base | Forward]) -> tuple[Step, ...]:
    return tuple(step for step in found if not isinstance(step, Base | Forward))


def _flatten(chain: list[Document], section: str) -> list[Step | Base | Forward]:
    found: list[Step | Base | Forward] = []
    for step in chain[0].sections[section]:
        if isinstance(step, Base):
            found += _flatten(chain[1:], section) if len(chain) > 1 else []
        else:
            found.append(step)
    return found


def _prefix(api: Entity) -> str:
    path = str(api.properties["path"]).strip("/")
    return f"/{path}" if path else ""


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^}]+\})", "/" + template.split("?", 1)[0].strip("/"))
    code = "".join(("(?:.*)" if part[1] == "*" else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts)
    return re.compile(code + "/?" if code != "/" else "/")
