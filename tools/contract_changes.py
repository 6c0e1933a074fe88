"""Which changes of an event's schema break who relies on it: everything but a new optional field."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
CHOICES = ("anyOf", "oneOf", "allOf", "prefixItems")
WORDS = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$defs", "$comment"})  # say nothing about the shape


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Return one sentence per change that an old reader of new events, or a new reader of old events, cannot stand."""
    return list(_Comparison(old.get("$defs", {}), new.get("$defs", {})).shapes(old, new, ""))


class _Comparison:
    """Walks two schemas side by side, following references into each one's own definitions."""

    def __init__(self, old_parts: Schema, new_parts: Schema) -> None:
        self._old_parts, self._new_parts = old_parts, new_parts
        self._inside: list[tuple[str, str]] = []  # references being followed: a shape may contain itself

    def shapes(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        references = (str(old.get("$ref")), str(new.get("$ref")))
        if references in self._inside:
            return
        if "$ref" in old:
            self._inside.append(references)
        yield from self._resolved(_resolve(old, self._old_parts), _resolve(new, self._new_parts), at)
        if "$ref" in old:
            self._inside.pop()

    def _resolved(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        if "properties" in old and "properties" in new:
            yield from self._fields(old, new, at)
        for word in ("items", "additionalProperties"):
            if isinstance(old.get(word), dict) and isinstance(new.get(word), dict):
                yield from self.shapes(old[word], new[word], f"{at}[]")
        for word in CHOICES:
            if len(old.get(word, [])) == len(new.get(word, [])):
                for one, other in zip(old.get(word, []), new.get(word, []), strict=True):
                    yield from self.shapes(one, other, at)
        if (was := _rest(old)) != (now := _rest(new)):
            yield f"{at or 'the event'} was {was} and is {now}"

    def _fields(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        was, now = old["properties"], new["properties"]
        was_required, now_required = old.get("required", []), new.get("required", [])
        for name in was:
            path = f"{at}.{name}".lstrip(".")
            if name not in now:
                yield f"{path} is gone"
                continue
            if (name in was_required) != (name in now_required):
                yield f"{path} became {'optional' if name in was_required else 'required'}"
            yield from self.shapes(was[name], now[name], path)
        yield from (f"{at}.{name}".lstrip(".") + " is new and required" for name in now_required if name not in was)


def _resolve(schema: Schema, parts: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = parts[schema["$ref"].rsplit("/", 1)[-1]]
    return found


def _rest(schema: Schema) -> Schema:
    """What is left to compare as it is: types, values, limits, and how many alternatives there are."""
    rest = {key: value for key, value in schema.items() if key not in {*WORDS, "properties", "required", "$ref"}}
    for word in ("items", "additionalProperties"):
        if isinstance(rest.get(word), dict):
            rest[word] = "a schema"
    for word in CHOICES:
        if word in rest:
            rest[word] = len(rest[word])
    return rest
