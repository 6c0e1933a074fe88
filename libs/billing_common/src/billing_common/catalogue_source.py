"""Reads JSON with exact numbers and remembers the line of every value, so that a problem can name its place in the file."""

import re
from decimal import Decimal
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from typing import Any
from unicodedata import category

Path = tuple[str | int, ...]
DEPTH_MAX = 32
SIZE_MAX = 4 * 1024 * 1024
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_SPACE = re.compile(r"[ \t\r\n]*")


class Truth:
    """`true` or `false`: nothing in a catalogue is either, and Python would take them for 1 and 0."""

    def __init__(self, word: str) -> None:
        self.word = word


_CONSTANTS: tuple[tuple[str, Any], ...] = (("true", Truth("true")), ("false", Truth("false")), ("null", None))


class SourceError(Exception):
    """The text is not JSON."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class Source:
    """One parsed text: `value`, the line of each path, and the names that an object holds twice."""

    def __init__(self, text: str) -> None:
        if len(text) > SIZE_MAX:
            raise SourceError(f"the file is larger than {SIZE_MAX:,} characters", 1)
        if not text.strip("\ufeff \t\r\n"):
            raise SourceError("the file is empty", 1)
        self._text = text.removeprefix("\ufeff")
        self._at = 0
        self._line = 1
        self._line_at = 0
        self.lines: dict[Path, int] = {}
        self.repeated: list[Path] = []
        self.value = self._value(())
        self._skip()
        if self._at != len(self._text):
            raise self._error("only one JSON value is allowed")

    def has(self, path: Path) -> bool:
        return path in self.lines

    def line_of(self, path: Path) -> int:
        """Return the line of the path, or of the nearest part of it that is in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1

    def _error(self, message: str) -> SourceError:
        return SourceError(message, self._current_line())

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._line_at, self._at)
        self._line_at = max(self._at, self._line_at)
        return self._line

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _peek(self) -> str:
        self._skip()
        return self._text[self._at : self._at + 1]

    def _value(self, path: Path) -> Any:
        if len(path) > DEPTH_MAX:
            raise self._error(f"nested deeper than {DEPTH_MAX} levels")
        first = self._peek()
        self.lines.setdefault(path, self._current_line())
        if first == "{":
            return self._object(path)
        if first == "[":
            return self._array(path)
        if first == '"':
            return self._string()
        return self._scalar()

    def _scalar(self) -> Any:
        for word, value in _CONSTANTS:
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        match = _NUMBER.match(self._text, self._at)
        if match is None:
            raise self._error("a JSON value is expected here")
        if match.end() - match.start() > 64:
            raise self._error("the number has more than 64 characters")
        self._at = match.end()
        return int(match.group()) if match.group(1) is None and match.group(2) is None else Decimal(match.group())

    def _string(self) -> str:
        try:
            value, self._at = scanstring(self._text, self._at + 1, True)
        except JSONDecodeError as error:
            self._at = error.pos
            raise self._error("the text in quotes is not valid JSON: " + error.msg.lower()) from error
        if any(category(letter) in {"Cc", "Cs"} for letter in value):
            raise self._error("the text in quotes holds a control character, which no page, invoice or database can show")
        return str(value)

    def _array(self, path: Path) -> list[Any]:
        values: list[Any] = []
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return values
        while True:
            values.append(self._value((*path, len(values))))
            if not self._more("]"):
                return values

    def _object(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return values
        while True:
            if self._peek() != '"':
                raise self._error('a name in double quotes is expected here (a comma before "}" is not allowed)')
            line = self._current_line()
            name = self._string()
            if name in values:
                self.repeated.append((*path, name))
            if self._peek() != ":":
                raise self._error(f'":" is expected after the name "{name[:40]}"')
            self._at += 1
            self.lines[(*path, name)] = line
            values[name] = self._value((*path, name))
            if not self._more("}"):
                return values

    def _more(self, closing: str) -> bool:
        following = self._peek()
        if following not in {",", closing}:
            raise self._error(f'"," or "{closing}" is expected here')
        self._at += 1
        return following == ","
