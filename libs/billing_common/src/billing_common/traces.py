"""Errors in the log: kinds, places and the first line of what was wrong. Never local variables: they hold passwords, keys and e-mails."""

import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import asyncpg

FRAMES_MAX = 20
CHAIN_MAX = 5
ARGUMENT = re.compile(r"invalid input for query argument \$\d+")


def without_values(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` of a log entry by where each error of the chain came from; structlog's own ways add every local variable."""
    found = entry.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        entry["exception"] = [_described(one) for one in _chain(error)]
    return entry


def first_line(error: BaseException) -> str:
    """Return an error's own word without the value at fault, which a database's later lines name, and of wrong data the first one too."""
    text = (str(error).splitlines() or [""])[0]
    if found := ARGUMENT.match(text):
        return found[0]
    return "a value that Postgres does not take" if isinstance(error, asyncpg.DataError) else text


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < CHAIN_MAX:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain


def _described(error: BaseException) -> dict[str, Any]:
    """A validation error names the value at fault in all of its lines: they stay out."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    message = "" if callable(getattr(error, "errors", None)) else first_line(error)[:200]
    return {
        "type": type(error).__name__,
        "message": message,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
