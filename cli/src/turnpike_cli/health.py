"""Whether a part is up: Kafka by its own protocol, Postgres by a question, the others by their door."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Literal

from embedded_servers import Postgres, kafka
from turnpike_cli.parts import KAFKA, Part

TIMEOUT_SECONDS = 3.0
BODY_MAX = 10_000


@dataclass(frozen=True)
class Health:
    """`detail` says what is missing when the part is not ready, and what it holds back when it is."""

    state: Literal["ready", "starting", "stopped", "died"]
    detail: str


def ask_health(part: Part, port: int, postgres: Callable[[], Postgres] | None = None) -> Health:
    """Ask a process that runs whether it is ready."""
    if part is KAFKA:
        return Health("ready", "") if kafka.answers(port) else Health("starting", "does not answer yet")
    if postgres is not None:
        return Health("ready", "") if postgres().is_ready() else Health("starting", "does not answer yet")
    try:
        status, body = _get(port)
    except (OSError, HTTPException):
        return Health("starting", "its door is not open yet")
    return Health("ready", _held(body)) if status == 200 else Health("starting", _reasons(status, body))


def _get(port: int) -> tuple[int, bytes]:
    """Ask with the standard library: a start asks hundreds of times, and httpx would make a TLS context for each."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_MAX)
    finally:
        connection.close()


def _reasons(status: int, body: bytes) -> str:
    try:
        return "; ".join(json.loads(body)["reasons"])
    except (ValueError, KeyError, TypeError):
        return f"its door answers {status}"


def _held(body: bytes) -> str:
    """Say which events a service tries again and again; the sandboxes know no such thing."""
    try:
        held = json.loads(body)["held"]
        return "; ".join(
            f"holds {one['topic']} partition {one['partition']} since {one['since'][:19]} UTC: {one['error']}, {one['tries']} tries"
            for one in held
        )
    except (ValueError, KeyError, TypeError):
        return ""
