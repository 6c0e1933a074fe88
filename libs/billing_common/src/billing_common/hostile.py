"""For tests: requests that nobody means well, made from what an application says of its own doors. A new door is in by itself.

Each differs from a sensible one in a single place, or in all of its times at once.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI

from billing_common.internal_auth import InternalAuth

OF_ALL_SERVICES = ("/status", "/clock", "/dead-letters", "/dead-letters/{letter_id}", "/dead-letters/{letter_id}/requeue")
METHODS = ("get", "post", "put", "patch", "delete")
LONG = "9" * 5000  # more digits than Python reads, in a request line that a server still takes
TEXTS = ("", "\x00", "a\x00b", LONG, "\U0001f4a9", "../..", "'; --", "0", "-1", "null", "[]")
NUMBERS = ("-1", "0", "1001", "2147483648", "9223372036854775808", "1" + "0" * 30, LONG, "1e400", "0.5", "NaN", "")
FIRST, LAST = "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"
TIMES = (f"{FIRST}Z", f"{FIRST}+14:00", f"{LAST}Z", f"{LAST}-14:00", "0000-01-01T00:00:00Z", "99999-01-01T00:00:00Z", "1e20", "-1e15", LONG)
SPANS = ((f"{FIRST}Z", "0001-01-02T00:00:00Z"), (f"{FIRST}+14:00", "0001-01-02T00:00:00Z"), ("9999-12-31T00:00:00Z", f"{LAST}Z"),
         ("9999-12-30T00:00:00Z", f"{LAST}-14:00"), ("9998-12-31T22:00:00Z", "9998-12-31T23:00:00Z"),
         (f"{LAST}Z", f"{FIRST}Z"), ("0002-01-01T00:00:00+14:00", "0002-01-01T00:00:00Z"))  # fmt: skip
JSON_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    0.5,
    "",
    "\x00",
    "a\x00b",
    "x" * 100_000,
    [],
    {},
    [None],
    {"\x00": "\x00"},
    *TIMES[:4],
)
BODIES = (b"", b"{", b"\xff", b"null", b"[]", b"7", b'"x"', b"[" * 20_000, b'{"x": NaN}', b'{"x": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}',
          b'{"x": "\\ud800"}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"))  # fmt: skip
SENSIBLE_TIME = "2027-01-10T12:00:00Z"
FORMATS = {"date-time": SENSIBLE_TIME, "date": "2027-01-10", "uuid": "b54adc00-67f9-11d9-9669-0800200c9a66", "uri": "http://x/"}
SENSIBLE = {"from": SENSIBLE_TIME, "to": "2027-01-11T12:00:00Z"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class Hostile:
    """One request, and the place in which it is hostile."""

    method: str
    url: str
    where: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def requests_of(app: FastAPI, known: Mapping[str, Any], without: Sequence[str]) -> Iterator[Hostile]:
    """Return hostile requests to each door that the application tells of. `known`: by name, what sensible ones say."""
    document = app.openapi()
    for path, operations in document["paths"].items():
        for method in METHODS if path not in without else ():
            if method in operations:
                yield from _Door(document, method.upper(), path, operations[method], known).requests()


class _Door:
    def __init__(self, document: dict[str, Any], method: str, path: str, operation: dict[str, Any], known: Mapping[str, Any]) -> None:
        self._document, self._method, self._path, self._known = document, method, path, {**SENSIBLE, **known}
        self._parameters = [{**one, "schema": self._resolved(one["schema"])} for one in operation.get("parameters", ())]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        self._body = self._sample(content["schema"]) if content else None
        self._takes_body = content is not None or method in {"POST", "PUT", "PATCH"}
        self._sensible = {one["name"]: self._text(one) for one in self._parameters}

    def requests(self) -> Iterator[Hostile]:
        yield self._request("nothing", {}, self._body)
        for one in self._parameters:
            for value in _values_for(one["schema"]):
                yield self._request(f"{one['in']} {one['name']}", {one["name"]: value}, self._body)
            yield self._request(f"{one['in']} {one['name']}", {}, self._body, raw={one["name"]: "%ff%fe"})
        times = [one["name"] for one in self._parameters if _is_time(one["schema"])]
        for first, last in SPANS if times else ():
            yield self._request("all times", dict(zip(times, (first, last), strict=False)), self._body)
        if self._takes_body:
            for body in BODIES:
                yield self._request("the body", {}, None, content=body)
        for place, body in _spoilt(self._body):
            yield self._request(f"body {place}", {}, body)
        for first, last in SPANS if self._body is not None else ():
            yield self._request("all times of the body", {}, _with_times(self._body, iter((first, last))))

    def _request(
        self, where: str, changed: Mapping[str, str], body: Any, *, raw: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> Hostile:
        path, query = self._path, []
        for one in self._parameters:
            name = one["name"]
            text = (raw or {}).get(name) or quote(changed.get(name, self._sensible[name]), safe="")
            if one["in"] == "path":
                path = path.replace(f"{{{name}}}", text or "x")
            elif one["in"] == "query":
                query.append(f"{quote(name)}={text}")
        if content is None and body is not None:
            content = json.dumps(body).encode()
        headers = {"content-type": "application/json"} if content is not None else {}
        return Hostile(self._method, path + ("?" + "&".join(query) if query else ""), where, content, headers)

    def _text(self, parameter: dict[str, Any]) -> str:
        value = self._sample(parameter["schema"], parameter["name"])
        return str(value[0] if isinstance(value, list) else value)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._resolved(next(one for one in schema[choice] if one.get("type") != "null"))
        return schema

    def _sample(self, schema: dict[str, Any], name: str = "") -> Any:
        """Return a value that a schema probably takes."""
        schema = self._resolved(schema)
        if name in self._known:
            return self._known[name]
        if schema.get("enum") or "const" in schema:
            return schema["const"] if "const" in schema else schema["enum"][0]
        kind = schema.get("type")
        if kind == "object":
            return {name: self._sample(one, name) for name, one in schema.get("properties", {}).items()} or {"x": 1}
        if kind == "array":
            return [self._sample(schema["items"])]
        if kind in {"integer", "number"}:
            return max(1, int(schema.get("minimum", 1)))
        return True if kind == "boolean" else FORMATS.get(schema.get("format", ""), "x")


def _is_time(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") in {"date-time", "date"}


def _values_for(schema: Mapping[str, Any]) -> tuple[str, ...]:
    if _is_time(schema):
        return (*TIMES, *TEXTS)
    return (*NUMBERS, *TEXTS) if schema.get("type") in {"integer", "number"} else TEXTS


def _spoilt(body: Any) -> Iterator[tuple[str, Any]]:
    """Return a body with each of its places, down to the leaves, replaced by each hostile value, or left out."""
    for path in _places(body):
        for value in JSON_VALUES:
            changed = deepcopy(body)
            _at(changed, path[:-1])[path[-1]] = value
            yield ".".join(map(str, path)), changed
        without = deepcopy(body)
        del _at(without, path[:-1])[path[-1]]
        yield ".".join(map(str, path)), without


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield (*above, name)
        yield from _places(one, (*above, name))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _with_times(value: Any, times: Iterator[str]) -> Any:
    if isinstance(value, dict):
        return {name: _with_times(one, times) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_times(one, times) for one in value]
    return next(times, value) if isinstance(value, str) and TIME.match(value) else value


async def badly_answered(app: FastAPI, auth: InternalAuth, known: Mapping[str, Any], *, without: Sequence[str] = ()) -> list[str]:
    """Return the requests whose answer was 500, or a refusal without a word of JSON; and sensible ones that were called invalid.

    What somebody else does not answer is 502 or 503, and no fault of the request.
    """
    found = []
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
        for one in requests_of(app, known, without):
            answer = await client.request(one.method, one.url, content=one.content, headers={**one.headers, **auth.headers()})
            is_sensible = one.where == "nothing"
            detail = answer.json().get("detail") if answer.status_code >= 400 and "json" in answer.headers.get("content-type", "") else None
            is_told = answer.status_code < 400 or bool(detail)
            if answer.status_code == 500 or not is_told or (is_sensible and (answer.status_code in {401, 403} or isinstance(detail, list))):
                told = answer.text[:200] if is_sensible else ""
                found.append(f"{one.method} {one.url[:150]!r}, {one.where}, {(one.content or b'')[:200]!r}: {answer.status_code} {told}")
    return found
