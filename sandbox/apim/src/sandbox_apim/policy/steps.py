"""What each policy element does to a call; built once when a policy is compiled, run for every call."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from sandbox_apim.limits import time_span
from sandbox_apim.policy.call import Call, CallRefusedError, LogLine, Response, Returned
from sandbox_apim.policy.expressions import Template
from sandbox_apim.policy.members import Getter

Step = Callable[[Call], None]
MESSAGE_BYTES_MAX = 200 * 1024  # Azure cuts longer messages


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`rate-limit` (key: None, counts per subscription) and `rate-limit-by-key`."""

    identity: str
    calls: int
    seconds: int
    key: Template | None
    condition: Getter | None
    increment: int
    retry_header: str
    remaining_header: str
    total_header: str

    def __call__(self, call: Call) -> None:
        if self.key is None and call.subscription is None:
            return  # acts only when a key is used
        counter = (
            f"{self.identity}|{call.subscription.name if call.subscription else ''}"
            if self.key is None
            else f"rate-by-key|{self.key(call)}"
        )
        left, wait = call.limits.rate_left(counter, call.timestamp, self.calls, self.seconds)
        if left <= 0:
            raise CallRefusedError(
                429,
                f"Rate limit is exceeded. Try again in {wait} seconds.",
                source=self.identity.split("|", 1)[0],
                reason="RateLimitExceeded",
                headers={self.retry_header.lower(): str(wait)} | self._headers(0),
            )
        if self.condition is None:
            call.limits.rate_add(counter, call.timestamp, self.increment)
        else:
            call.after.append(lambda done: self._add_if(done, counter))
        call.extra_headers.update(self._headers(left - 1))

    def _add_if(self, call: Call, counter: str) -> None:
        if self.condition is not None and self.condition(call):
            call.limits.rate_add(counter, call.timestamp, self.increment)

    def _headers(self, left: int) -> dict[str, str]:
        pairs = ((self.remaining_header, left), (self.total_header, self.calls))
        return {name.lower(): str(value) for name, value in pairs if name}


@dataclass(frozen=True, slots=True)
class Quota:
    """`quota` (key: None, counts per subscription from its start) and `quota-by-key`."""

    identity: str
    calls: int | None
    kilobytes: int | None
    seconds: int
    key: Template | None
    condition: Getter | None
    increment: int
    first_start: datetime | None

    def __call__(self, call: Call) -> None:
        if self.key is None and call.subscription is None:
            return
        counter, first = self._counter(call)
        period = call.limits.period(counter, call.timestamp, first, self.seconds)
        self._refuse_when_used_up(call, period.calls, period.kilobytes, period.end)
        if self.condition is None and self.calls is not None:
            call.limits.quota_add(counter, period, self.increment, 0.0)
        call.after.append(lambda done: self._finish(done, counter, first))

    def _counter(self, call: Call) -> tuple[str, datetime]:
        if self.key is not None and self.first_start is not None:
            return f"quota-by-key|{self.key(call)}", self.first_start
        subscription = call.subscription
        assert subscription is not None
        started = subscription.properties.get("startDate") or subscription.properties["createdDate"]
        return f"{self.identity}|{subscription.name}", datetime.fromisoformat(started)

    def _refuse_when_used_up(self, call: Call, used: int, kilobytes: float, end: datetime) -> None:
        kind = ""
        if self.calls is not None and used >= self.calls:
            kind = "call volume"
        elif self.kilobytes is not None and kilobytes >= self.kilobytes:
            kind = "bandwidth"
        if not kind:
            return
        wait = max(1, ceil((end - call.timestamp).total_seconds()))
        raise CallRefusedError(
            403,
            f"Out of {kind} quota. Quota will be replenished in {time_span(wait)}.",
            source=self.identity.split("|", 1)[0],
            reason="QuotaExceeded",
            headers={"retry-after": str(wait)},
        )

    def _finish(self, call: Call, counter: str, first: datetime) -> None:
        counted = self.condition is None or bool(self.condition(call))
        size = (len(call.body) + (len(call.response.body) if call.response else 0)) / 1024
        period = call.limits.period(counter, call.timestamp, first, self.seconds)
        calls = self.increment if counted and self.condition is not None and self.calls is not None else 0
        if calls or (self.kilobytes is not None and counted):
            call.limits.quota_add(counter, period, calls, size if counted else 0.0)


@dataclass(frozen=True, slots=True)
class LogToEventHub:
    topic: str
    message: Template
    key: Template | None

    def __call__(self, call: Call) -> None:
        value = self.message(call).encode()[:MESSAGE_BYTES_MAX]
        key = self.key(call).encode() if self.key else None
        call.log_lines.append(LogLine(self.topic, value, key))


@dataclass(frozen=True, slots=True)
class SetHeader:
    """`set-header`: of the request in inbound and backend, of the response in outbound and on-error."""

    name: str
    action: str
    values: tuple[Template, ...]
    of_response: bool

    def __call__(self, call: Call) -> None:
        if self.of_response and call.response is None:
            call.response = Response()
        headers = call.response.headers if self.of_response and call.response else call.headers
        key = self.name.lower()
        if self.action == "delete":
            headers.pop(key, None)
        elif not (self.action == "skip" and key in headers):
            before = [headers[key]] if self.action == "append" and key in headers else []
            headers[key] = _one_line(", ".join([*before, *(value(call) for value in self.values)]))


@dataclass(frozen=True, slots=True)
class Choose:
    branches: tuple[tuple[Getter, tuple[Step, ...]], ...]
    otherwise: tuple[Step, ...]

    def __call__(self, call: Call) -> None:
        for step in next((steps for condition, steps in self.branches if condition(call)), self.otherwise):
            step(call)


@dataclass(frozen=True, slots=True)
class ReturnResponse:
    status: int
    headers: tuple[SetHeader, ...]
    body: Template | None

    def __call__(self, call: Call) -> None:
        texts = [(step.name.lower(), _one_line(", ".join(value(call) for value in step.values))) for step in self.headers]
        body = self.body(call).encode() if self.body else b""
        call.response = Response(self.status, {**dict(texts), "content-length": str(len(body))}, body)
        raise Returned


def _one_line(text: str) -> str:
    """Keep a value inside its header."""
    return text.replace("\r", " ").replace("\n", " ")
