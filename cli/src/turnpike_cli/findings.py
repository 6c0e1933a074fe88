"""One answer of the doctor: what was found, and what to do when it is wrong."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`remedy` is empty when all is well."""

    area: str
    verdict: Literal["ok", "warning", "failed"]
    text: str
    remedy: str = ""


def fine(area: str, text: str) -> Finding:
    return Finding(area, "ok", text)


def warning(area: str, text: str, remedy: str) -> Finding:
    return Finding(area, "warning", text, remedy)


def failed(area: str, text: str, remedy: str) -> Finding:
    return Finding(area, "failed", text, remedy)
