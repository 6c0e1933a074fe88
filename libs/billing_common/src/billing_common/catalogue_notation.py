"""Volume discounts as people write them down: "0-100k standard, to 1M 20 % off, above 40 % off" becomes slices."""

import re
from decimal import Decimal
from typing import Any

EXAMPLE = '"0-100k standard, to 1M 20 % off, above 40 % off"'
ENTRIES_MAX = 100
TEXT_MAX = 4000
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "bn": 10**9, "b": 10**9}
_NUMBER = r"(\d[\d,_]*(?:\.\d+)?)\s*(k|m|bn|b)?"
_RANGE = re.compile(
    rf"(?:(?P<from>{_NUMBER})\s*[-\u2013]\s*(?P<to>{_NUMBER})|(?:up\s+)?to\s+(?P<upto>{_NUMBER})|(?P<above>above|beyond|over|from)(?:\s+(?P<least>{_NUMBER}))?)"
    r"\s*:?\s+(?P<rate>standard|(?P<percent>\d+(?:\.\d+)?)\s*%(?:\s*off)?)",
    re.IGNORECASE,
)


def discounts_of(value: Any) -> Any:
    """Return the entries that a text stands for; anything that is not a text is left to the model."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in re.split(r",(?=\s)|;", value[:TEXT_MAX]) if part.strip()]
    if not parts or len(parts) > ENTRIES_MAX or len(value) > TEXT_MAX:
        raise ValueError(f"the discounts have 1 to {ENTRIES_MAX} parts, with a comma and a space between them, as in {EXAMPLE}")
    entries: list[dict[str, Any]] = []
    for part in parts:
        previous = entries[-1]["up_to"] if entries else 0
        entries.append(_entry(part, previous))
    return entries


def _entry(part: str, previous: int | None) -> dict[str, Any]:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ValueError(f'"{part[:60]}" is not understood: write a range and "standard" or "N % off", as in {EXAMPLE}')
    if previous is None:
        raise ValueError(f'"{part[:60]}" stands after the part that has no end')
    begin = match["from"] or match["least"]
    if begin is not None and _count(begin, part) not in {previous, previous + 1}:
        raise ValueError(f'"{part[:60]}" begins at {_count(begin, part):,}, but the part before it ends at {previous:,}')
    end = match["to"] or match["upto"]
    return {"up_to": _count(end, part) if end else None, "percent": Decimal(match["percent"] or 0)}


def _count(text: str, part: str) -> int:
    match = re.fullmatch(_NUMBER, text, re.IGNORECASE)
    assert match is not None
    number = Decimal(re.sub(r"[,_]", "", match[1])) * _FACTORS[(match[2] or "").lower()]
    if number % 1 or number > 10**15:
        raise ValueError(f'"{part[:60]}" has a limit that is not a whole number of units up to 10^15')
    return int(number)
