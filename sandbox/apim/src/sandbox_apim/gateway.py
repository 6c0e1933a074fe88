"""The gateway's data plane: finds the API, checks the key, runs the policies, calls the backend and records the call."""

import logging
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlencode

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from billing_common.clock import BusinessClock
from sandbox_apim.directory import Directory, Matched
from sandbox_apim.journal import Journal
from sandbox_apim.limits import Limits
from sandbox_apim.metrics import CALLS
from sandbox_apim.policy.call import Call, CallRefusedError, ExpressionError, Response, Returned
from sandbox_apim.policy.document import PolicyError
from sandbox_apim.policy.steps import Step
from sandbox_apim.sample_api import SERVICE_URL, SampleApi
from sandbox_apim.store import Entity, Store

log = logging.getLogger(__name__)
BODY_BYTES_MAX = 1_048_576
MISSING_KEY = "Access denied due to missing subscription key. Make sure to include subscription key when making requests to this API."
INVALID_KEY = "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
OWN_PATHS = ("/_sandbox/", "/health/", "/metrics")


class Gateway:
    """A raw ASGI application: this path is taken by every call."""

    def __init__(
        self,
        *,
        store: Store,
        directory: Directory,
        limits: Limits,
        journal: Journal,
        clock: BusinessClock,
        backend: Callable[[], httpx.AsyncClient],
        public_url: Callable[[], str],
        doors: ASGIApp,
    ) -> None:
        self._store = store
        self._directory = directory
        self._limits = limits
        self._journal = journal
        self._clock = clock
        self._backend = backend
        self._public_url = public_url
        self._doors = doors
        self._sample = SampleApi()
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_PATHS):
            await self._doors(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            await _send(send, _error_response(413, "Request Entity Too Large"), "")
            return
        if self._journal.full:
            await _send(send, _error_response(503, "The log buffer is full: Kafka has taken nothing for too long."), "")
            return
        call = self._call(scope, body)
        self.in_flight += 1
        try:
            await self._run(call)
            self._journal.record(call)
        except sqlite3.Error as error:  # a full disk: what cannot be counted is not served
            log.error("call %s cannot be recorded: %s", call.request_id, error)  # noqa: TRY400 - the cause says it all
            call.response = _error_response(503, "The call cannot be recorded.")
        finally:
            self.in_flight -= 1
        response = call.response or Response()
        CALLS.labels(f"{response.status // 100}xx").inc()
        await _send(send, response, call.method)

    def _call(self, scope: Scope, body: bytes) -> Call:
        client = scope.get("client")
        return Call(
            request_id=str(uuid.uuid4()),
            timestamp=self._clock.now(),
            method=scope["method"],
            path=scope.get("raw_path", scope["path"].encode()).split(b"?", 1)[0].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            body=body,
            ip=client[0] if client else "",
            limits=self._limits,
        )

    async def _run(self, call: Call) -> None:
        """Take the call through the pipeline; whatever happens it ends with a response."""
        started = time.perf_counter()
        try:
            await self._pipeline(call)
        except Returned:
            pass
        except CallRefusedError as refused:
            self._on_error(call, refused)
        except (ExpressionError, PolicyError) as error:
            log.warning("call %s: %s", call.request_id, error)
            reason = "ExpressionValueEvaluationFailure"
            self._on_error(call, CallRefusedError(500, "Internal server error", source="multiple", reason=reason))
        call.elapsed_milliseconds = (time.perf_counter() - started) * 1000
        for finish in call.after:
            finish(call)
        if call.response is not None:
            call.response.headers.update(call.extra_headers)

    async def _pipeline(self, call: Call) -> None:
        matched = self._directory.match(call.method, call.path)
        if matched is not None:
            call.api, call.operation = matched.api, matched.operation
        if matched is None or matched.operation is None:
            raise CallRefusedError(404, "Resource not found", source="configuration", reason="OperationNotFound")
        self._authorize(call, matched.api)
        effective = self._directory.effective(call.product, call.api, call.operation)
        _run_steps(effective.inbound, call)
        _run_steps(effective.before_backend, call)
        if effective.forwards:
            await self._forward(call, matched)
        elif call.response is None:
            call.response = Response(200, {"content-length": "0"})
        _run_steps(effective.after_backend, call)
        _run_steps(effective.outbound, call)

    def _on_error(self, call: Call, refused: CallRefusedError) -> None:
        call.error = refused
        call.response = _error_response(refused.status, refused.message, refused.headers, call.request_id)
        try:
            _run_steps(self._directory.effective(call.product, call.api, call.operation).on_error, call)
        except Returned:
            pass
        except (CallRefusedError, ExpressionError, PolicyError) as error:
            log.warning("call %s: on-error failed: %s", call.request_id, error)
            call.response = _error_response(500, "Internal server error", request_id=call.request_id)

    # --- the key ---

    def _authorize(self, call: Call, api: Entity) -> None:
        names = api.properties.get("subscriptionKeyParameterNames") or {}
        header = str(names.get("header") or "Ocp-Apim-Subscription-Key")
        key = call.headers.get(header.lower())
        if key is None:
            key = parse_qs(call.query, keep_blank_values=True).get(str(names.get("query") or "subscription-key"), [None])[0]
        if key is None:
            self._without_key(call, api, header)
            return
        subscription = self._directory.subscription_of(key)
        if subscription is None or not self._opens(subscription, api, call):
            raise self._refused(INVALID_KEY, "SubscriptionKeyInvalid", api, header)
        call.subscription = subscription

    def _opens(self, subscription: Entity, api: Entity, call: Call) -> bool:
        """Tell whether the key opens the API, and note product and user."""
        if subscription.properties["state"] != "active":
            return False
        owner_path = subscription.properties.get("ownerId")
        owner = self._store.get(owner_path) if owner_path else None
        if owner is not None and owner.properties["state"] == "blocked":
            return False
        scope = str(subscription.properties["scope"])
        kind, _, name = scope.partition("/")
        if kind == "products":
            if not self._directory.product_holds(name, api):
                return False
            call.product = self._store.get(scope)
        elif kind == "apis" and name and name.lower() != api.name.lower():
            return False
        call.user = owner
        return True

    def _without_key(self, call: Call, api: Entity, header: str) -> None:
        for product in self._directory.products_of(api):
            if not product.properties["subscriptionRequired"]:
                call.product = product
                return
        if api.properties.get("subscriptionRequired", True):
            raise self._refused(MISSING_KEY, "SubscriptionKeyNotFound", api, header)

    def _refused(self, message: str, reason: str, api: Entity, header: str) -> CallRefusedError:
        realm = f"{self._public_url()}/{str(api.properties['path']).strip('/')}"
        challenge = f'AzureApiManagementKey realm="{realm}",name="{header}",type="header"'
        return CallRefusedError(401, message, source="authorization", reason=reason, headers={"www-authenticate": challenge})

    # --- the backend ---

    async def _forward(self, call: Call, matched: Matched) -> None:
        started = time.perf_counter()
        service_url = str(matched.api.properties.get("serviceUrl") or "")
        if service_url.rstrip("/") == SERVICE_URL:
            call.response = self._sample(call, matched.rest)
        elif service_url:
            call.response = await self._send_on(call, service_url.rstrip("/") + matched.rest)
        else:
            raise CallRefusedError(500, "Internal server error", source="forward-request", reason="BackendConnectionFailure")
        call.backend_status = call.response.status
        call.backend_milliseconds = (time.perf_counter() - started) * 1000

    async def _send_on(self, call: Call, url: str) -> Response:
        query = [
            (name, value)
            for name, values in parse_qs(call.query, keep_blank_values=True).items()
            for value in values
            if name != "subscription-key"
        ]
        headers = {name: value for name, value in call.headers.items() if name not in HOP_BY_HOP}
        try:
            answer = await self._backend().request(
                call.method, f"{url}?{urlencode(query)}" if query else url, headers=headers, content=call.body or None
            )
        except httpx.TimeoutException as error:
            raise CallRefusedError(500, "Internal server error", source="forward-request", reason="Timeout") from error
        except httpx.HTTPError as error:
            raise CallRefusedError(500, "Internal server error", source="multiple", reason="BackendConnectionFailure") from error
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP | {"content-encoding", "content-length"}}
        return Response(answer.status_code, {**kept, "content-length": str(len(answer.content))}, answer.content)


def _run_steps(steps: tuple[Step, ...], call: Call) -> None:
    for step in steps:
        step(call)


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body; None: it is too large."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _error_response(status: int, message: str, headers: dict[str, str] | None = None, request_id: str = "") -> Response:
    """Build the gateway's own JSON, byte for byte with the blanks that Azure sends."""
    activity = f', "activityId": "{request_id}"' if status == 500 else ""
    body = f'{{ "statusCode": {status}, "message": "{message}"{activity} }}'.encode()
    return Response(status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}, body)


async def _send(send: Callable[[dict[str, object]], Awaitable[None]] | Send, response: Response, method: str) -> None:
    bodiless = method == "HEAD" or response.status in {204, 304}
    headers = [
        (name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in response.headers.items() if name != "content-length"
    ]
    if not bodiless or method == "HEAD":
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if bodiless else response.body})
