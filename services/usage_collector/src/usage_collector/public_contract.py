"""The OpenAPI description of the public door: its route is a plain one, for speed, so FastAPI cannot derive it."""

from typing import Any

from usage_collector.cloud_events import BATCH, PROPERTIES_MAX, SINGLE, TYPE
from usage_collector.properties import NUMBER_MAX, TEXT_MAX

Schema = dict[str, Any]
PATH = "/v1/events"
REASONS = {
    "invalid_event": "not a CloudEvent 1.0 of this type: an attribute is missing or has the wrong type",
    "unknown_type": f"specversion is not 1.0 or type is not {TYPE}",
    "bad_text": "a text or a name of the event holds the character NUL",
    "invalid_attribute": "id, source or subject is empty or longer than 256 characters",
    "invalid_time": "the time lies outside of the calendar",
    "foreign_source": "the key speaks only for its own source, which the message names, and for those below it",
    "foreign_subscription": "the key may not send for this subscription",
    "foreign_meter": "the key is bound to meters, which the message names, and the event names none or another",
    "too_old": "older than is taken (35 days unless set otherwise)",
    "in_the_future": "ahead of the clock by more than five minutes (unless set otherwise)",
    "invalid_quantity": "data.quantity is not a whole number in its limits",
    "unknown_meter": "data.meter is no meter of the catalogue",
    "too_many_properties": f"data has more than {PROPERTIES_MAX} members",
    "invalid_status": "data.status is no HTTP status",
    "invalid_method": "data.method is no text of at most 32 characters",
    "invalid_template": "data.template is no text of at most 512 characters",
    "invalid_property": f"a whole number in data is below 0 or above {NUMBER_MAX}, or a text has not 1 to {TEXT_MAX} characters",
}
PROBLEMS = {
    400: "malformed_json, invalid_event (the only one of a request), bad_gzip, bad_text, empty_batch, disconnected",
    401: "unknown_key: the key is missing, wrong or revoked",
    408: "too_slow: the body did not arrive in time",
    413: "body_too_large (1 MiB, also after gunzip) or too_many_events (1,000), unless set otherwise: send smaller batches",
    415: "unsupported_media_type or unsupported_encoding",
    429: "too_many_requests: this sender has too many requests or bytes in flight",
    503: "busy (too many requests or bytes in flight), not_stored (Kafka did not acknowledge in time) or unchecked_key (the keys cannot be "
    "read): send the same events again",
}
EXAMPLE = {
    "specversion": "1.0",
    "id": "7f9c0d0e",
    "source": "/gateways/one",
    "type": TYPE,
    "subject": "5f0c1c0e-3f5b-5d43-9a53-9f6c3f8b5a10",
    "time": "2027-01-10T12:30:00Z",
    "data": {"meter": "calls", "quantity": 25},
}


def document(title: str) -> Schema:
    """Return the description of the whole public port."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "0.1.0"},
        "paths": {PATH: {"post": _operation()}},
        "components": {
            "schemas": {"UsageEvent": _event(), "UsageData": _usage(), "Answer": _answer(), "Result": _result(), "Problem": _problem()},
            "securitySchemes": {"senderKey": {"type": "http", "scheme": "bearer", "description": "a sender's key, tps_..."}},
        },
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation() -> Schema:
    return {
        "summary": "Send usage",
        "description": (
            "CloudEvents 1.0: one (structured), several (batch) or one in binary mode (ce-* headers, the body is `data`). 202 means that "
            "Kafka has every accepted event on disk. Events are answered one by one; a repeated one (same source, id and UTC day) is "
            "accepted and counted once. Accepted does not mean billed: the plan at the event's time decides that, and usage of a product "
            "that another source bills counts nothing. Send the same events again after 429, 503 or no answer."
        ),
        "operationId": "post_events",
        "security": [{"senderKey": []}],
        "parameters": [
            *_binary_headers(),
            _header("content-encoding", {"enum": ["gzip", "x-gzip", "identity"]}, "gzip: the body is packed"),
        ],
        "requestBody": {
            "required": True,
            "content": {
                SINGLE: {"schema": _reference("UsageEvent"), "example": EXAMPLE},
                BATCH: {"schema": {"type": "array", "minItems": 1, "items": _reference("UsageEvent")}, "example": [EXAMPLE]},
                "application/json": {"schema": _reference("UsageData"), "example": EXAMPLE["data"]},
            },
        },
        "responses": {
            "202": _response("At least one event was accepted; `results` says which, in the order sent", "Answer"),
            "403": _response("No event was accepted: the key may send none of them", "Answer"),
            "422": _response("No event was accepted; `results` says why", "Answer"),
            **{str(status): _refusal(status, codes) for status, codes in PROBLEMS.items()},
        },
    }


def _header(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", **schema}, "description": description}


def _binary_headers() -> list[Schema]:
    event = _event()["properties"]
    return [_header(f"ce-{name}", {}, f"binary mode only: {name}") for name in event if name != "data"]


def _response(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}


def _refusal(status: int, codes: str) -> Schema:
    response = _response(f"The whole request is refused; nothing was stored. `error.code`: {codes}", "Problem")
    if status in {429, 503}:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return response


def _event() -> Schema:
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    return {
        "type": "object",
        "description": "Further CloudEvents attributes are allowed and dropped.",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**text, "description": "the sender's own; with source and UTC day it is the event's identity"},
            "source": {**text, "description": "the source of the sender's key, or one below it"},
            "type": {"const": TYPE},
            "subject": {**text, "description": "subscription id, or the sid of one of its keys"},
            "time": {"type": "string", "format": "date-time", "description": "when it happened, with an offset; a repeat carries the same"},
            "data": _reference("UsageData"),
        },
    }


def _usage() -> Schema:
    return {
        "type": "object",
        "maxProperties": PROPERTIES_MAX,
        "description": "Further whole numbers are properties that a meter may read (tokens, responseBytes). A text is kept, "
        "as a digest, only where a meter counts the different values of that property; anything else is dropped.",
        "properties": {
            "quantity": {"type": "integer", "minimum": 0, "default": 1, "description": "in the meter's unit; without a meter: calls"},
            "meter": {"type": "string", "description": "a meter of the catalogue; absent: all of the plan's meters"},
            "status": {"type": "integer", "minimum": 100, "maximum": 599, "description": "of the call; the meter decides which count"},
            "method": {"type": "string", "maxLength": 32},
            "template": {"type": "string", "maxLength": 512, "description": "URL template: /orders/{id}"},
        },
    }


def _answer() -> Schema:
    return {
        "type": "object",
        "required": ["accepted", "rejected", "results"],
        "properties": {
            "accepted": {"type": "integer"},
            "rejected": {"type": "integer"},
            "results": {"type": "array", "items": _reference("Result")},
        },
        "additionalProperties": False,
    }


def _result() -> Schema:
    reasons = "; ".join(f"{name}: {meaning}" for name, meaning in REASONS.items())
    return {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": {"type": ["string", "null"], "description": "the event's id; null where it has none"},
            "status": {"enum": ["accepted", "rejected"]},
            "reason": {"enum": list(REASONS), "description": reasons},
            "message": {"type": "string"},
        },
        "additionalProperties": False,
    }


def _problem() -> Schema:
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string", "description": "a sentence with the remedy"}},
        "additionalProperties": False,
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}, "additionalProperties": False}
