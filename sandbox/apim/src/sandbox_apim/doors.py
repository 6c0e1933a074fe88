"""The doors beside the product: health, metrics, status, business clock, the gateway's own counts and fault scripts."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from billing_common.clock import BusinessClock, ClockError
from sandbox_apim.metrics import ENTITIES, REGISTRY, WAITING
from sandbox_apim.reports import Reports
from sandbox_apim.store import Store

FAULTS_MAX = 100


class FaultMatch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    method: str | None = Field(default=None, max_length=10)
    path_prefix: str = Field(default="", max_length=500)


class Fault(BaseModel):
    """One fault script: the next `times` matching management calls end this way."""

    model_config = ConfigDict(extra="forbid")
    match: FaultMatch = FaultMatch()
    kind: str = Field(default="status", pattern="^status$")
    status: int = Field(ge=400, le=599)
    retry_after: int | None = Field(default=None, ge=1, le=3600)
    times: int = Field(default=1, ge=1, le=10_000)


class Faults:
    """Waiting fault scripts, oldest first."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault this call meets, and use it up by one. The prefix counts from the service's path or from the host."""
        for index, fault in enumerate(self.waiting):
            relative = path.lower().partition("/microsoft.apimanagement/service/")[2].partition("/")[2]
            prefix = fault.match.path_prefix.lower()
            fits = path.lower().startswith(prefix) or f"/{relative}".startswith(prefix)
            if fits and fault.match.method in {None, method}:
                left = fault.times - 1
                self.waiting[index : index + 1] = [fault.model_copy(update={"times": left})] if left else []
                return fault
        return None


class Progress(Protocol):
    """What the doors ask the running sandbox."""

    def waiting_for(self) -> list[str]: ...
    def activity(self) -> int: ...
    def not_ready(self) -> list[str]: ...
    def log_lines_waiting(self) -> int: ...


@dataclass(frozen=True)
class Doors:
    """Same doors on the portal's and the gateway's port; none needs a token: the sandbox is for one machine."""

    clock: BusinessClock
    progress: Progress
    reports: Reports
    faults: Faults
    store: Store

    def app(self) -> Starlette:
        return Starlette(routes=self.routes())

    def routes(self) -> list[Route]:
        return [
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/_sandbox/status", self._status),
            Route("/_sandbox/clock", self._clock, methods=["GET", "PUT"]),
            Route("/_sandbox/calls", self._calls),
            Route("/_sandbox/faults", self._faults, methods=["GET", "POST", "DELETE"]),
        ]

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def _ready(self, _request: Request) -> Response:
        reasons = self.progress.not_ready()
        return JSONResponse({"status": "not ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200)

    async def _metrics(self, _request: Request) -> Response:
        WAITING.set(self.progress.log_lines_waiting())
        states: dict[str, int] = {}
        for entity in self.store.children("subscriptions"):
            states[entity.properties["state"]] = states.get(entity.properties["state"], 0) + 1
        ENTITIES.clear()
        for state, count in states.items():
            ENTITIES.labels(state).set(count)
        return PlainTextResponse(generate_latest(REGISTRY), media_type="text/plain; version=0.0.4")

    async def _status(self, _request: Request) -> Response:
        waiting = self.progress.waiting_for()
        return JSONResponse(
            {
                "service": "sandbox_apim",
                "settled": not waiting,
                "activity": self.progress.activity(),
                "next_due": None,
                "waiting_for": waiting,
                "now": self.clock.now().isoformat(),
            }
        )

    async def _clock(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                given = await request.json()
                offset = float(given["offset_seconds"])
                self.clock.set_offset(timedelta(seconds=offset))
            except ClockError as error:
                return JSONResponse({"error": str(error)}, 409)
            except (ValueError, KeyError, TypeError, OverflowError):
                return JSONResponse({"error": 'send {"offset_seconds": n}'}, 400)
        return JSONResponse({"offset_seconds": self.clock.offset.total_seconds(), "now": self.clock.now().isoformat()})

    async def _calls(self, request: Request) -> Response:
        """`?sid=&from=&to=`: what the gateway itself counted, from `from` up to but not including `to` (business time)."""
        try:
            start = _moment(request.query_params.get("from"), datetime(1970, 1, 1, tzinfo=UTC))
            end = _moment(request.query_params.get("to"), datetime(9999, 1, 1, tzinfo=UTC))
        except ValueError:
            return JSONResponse({"error": "from and to are times such as 2026-01-01T00:00:00Z"}, 400)
        return JSONResponse(self.reports.counted(request.query_params.get("sid"), start, end))

    async def _faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.waiting.clear()
        elif request.method == "POST":
            try:
                fault = Fault.model_validate(await request.json())
            except (ValidationError, ValueError) as error:
                return JSONResponse({"error": str(error)}, 400)
            if len(self.faults.waiting) >= FAULTS_MAX:
                return JSONResponse({"error": f"at most {FAULTS_MAX} scripts wait"}, 409)
            self.faults.waiting.append(fault)
        shown: list[dict[str, Any]] = [fault.model_dump() for fault in self.faults.waiting]
        return JSONResponse({"faults": shown}, 201 if request.method == "POST" else 200)


def _moment(text: str | None, default: datetime) -> datetime:
    if not text:
        return default
    moment = datetime.fromisoformat(text.replace(" ", "+"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
