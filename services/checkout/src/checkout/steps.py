"""One step of a plan, and what is known of earlier versions. Plain values."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

System = Literal["apim", "stripe"]
Action = Literal["keep", "create", "update", "reactivate", "archive", "link", "unlink", "unpublish"]
KINDS: tuple[tuple[System, tuple[str, ...]], ...] = (
    ("stripe", ("product", "meter", "price")),
    ("apim", ("logger", "product", "group", "api", "policy")),
)


@dataclass(frozen=True)
class Change:
    """One property that is not as it should be, in words."""

    what: str
    found: str
    wanted: str

    def text(self) -> str:
        return f"{self.what}: {self.found} -> {self.wanted}"


@dataclass(frozen=True)
class Step:
    """One thing and what is to be done with it. `subject` is what whoever carries the step out needs."""

    system: System
    action: Action
    kind: str
    name: str
    product_id: str = ""
    detail: str = ""
    changes: tuple[Change, ...] = ()
    replaces: str = ""  # of a new price: the lookup key of the one that makes room; of that one: the new key
    subject: Any = field(default=None, compare=False, repr=False)

    def text(self) -> str:
        """Return the step as one line for a person."""
        more = "; ".join([*([self.detail] if self.detail else []), *(change.text() for change in self.changes)])
        return f"{self.system}: {self.action} {self.kind} {self.name}{f' ({more})' if more else ''}"

    @property
    def identity(self) -> str:
        """Names the step with all that it writes."""
        return f"{self.text()} {self.subject!r}"

    def public(self) -> dict[str, Any]:
        """Return the step as plain JSON."""
        shown = ("system", "action", "kind", "name", "product_id", "detail", "replaces")
        return {name: getattr(self, name) for name in shown} | {"changes": [asdict(change) for change in self.changes], "text": self.text()}


@dataclass(frozen=True)
class Known:
    """What earlier versions say: lookup key -> price id and words, event name -> meter id. So a thing is known whatever its marks say."""

    prices: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    meters: dict[str, str] = field(default_factory=dict)


STATES = {"active": ("inactive", "active"), "published": ("hidden", "published")}


def compared(*properties: tuple[str, Any, Any]) -> tuple[Change, ...]:
    """Return a change for each (what, found, wanted) that differs."""
    return tuple(_change(*entry) for entry in properties if entry[1] != entry[2])


def _change(what: str, found: Any, wanted: Any) -> Change:
    if what in STATES:
        return Change("state", STATES[what][found], STATES[what][wanted])
    return Change(what, _words(found), _words(wanted))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(str(entry) for entry in value) or "none"
    return f'"{value}"' if value else "none"
