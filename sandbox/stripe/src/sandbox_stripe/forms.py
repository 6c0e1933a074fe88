"""Reads Stripe's bracketed form encoding: `items[0][price]=x` becomes {"items": [{"price": "x"}]}."""

import re
from typing import Any
from urllib.parse import parse_qsl

from sandbox_stripe.errors import Json, invalid

FIELDS_MAX = 4_000
DEPTH_MAX = 8


def decode_form(body: str) -> Json:
    """Return the tree of a form body or query string; every leaf is a string."""
    try:
        pairs = parse_qsl(body, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        message = "The request's parameters could not be read."
        raise invalid(message) from error
    tree: Json = {}
    for key, value in pairs:
        parts = [part for part in re.split(r"[\[\]]", key) if part]
        if key.endswith("[]"):
            parts.append("")
        if not parts or len(parts) > DEPTH_MAX:
            raise invalid(f"Invalid parameter name: {key[:80]}")
        _put(tree, parts, value)
    result: Json = {key: _as_list(node) for key, node in tree.items()}
    return result


def _put(tree: Json, parts: list[str], value: str) -> None:
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part or str(len(node)), {})
        if not isinstance(child, dict):
            raise invalid(f"Invalid parameter: {parts[0]}", parts[0])
        node = child
    node[parts[-1] or str(len(node))] = value


def _as_list(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    fixed = {key: _as_list(value) for key, value in node.items()}
    if fixed and all(key.isascii() and key.isdigit() for key in fixed):
        return [fixed[key] for key in sorted(fixed, key=int)]
    return fixed
