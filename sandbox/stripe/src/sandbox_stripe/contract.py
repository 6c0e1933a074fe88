"""The contract of Stripe's API: finds the operation of a request and checks and types its parameters.

A small walk over the schema instead of a compiled validator: reading the file is all that a start costs.
"""

import gzip
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sandbox_stripe.errors import Json, StripeError, invalid, missing_parameter

FILE = "stripe-sdk-16.1.0-openapi-subset.json.gz"
DECIMALS_MAX = 12
METADATA_KEYS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX = 50, 40, 500


@dataclass(frozen=True)
class Operation:
    """One method of one path, with the ids found in the path."""

    method: str
    template: str
    path_params: dict[str, str]
    schema: Json | None
    in_body: bool


@cache
def load() -> Json:
    spec: Json = json.loads(gzip.decompress((files("sandbox_stripe") / FILE).read_bytes()))
    return spec


@cache
def _routes() -> list[tuple[list[str], str, Json]]:
    paths: Json = load()["paths"]
    routes = [(template.strip("/").split("/"), template, item) for template, item in paths.items()]
    return sorted(routes, key=lambda route: route[1].count("{"))  # fixed words win over ids


def find_operation(method: str, path: str) -> Operation | None:
    """Return the operation of a request, or None where Stripe has no such address."""
    parts = path.strip("/").split("/")
    for segments, template, item in _routes():
        if len(segments) != len(parts) or method not in item:
            continue
        if all(want == have or (want.startswith("{") and have) for want, have in zip(segments, parts, strict=True)):
            params = {want[1:-1]: have for want, have in zip(segments, parts, strict=True) if want.startswith("{")}
            schema, in_body = _schema_of(item[method])
            return Operation(method, template, params, schema, in_body)
    return None


def _schema_of(operation: Json) -> tuple[Json | None, bool]:
    if "requestBody" in operation:
        content = next(iter(operation["requestBody"]["content"].values()))
        return content["schema"], True
    if "x-query-params-schema" in operation:
        return {"$ref": "#/components/schemas/" + operation["x-query-params-schema"]}, False
    return None, False


def schemas() -> Json:
    found: Json = load()["components"]["schemas"]
    return found


def resolve(schema: Json) -> Json:
    while "$ref" in schema:
        schema = schemas()[schema["$ref"].rsplit("/", maxsplit=1)[-1]]
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return resolve(schema["allOf"][0])
    return schema


def check(schema: Json | None, params: Json) -> Json:
    """Return the parameters with JSON types, or raise the error that Stripe would answer."""
    if schema is None:
        allowed: Json = {"type": "object", "properties": {"expand": {"type": "array", "items": {"type": "string"}}}}
        return _object(allowed, params, "")
    return _object(resolve(schema), params, "")


def _typed(schema: Json, value: Any, name: str) -> Any:
    clears = schema.get("x-empty-string-clears", False)
    schema = resolve(schema)
    if value == "" and (clears or schema.get("x-empty-string-clears")):
        return ""
    if "anyOf" in schema:
        return _any(schema["anyOf"], value, name)
    if value is None:
        return None
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, value, name)
    if kind == "array":
        return _array(schema, value, name)
    return _scalar(schema, value, name)


def _any(alternatives: list[Json], value: Any, name: str) -> Any:
    error: StripeError | None = None
    for alternative in sorted(alternatives, key=lambda one: resolve(one).get("type") == "string" and "enum" not in one):
        if isinstance(value, dict) != (resolve(alternative).get("type") == "object"):
            continue
        try:
            return _typed(alternative, value, name)
        except StripeError as refused:
            error = refused
    raise error or invalid(f"Invalid {name}", name)


def _object(schema: Json, value: Any, name: str) -> Json:
    if not isinstance(value, dict):
        raise invalid("Invalid object", name)
    properties: Json = schema.get("properties", {})
    rest = schema.get("additionalProperties", False)
    result: Json = {}
    for key, item in value.items():
        inner = f"{name}[{key}]" if name else key
        if key in properties:
            result[key] = _typed(properties[key], item, inner)
        elif isinstance(rest, dict):
            result[key] = _typed(rest, item, inner)
        else:
            raise StripeError(400, f"Received unknown parameter: {inner}", code="parameter_unknown", param=inner)
    for key in schema.get("required", []):
        inner = f"{name}[{key}]" if name else key
        if key not in value:
            raise missing_parameter(inner)
        if value[key] == "":
            message = f"You passed an empty string for '{inner}'. We assume empty values are an attempt to unset a parameter; "
            raise invalid(message + f"however '{inner}' cannot be unset.", inner, "parameter_invalid_empty")
    if name.endswith("metadata"):
        _check_metadata(result, name)
    return result


def _check_metadata(metadata: Json, name: str) -> None:
    if len(metadata) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have at most {METADATA_KEYS_MAX} keys.", name)
    for key, value in metadata.items():
        if len(key) > METADATA_KEY_MAX:
            raise invalid(f"Metadata keys can have at most {METADATA_KEY_MAX} characters.", f"{name}[{key}]")
        if len(str(value)) > METADATA_VALUE_MAX:
            message = f"Metadata values can have up to {METADATA_VALUE_MAX} characters, but you passed in a value that is {len(value)}."
            raise invalid(message, f"{name}[{key}]")


def _array(schema: Json, value: Any, name: str) -> list[Any]:
    if value == "":
        return []
    if not isinstance(value, list):
        raise invalid("Invalid array", name)
    return [_typed(schema.get("items", {}), item, f"{name}[{index}]") for index, item in enumerate(value)]


def _scalar(schema: Json, value: Any, name: str) -> Any:
    if isinstance(value, dict | list):
        raise invalid(f"Invalid {schema.get('type', 'value')}", name)
    kind = schema.get("type")
    if kind in {"integer", "boolean", "number"}:
        return _number(kind, value, name)
    if schema.get("format") == "decimal":
        return _decimal(str(value), name)
    if "enum" in schema and value not in schema["enum"] and value != "":
        allowed = [str(one) for one in schema["enum"]]
        raise invalid(f"Invalid {name}: must be one of {', '.join(allowed[:-1])}{' or ' if allowed[1:] else ''}{allowed[-1]}", name)
    return value


def _number(kind: str, value: Any, name: str) -> Any:
    text = str(value)
    if kind == "boolean":
        if text.lower() not in {"true", "false"}:
            raise invalid(f"Invalid boolean: {text[:40]}", name)
        return text.lower() == "true"
    if kind == "integer":
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise invalid(f"Invalid integer: {text[:40]}", name, "parameter_invalid_integer")
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise invalid(f"Invalid number: {text[:40]}", name) from None


def _decimal(text: str, name: str) -> str:
    match = re.fullmatch(r"-?\d{1,18}(?:\.(\d+))?", text, re.ASCII)
    if not match:
        raise invalid(f"Invalid decimal: {text[:40]}", name)
    if len(match.group(1) or "") > DECIMALS_MAX:
        raise invalid(f"Invalid decimal: {text[:40]}; must contain at maximum {DECIMALS_MAX} decimal places.", name)
    return text
