"""Whether a part is up: Kafka by its own protocol, Postgres by a question, the others by their door."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import httpx

from embedded_servers import Postgres, kafka
from turnpike_cli.parts import KAFKA, Part

TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class Health:
    """`detail` says what is missing when the part is not ready."""

    state: Literal["ready", "starting", "stopped", "died"]
    detail: str


def ask_health(part: Part, port: int, postgres: Callable[[], Postgres] | None = None) -> Health:
    """Ask a process that runs whether it is ready."""
    if part is KAFKA:
        return Health("ready", "") if kafka.answers(port) else Health("starting", "does not answer yet")
    if postgres is not None:
        return Health("ready", "") if postgres().is_ready() else Health("starting", "does not answer yet")
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return Health("starting", "its door is not open yet")
    if answer.status_code == 200:
        return Health("ready", "")
    return Health("starting", _reasons(answer))


def _reasons(answer: httpx.Response) -> str:
    try:
        return "; ".join(answer.json()["reasons"])
    except (ValueError, KeyError, TypeError):
        return f"its door answers {answer.status_code}"
