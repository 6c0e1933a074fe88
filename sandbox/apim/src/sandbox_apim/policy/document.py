"""Reads policy XML: a closed list of elements, each with its scope, section and attributes; anything else is refused."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from lxml import etree

from sandbox_apim.policy import steps
from sandbox_apim.policy.expressions import Template, compile_template, compile_value
from sandbox_apim.policy.members import Getter
from sandbox_apim.policy.tokens import ExpressionSyntaxError, escape_raw

Scope = Literal["global", "product", "api", "operation"]
SECTIONS = ("inbound", "backend", "outbound", "on-error")
DOCUMENT_BYTES_MAX = 256 * 1024
EVERYWHERE = frozenset(SECTIONS)
INBOUND = frozenset({"inbound"})
ALL_SCOPES = frozenset({"global", "product", "api", "operation"})


class PolicyError(Exception):
    """The policy is refused; line and column are where the person has to look."""

    def __init__(self, message: str, *, element: str = "policies", line: int = 1, column: int = 1) -> None:
        super().__init__(f"Error in element '{element}' on line {line}, column {column}: {message}")
        self.element = element


class Base:
    """Where the policies of the scope above run."""


class Forward:
    """Where the backend is called."""


@dataclass(slots=True)
class Document:
    """One compiled policy document: per section the steps, Base and Forward markers in order."""

    sections: dict[str, list[steps.Step | Base | Forward]] = field(default_factory=lambda: {name: [] for name in SECTIONS})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy may refer to."""

    scope: Scope
    identity: str  # the path of the document: counters of different documents are different
    logger_topic: Callable[[str], str | None]


def parse(text: str, surroundings: Surroundings, *, raw: bool) -> Document:
    """Compile a policy document or raise PolicyError."""
    if len(text.encode()) > DOCUMENT_BYTES_MAX:
        raise PolicyError(f"The policy document is larger than {DOCUMENT_BYTES_MAX} bytes")
    try:
        escaped = escape_raw(text) if raw else text
        root = etree.fromstring(escaped.encode(), _safe_parser())
    except ExpressionSyntaxError as error:
        raise PolicyError(str(error)) from error
    except etree.XMLSyntaxError as error:
        line, column = error.position
        raise PolicyError(error.msg or "the document is not well-formed XML", line=line, column=column) from error
    if root.getroottree().docinfo.doctype:
        raise PolicyError("a document type is not allowed")
    return Reader(text, surroundings).document(root)


def _safe_parser() -> Any:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True)


class Reader:
    """Walks one document; every element it does not know ends in a PolicyError."""

    def __init__(self, text: str, surroundings: Surroundings) -> None:
        self._lines = text.splitlines() or [""]
        self._around = surroundings
        self._seen: set[str] = set()
        self._count = 0

    def document(self, root: Any) -> Document:
        if root.tag != "policies":
            raise self._error(root, f"the root element is 'policies', not '{root.tag}'")
        self._attributes(root, set())
        document = Document()
        done: set[str] = set()
        for section in root:
            if section.tag not in SECTIONS or section.tag in done:
                raise self._error(section, f"'policies' holds inbound, backend, outbound and on-error, each once; found '{section.tag}'")
            done.add(section.tag)
            self._attributes(section, set())
            document.sections[section.tag] = self._section(section)
        return document

    def _section(self, section: Any) -> list[steps.Step | Base | Forward]:
        found: list[steps.Step | Base | Forward] = []
        for element in self._children(section):
            if element.tag == "base":
                self._attributes(element, set())
                found.append(Base())
            elif element.tag == "forward-request":
                self._attributes(element, {"timeout"})
                if section.tag != "backend":
                    raise self._error(element, "Policy is not allowed in the specified section")
                found.append(Forward())
            else:
                found.append(self._step(element, section.tag))
        return found

    def _step(self, element: Any, section: str) -> steps.Step:
        known = ELEMENTS.get(element.tag)
        if known is None:
            raise self._error(element, f"'{element.tag}' is not in the sandbox's list of policies")
        read, sections, scopes = known
        if section not in sections:
            raise self._error(element, "Policy is not allowed in the specified section")
        if self._around.scope not in scopes:
            raise self._error(element, "Policy is not allowed in the specified scope")
        if element.tag in {"quota", "rate-limit"}:
            if element.tag in self._seen:
                raise self._error(element, "Policy can be used only once per policy definition")
            self._seen.add(element.tag)
        self._count += 1
        try:
            return read(self, element, section)
        except ExpressionSyntaxError as error:
            raise self._error(element, str(error)) from error

    # --- one method per element ---

    def rate_limit(self, element: Any, _section: str) -> steps.Step:
        by_key = element.tag.endswith("by-key")
        extra = {"counter-key", "increment-condition", "increment-count"} if by_key else set()
        headers = {"retry-after-header-name", "remaining-calls-header-name", "total-calls-header-name"}
        self._attributes(
            element, {"calls", "renewal-period"} | extra | headers, required={"calls", "renewal-period"} | (extra & {"counter-key"})
        )
        self._no_children(element)
        return steps.RateLimit(
            identity=f"{element.tag}|{self._around.identity}|{self._count}",
            calls=self._number(element, "calls", least=1),
            seconds=self._number(element, "renewal-period", least=1, most=300),
            key=compile_template(element.get("counter-key")) if by_key else None,
            condition=self._condition(element, "increment-condition"),
            increment=self._number(element, "increment-count", least=1, default=1),
            retry_header=element.get("retry-after-header-name", "Retry-After"),
            remaining_header=element.get("remaining-calls-header-name", ""),
            total_header=element.get("total-calls-header-name", ""),
        )

    def quota(self, element: Any, _section: str) -> steps.Step:
        by_key = element.tag.endswith("by-key")
        extra = {"counter-key", "increment-condition", "increment-count", "first-period-start"} if by_key else set()
        self._attributes(element, {"calls", "bandwidth", "renewal-period"} | extra, required={"renewal-period"} | (extra & {"counter-key"}))
        self._no_children(element)
        if element.get("calls") is None and element.get("bandwidth") is None:
            raise self._error(element, "'calls', 'bandwidth' or both are required")
        seconds = self._number(element, "renewal-period", least=0)
        if by_key and 0 < seconds < 300:
            raise self._error(element, "'renewal-period' is 0 or at least 300 seconds")
        return steps.Quota(
            identity=f"{element.tag}|{self._around.identity}|{self._count}",
            calls=self._number(element, "calls", least=0) if element.get("calls") is not None else None,
            kilobytes=self._number(element, "bandwidth", least=0) if element.get("bandwidth") is not None else None,
            seconds=seconds,
            key=compile_template(element.get("counter-key")) if by_key else None,
            condition=self._condition(element, "increment-condition"),
            increment=self._number(element, "increment-count", least=1, default=1),
            first_start=self._first_start(element) if by_key else None,
        )

    def log(self, element: Any, _section: str) -> steps.Step:
        self._attributes(element, {"logger-id", "partition-key"}, required={"logger-id"})
        self._no_children(element)
        logger, key = element.get("logger-id"), element.get("partition-key")
        topic = self._around.logger_topic(logger)
        if topic is None:
            raise self._error(element, f"Logger '{logger}' was not found, or is not an azureEventHub logger")
        if not (element.text or "").strip():
            raise self._error(element, "the message is empty")
        return steps.LogToEventHub(topic, self._text(element), compile_template(key) if key is not None else None)

    def set_header(self, element: Any, section: str) -> steps.Step:
        self._attributes(element, {"name", "exists-action"}, required={"name"})
        action = element.get("exists-action", "override")
        if action not in {"override", "skip", "append", "delete"}:
            raise self._error(element, f"'exists-action' is override, skip, append or delete, not '{action}'")
        name = element.get("name")
        if "@" in name or not name.strip():
            raise self._error(element, "'name' is a literal in the sandbox")
        values = list(self._children(element))
        if any(value.tag != "value" for value in values) or (not values and action != "delete"):
            raise self._error(element, "'set-header' holds one or more 'value'")
        return steps.SetHeader(name, action, tuple(self._text(value) for value in values), section in {"outbound", "on-error"})

    def choose(self, element: Any, section: str) -> steps.Step:
        self._attributes(element, set())
        branches: list[tuple[Getter, tuple[steps.Step, ...]]] = []
        otherwise: tuple[steps.Step, ...] = ()
        for index, child in enumerate(self._children(element)):
            inner = tuple(self._step(each, section) for each in self._children(child))
            if child.tag == "when":
                self._attributes(child, {"condition"}, required={"condition"})
                condition = self._condition(child, "condition")
                assert condition is not None
                branches.append((condition, inner))
            elif child.tag == "otherwise" and index == len(element) - 1 and branches:
                self._attributes(child, set())
                otherwise = inner
            else:
                raise self._error(child, "'choose' holds one or more 'when' and at most one 'otherwise' at the end")
        if not branches:
            raise self._error(element, "'choose' needs a 'when'")
        return steps.Choose(tuple(branches), otherwise)

    def return_response(self, element: Any, section: str) -> steps.Step:
        self._attributes(element, set())
        status, headers, body = 200, [], None
        for child in self._children(element):
            if child.tag == "set-status":
                self._attributes(child, {"code", "reason"}, required={"code"})
                status = self._number(child, "code", least=100, most=599)
            elif child.tag == "set-header":
                header = self.set_header(child, section)
                assert isinstance(header, steps.SetHeader)
                headers.append(header)
            elif child.tag == "set-body" and body is None:
                self._attributes(child, set())
                self._no_children(child)
                body = self._text(child)
            else:
                raise self._error(child, "'return-response' holds set-status, set-header and one set-body")
        return steps.ReturnResponse(status, tuple(headers), body)

    # --- small readers ---

    def _text(self, element: Any) -> Template:
        text = element.text or ""
        return compile_template(text if "@(" not in text and "@{" not in text else text.strip())

    def _condition(self, element: Any, name: str) -> Getter | None:
        text = element.get(name)
        if text is None:
            return None
        value = compile_value(text)
        if value is None or value.type != "bool":
            raise self._error(element, f"'{name}' is an expression of type bool")
        return value.get

    def _first_start(self, element: Any) -> datetime:
        text = element.get("first-period-start", "0001-01-01T00:00:00Z")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._error(element, f"'first-period-start' is a time such as 2026-01-01T00:00:00Z, not '{text}'") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _number(self, element: Any, name: str, *, least: int, most: int = 2**31 - 1, default: int | None = None) -> int:
        text = element.get(name, str(default) if default is not None else "")
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise self._error(element, f"'{name}' is a whole number from {least} to {most}, not '{text}'")
        return int(text)

    def _attributes(self, element: Any, known: set[str], required: Iterable[str] = ()) -> None:
        for name in element.attrib:
            if name not in known:
                raise self._error(element, f"attribute '{name}' is not in the sandbox's list for this policy")
        for name in required:
            if not element.get(name):
                raise self._error(element, f"attribute '{name}' is required")

    def _no_children(self, element: Any) -> None:
        if len(element):
            raise self._error(element[0], f"'{element[0].tag}' is not in the sandbox's list inside '{element.tag}'")

    def _children(self, element: Any) -> Iterable[Any]:
        loose = [element.text, *(child.tail for child in element)]
        if any(text and text.strip() for text in loose):
            raise self._error(element, "text is not allowed here")
        return list(element)

    def _error(self, element: Any, message: str) -> PolicyError:
        line = element.sourceline or 1
        shown = self._lines[line - 1] if line <= len(self._lines) else ""
        return PolicyError(message, element=element.tag, line=line, column=max(shown.find(f"<{element.tag}"), 0) + 1)


ELEMENTS: dict[str, tuple[Callable[[Reader, Any, str], steps.Step], frozenset[str], frozenset[str]]] = {
    "rate-limit": (Reader.rate_limit, INBOUND, frozenset({"product", "api", "operation"})),
    "rate-limit-by-key": (Reader.rate_limit, INBOUND, ALL_SCOPES),
    "quota": (Reader.quota, INBOUND, frozenset({"product"})),
    "quota-by-key": (Reader.quota, INBOUND, ALL_SCOPES),
    "log-to-eventhub": (Reader.log, EVERYWHERE, ALL_SCOPES),
    "set-header": (Reader.set_header, EVERYWHERE, ALL_SCOPES),
    "choose": (Reader.choose, frozenset({"inbound", "outbound", "on-error"}), ALL_SCOPES),
    "return-response": (Reader.return_response, frozenset({"inbound", "outbound", "on-error"}), ALL_SCOPES),
}
