"""One call on its way through the gateway: what policies may read and change, and how they end it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from sandbox_apim.store import Entity

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_apim.limits import Limits


class ExpressionError(Exception):
    """An expression could not be evaluated: the gateway answers 500, as Azure does."""


class Returned(Exception):  # noqa: N818 - not an error: `return-response` ends the pipeline with it
    """The pipeline ends here and the response stands as it is."""


class CallRefusedError(Exception):
    """The gateway ends the call with an answer of its own; on-error policies see the source and the reason."""

    def __init__(self, status: int, message: str, *, source: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.source = source
        self.reason = reason
        self.headers = headers or {}


@dataclass(slots=True)
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names
    body: bytes = b""


@dataclass(slots=True)
class LogLine:
    """One message for an Event Hub, as a policy wrote it."""

    topic: str
    value: bytes
    key: bytes | None = None


@dataclass(slots=True)
class Call:
    """The `context` of the policies. Sizes and states are the gateway's own, whatever the policies do."""

    request_id: str
    timestamp: datetime  # business time
    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names; the last of a repeated header wins
    body: bytes
    ip: str
    limits: "Limits"
    api: Entity | None = None
    operation: Entity | None = None
    subscription: Entity | None = None
    product: Entity | None = None
    user: Entity | None = None
    response: Response | None = None
    error: CallRefusedError | None = None
    backend_status: int = 0
    backend_milliseconds: float = 0.0
    elapsed_milliseconds: float = 0.0
    log_lines: list[LogLine] = field(default_factory=list)
    after: "list[Callable[[Call], None]]" = field(default_factory=list)  # counters that are raised once the answer is known
    extra_headers: dict[str, str] = field(default_factory=dict)  # e.g. remaining-calls-header-name
