"""Reads the subset of OData's `$filter` and `$orderby` that API Management takes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sandbox_apim.arm.errors import validation

FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda value, part: part in value,
    "startswith": lambda value, part: value.startswith(part),
    "endswith": lambda value, part: value.endswith(part),
    "substringof": lambda value, part: part in value,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "gt": lambda left, right: left > right,
    "ge": lambda left, right: left >= right,
    "lt": lambda left, right: left < right,
    "le": lambda left, right: left <= right,
}
TERM = re.compile(
    r"""\s*(?:(?P<function>contains|startswith|endswith|substringof)\(\s*(?P<first>'(?:[^']|'')*'|\w+)\s*,\s*(?P<second>'(?:[^']|'')*'|\w+)\s*\)
      |(?P<field>[\w/]+)\s+(?P<operator>eq|ne|gt|ge|lt|le)\s+(?P<value>(?:datetime)?'(?:[^']|'')*'|[^\s()']+))\s*(?P<joint>and\s|$)""",
    re.VERBOSE | re.IGNORECASE,
)
LENGTH_MAX = 4000


class Term(NamedTuple):
    """One comparison or function of a filter."""

    field: str
    operator: str
    value: str


def parse_filter(text: str | None) -> list[Term]:
    """Return the terms that `and` joins; anything else is a validation error."""
    if not text:
        return []
    if len(text) > LENGTH_MAX:
        raise validation("$filter", f"the filter is longer than {LENGTH_MAX} characters")
    terms: list[Term] = []
    stripped = text.strip()
    while stripped.startswith("(") and stripped.endswith(")") and stripped.count("(") == 1:
        stripped = stripped[1:-1].strip()
    position = 0
    while position < len(stripped):
        match = TERM.match(stripped, position)
        if match is None:
            raise validation("$filter", f"Syntax error at position {position} in '{text}'.")
        terms.append(_term(match))
        position = match.end()
    return terms


def _term(match: re.Match[str]) -> Term:
    if not match["function"]:
        return Term(match["field"], match["operator"].lower(), _literal(match["value"]))
    name = match["function"].lower()
    field, value = (match["second"], match["first"]) if name == "substringof" else (match["first"], match["second"])
    if field.startswith("'") or not value.startswith("'"):
        raise validation("$filter", f"'{name}' takes a field and a text")
    return Term(field, name, _literal(value))


def _literal(text: str) -> str:
    if text.lower().startswith("datetime'"):
        text = text[len("datetime") :]
    return text[1:-1].replace("''", "'") if text.startswith("'") else text


def matcher(terms: list[Term], fields: dict[str, Callable[[Any], Any]], only_eq: frozenset[str] = frozenset()) -> Callable[[Any], bool]:
    """Return a test for an entity. `fields` says how to read each field that may be filtered."""
    known = {name.lower(): name for name in fields}
    tests: list[Callable[[Any], bool]] = []
    for term in terms:
        name = known.get(term.field.lower())
        if name is None:
            raise validation("$filter", f"Field '{term.field}' cannot be filtered. Allowed: {', '.join(sorted(fields))}.")
        if name in only_eq and term.operator != "eq":
            raise validation("$filter", f"Field '{name}' takes only 'eq'.")
        tests.append(_test(fields[name], term))
    return lambda entity: all(test(entity) for test in tests)


def _test(read: Callable[[Any], Any], term: Term) -> Callable[[Any], bool]:
    if term.operator in FUNCTIONS:
        function = FUNCTIONS[term.operator]
        return lambda entity: function(str(read(entity) or "").lower(), term.value.lower())
    compare = COMPARISONS[term.operator]

    def test(entity: Any) -> bool:
        found = read(entity)
        if isinstance(found, datetime):
            return compare(found, moment(term.value))
        return compare(str(found or "").lower(), term.value.lower())

    return test


def moment(text: str) -> datetime:
    """Read a time of a filter; without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise validation("$filter", f"'{text}' is not a time.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
