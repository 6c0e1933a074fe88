"""Errors in the log: kinds, places and the first line of what was wrong. Never local variables: they hold passwords, keys and e-mails."""

import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

FRAMES_MAX = 20
CHAIN_MAX = 5


def without_values(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` of a log entry by where each error of the chain came from; structlog's own ways add every local variable."""
    found = entry.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        entry["exception"] = [_described(one) for one in _chain(error)]
    return entry


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < CHAIN_MAX:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain


def _described(error: BaseException) -> dict[str, Any]:
    """A database's message names the value at fault in its later lines, a validation error's in all of them: those stay out."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    message = "" if callable(getattr(error, "errors", None)) else (str(error).splitlines() or [""])[0][:200]
    return {
        "type": type(error).__name__,
        "message": message,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
