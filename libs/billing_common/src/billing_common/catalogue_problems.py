"""What is wrong with a catalogue, said so that a person can repair it: path, line, what is wrong, what is allowed."""

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from billing_common.catalogue_model import PATTERN_WORDS
from billing_common.catalogue_source import Path, Source, Truth


@dataclass(frozen=True)
class Problem:
    """One thing that must be repaired before the catalogue can be sold."""

    path: str
    line: int
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        hint = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"line {self.line}, {self.path}: {self.message}{hint}"


class CatalogueError(Exception):
    """The catalogue cannot be sold; `problems` says everything that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.path))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Problems:
    """Collects problems with the lines of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hidden: frozenset[Path] = frozenset()
        self._older: Mapping[Path, Path] | None = None
        self.found: list[Problem] = []

    def add(self, path: Path, message: str, allowed: str = "", *, certain: bool = False) -> None:
        """Note a problem at a path, unless it only follows from one that is noted there already; a `certain` one follows from none."""
        if not certain and any(path[: len(gone)] == gone or gone[: len(path)] == path for gone in self._hidden):
            return
        place = self._place(path)
        self.found.append(Problem(json_path(place), self._source.line_of(place), message, allowed))

    def first_there(self, paths: Iterable[Path]) -> Path:
        """Return the first of the paths that stands in the file; the last where none does."""
        path: Path = ()
        for path in paths:
            if self._source.has(self._place(path)):
                break
        return path

    def hide(self, paths: Iterable[Path]) -> None:
        """Note no more problems at, inside or around these paths."""
        self._hidden = frozenset(paths)

    def read_from_array(self, places: Mapping[Path, Path]) -> None:
        """From now on paths are those of the upgraded document. `places` says where the parts of a product stand in the older array."""
        self._older = places

    def _place(self, path: Path) -> Path:
        return path if self._older is None else _place_in_array(path, self._older)

    def raise_if_any(self) -> None:
        if self.found:
            raise CatalogueError(self.found)


def _place_in_array(path: Path, places: Mapping[Path, Path]) -> Path:
    """Return the place in the older array of what stands at the path in the upgraded document."""
    if path[:1] != ("products",):
        return path
    for length in range(len(path), 2, -1):
        if path[2:length] in places:
            return (*path[1:2], *places[path[2:length]])
    return path[1:]


def json_path(path: Path) -> str:
    """Write a path as JSONPath: $.products[3].price.base."""
    text = "$"
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_$][\w$]*", part):
            text += f".{part}"
        else:
            text += f"[{part[:60]!r}]"
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion as a sentence with a blank before it, or nothing."""
    by_lower, written = {name.lower(): name for name in known}, word.lower()
    nearest = difflib.get_close_matches(written, by_lower, n=5, cutoff=0.6)
    if not nearest:
        return ""
    best = max(nearest, key=lambda name: (difflib.SequenceMatcher(None, name, written).ratio(), _same_beginning(name, written)))
    return f' Did you mean "{by_lower[best]}"?'


def _same_beginning(one: str, other: str) -> int:
    return next((length for length, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))


def add_validation_problems(problems: Problems, error: ValidationError, root: type[BaseModel], *, depth: int = 0) -> None:
    """Turn pydantic's errors into problems that name what is allowed. `root` stands `depth` steps inside the document."""
    entries = error.errors(include_url=False)
    for entry in entries:
        path: Path = tuple(entry["loc"])
        if entry["type"] == "too_short" and any(other["loc"][: len(path)] == path for other in entries if other is not entry):
            continue  # pydantic counts only the valid items: what is wrong with the others is said already
        message, allowed = _explain(entry, _model_at(root, path[depth:-1]), _model_at(root, path[depth:]))
        problems.add(path, message, allowed)


def _explain(entry: Any, model: Any, inside: Any) -> tuple[str, str]:
    """Say what is wrong and what is allowed. `model` holds the field, `inside` is what should stand there."""
    given, kind, context = entry["input"], entry["type"], entry.get("ctx", {})
    name = str(entry["loc"][-1]) if entry["loc"] else ""
    meaning, shown = _meaning(model, name), _shown(given)
    if kind in KINDS:
        what, allowed = KINDS[kind]
        fields = f" with the fields {', '.join(_names(inside))}" if kind == "model_type" else ""
        return f"{shown} is not {what}", allowed + (fields or (f": {meaning}" if meaning != name else ""))
    if kind in LENGTHS:
        return _length(kind, given, context, name, meaning)
    explained = (f"{shown} does not fit", meaning)
    match kind:
        case "extra_forbidden":
            explained = _unknown_field(name, _names(model))
        case "missing":
            explained = (f'the field "{name}" is missing', meaning)
        case "literal_error":
            words = re.findall(r"'([^']*)'", context["expected"])
            hint = did_you_mean(given, words) if isinstance(given, str) else ""
            explained = (f"{shown} is not allowed.{hint}", ", ".join(words) or f"{context['expected']}, a number without quotes")
        case "string_pattern_mismatch":
            explained = (_unlike(given, context["pattern"]), PATTERN_WORDS[context["pattern"]])
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            explained = (f"{shown} is out of range", _bounds(context))
        case "value_error":
            explained = (str(context["error"]), meaning)
    return explained


TEXT = ("text", "text in quotes")
WHOLE = ("a whole number", "a whole number")
NUMBER = ("a number", 'a number, best written as text, for example "0.10"')
LIST = ("a list", "a list, [...]")
OBJECT = ("an object", "an object, {...}")
KINDS = {
    "string_type": TEXT, "int_type": WHOLE, "int_parsing": WHOLE, "int_parsing_size": WHOLE, "int_from_float": WHOLE,
    "decimal_type": NUMBER, "decimal_parsing": NUMBER, "finite_number": NUMBER,
    "tuple_type": LIST, "list_type": LIST, "dict_type": OBJECT, "model_type": OBJECT,
}  # fmt: skip
LENGTHS = {"too_long", "too_short", "string_too_short", "string_too_long"}
STRIPE_LIMITS = {"tiers", "discounts", "usage", "features"}


def _length(kind: str, given: Any, context: dict[str, Any], name: str, meaning: str) -> tuple[str, str]:
    if kind == "too_long":
        limit = "more than Stripe takes" if name in STRIPE_LIMITS else "too many"
        return f"there are {context['actual_length']} entries, {limit}", f"at most {context['max_length']}"
    if kind == "string_too_long":
        return f"the text has {len(given)} characters", f"at most {context['max_length']}"
    what, least = ("text", "character") if kind == "string_too_short" else ("list", "entry")
    return f"the {what} is empty", f"at least one {least}: {meaning}"


def _unlike(given: str, pattern: str) -> str:
    """Say why a text is not as its pattern wants it: empty, too long, or with other characters."""
    if not given.strip():
        return "the text is empty"
    if any(re.search(pattern, given[:length]) for length in range(1, len(given))) and re.fullmatch(r"[\w.-]+", given, re.ASCII):
        return f"{_shown(given)} is too long: {len(given):,} characters"
    return f"{_shown(given)} has characters that are not allowed"


def _shown(given: Any) -> str:
    """Return what stands in the file as a person would name it."""
    if isinstance(given, str):
        return f'"{given[:60]}"'
    if isinstance(given, Truth):
        return given.word
    if given is None:
        return "null"
    if isinstance(given, int | float | Decimal):
        return str(given)[:60]
    return "an object" if isinstance(given, dict) else "a list"


def _bounds(context: dict[str, Any]) -> str:
    words = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
    limits = {name: Decimal(re.sub(r"[^0-9E.+-]", "", str(context[name]).replace("Decimal", ""))) for name in words if name in context}
    return next(words[name].format(f"{limit:,f}") for name, limit in limits.items())


def _unknown_field(name: str, siblings: list[str]) -> tuple[str, str]:
    if name in {"interval", "recurring"} and "interval" not in siblings:
        return f'"{name}" stands beside the product\'s own: mixed intervals cannot be billed', 'one "interval" in each product'
    return f'"{name[:60]}" is not a known field.{did_you_mean(name, siblings)}', ", ".join(siblings)


def _meaning(model: Any, name: str) -> str:
    """Return what a field is for: what is allowed there, in words."""
    for field_name, field in model.model_fields.items() if _is_model(model) else ():
        if name in (field_name, field.alias):
            return field.description or name
    return name


def _model_at(model: type[BaseModel], path: Path) -> Any:
    """Return the model of the object at the path, following models, tuples and maps."""
    current: Any = model
    for part in path:
        current = _step(current, part)
    return current


def _step(current: Any, part: str | int) -> Any:
    if _is_model(current):
        for name, field in current.model_fields.items():
            if part in (name, field.alias):
                return _unwrap(field.annotation)
        return None
    arguments = [argument for argument in get_args(current) if argument is not Ellipsis]
    return _unwrap(arguments[-1]) if arguments else None


def _unwrap(annotation: Any) -> Any:
    """Drop `| None`: what remains is a model, a tuple, a map or a plain type."""
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is types.UnionType:
        return next((argument for argument in get_args(annotation) if argument is not types.NoneType), None)
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _names(model: Any) -> list[str]:
    if not _is_model(model):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]
