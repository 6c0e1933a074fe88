"""The closed list of what expressions may read from `context`, each with its C# type."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sandbox_apim.policy.call import Call, ExpressionError
from sandbox_apim.policy.tokens import ExpressionSyntaxError
from sandbox_apim.store import Entity

Getter = Callable[[Call], Any]
DATE_PARTS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
DATE_NUMBERS = frozenset({"Year", "Month", "Day", "Hour", "Minute", "Second"})
DATE_MARKS = frozenset("-:/.TZ")


class Typed(NamedTuple):
    """A compiled expression: its C# type (string, int, bool, json or object) and how to get the value."""

    type: str
    get: Getter


class Member(NamedTuple):
    type: str
    owner: str  # the member of `context` it belongs to
    nullable_owner: bool
    get: Getter


def _entity(owner: str) -> Callable[[Call], Entity | None]:
    return {
        "Subscription": lambda call: call.subscription,
        "Product": lambda call: call.product,
        "User": lambda call: call.user,
        "Api": lambda call: call.api,
        "Operation": lambda call: call.operation,
    }[owner]


def _property(owner: str, name: str | None) -> Getter:
    find = _entity(owner)

    def get(call: Call) -> Any:
        entity = find(call)
        if entity is None:
            return None
        return entity.name if name is None else entity.properties.get(name)

    return get


def _of_error(name: str) -> Getter:
    return lambda call: getattr(call.error, name) if call.error is not None else None


ENTITY_MEMBERS: dict[str, dict[str, str | None]] = {
    "Subscription": {"Id": None, "Name": "displayName"},
    "Product": {"Id": None, "Name": "displayName"},
    "User": {"Id": None},
    "Api": {"Id": None, "Name": "displayName", "Path": "path"},
    "Operation": {"Id": None, "Name": "displayName", "Method": "method", "UrlTemplate": "urlTemplate"},
}
MEMBERS: dict[str, Member] = {
    f"{owner}.{member}": Member("string", owner, True, _property(owner, name))
    for owner, members in ENTITY_MEMBERS.items()
    for member, name in members.items()
} | {
    "Request.Method": Member("string", "Request", False, lambda call: call.method),
    "Request.IpAddress": Member("string", "Request", False, lambda call: call.ip),
    "Response.StatusCode": Member("int", "Response", True, lambda call: call.response.status if call.response else None),
    "LastError.Source": Member("string", "LastError", True, _of_error("source")),
    "LastError.Reason": Member("string", "LastError", True, _of_error("reason")),
    "LastError.Message": Member("string", "LastError", True, _of_error("message")),
    "RequestId": Member("guid", "", False, lambda call: call.request_id),
    "Elapsed.TotalMilliseconds": Member("double", "", False, lambda call: call.elapsed_milliseconds),
}


def date_format(pattern: str) -> Callable[[datetime], str]:
    """Return .NET's DateTime.ToString for "o" and for patterns of yyyy MM dd HH mm ss and the marks - : / . T Z."""
    if pattern in {"o", "O"}:
        return lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"  # .NET writes seven digits
    code = ""
    for run in re.finditer(r"(.)\1*", pattern, re.DOTALL):  # a run of one letter is one part: dddd is not dd twice
        part = DATE_PARTS.get(run.group())
        if part is None and run.group() not in DATE_MARKS:
            raise ExpressionSyntaxError(f"the date format '{pattern}' is not supported by the sandbox")
        code += part or run.group()
    return lambda moment: moment.astimezone(UTC).strftime(code)


def date_part(name: str) -> Getter:
    """Return `context.Timestamp.Year` and its like, in UTC."""
    attribute = name.lower()
    return lambda call: getattr(call.timestamp.astimezone(UTC), attribute)


def header(owner: str, name: str, default: str) -> Getter:
    """Return `Headers.GetValueOrDefault(name, default)` of the request or the response."""
    key = name.lower()
    if owner == "Request":
        return lambda call: call.headers.get(key, default)

    def of_response(call: Call) -> str | None:
        return call.response.headers.get(key, default) if call.response is not None else None

    return of_response


def strict(get: Getter, name: str) -> Getter:
    """Reading a member of null without `?.` ends in an exception, as in C#."""

    def checked(call: Call) -> Any:
        value = get(call)
        if value is None:
            raise ExpressionError(f"Object reference not set to an instance of an object: {name}")
        return value

    return checked
