"""The management API's door: version, token, throttling, faults, routing on the raw path, paging, ARM's headers."""

import hmac
import logging
import time
import uuid
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandbox_apim.arm import apis, people, policies, products, singletons, subscriptions
from sandbox_apim.arm.errors import ArmError, not_found, validation
from sandbox_apim.arm.figures import REPORTS, by_request, quota_counters, report_rows
from sandbox_apim.arm.filters import matcher, parse_filter
from sandbox_apim.arm.kinds import Answer, Asked, Kind, Service
from sandbox_apim.doors import Faults
from sandbox_apim.metrics import ARM_REQUESTS
from sandbox_apim.settings import Settings

log = logging.getLogger(__name__)
BODY_BYTES_MAX = 1_048_576
PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000
KINDS: tuple[type[Kind], ...] = (
    people.Users, people.Groups, people.GroupUsers, people.UserGroups,
    products.Products, products.ProductGroups, products.ProductApis, products.ProductApiLinks, products.ProductGroupLinks,
    subscriptions.Subscriptions, subscriptions.UserSubscriptions, subscriptions.ProductSubscriptions,
    apis.Apis, apis.Operations, apis.Loggers, apis.NamedValues,
    policies.Policies, policies.ProductPolicies, policies.ApiPolicies, policies.OperationPolicies,
    singletons.PortalSettings,
)  # fmt: skip
READ_ONLY = (people.UserGroups, subscriptions.UserSubscriptions, subscriptions.ProductSubscriptions)


class Throttle:
    """Azure's token buckets, one per type of operation."""

    SIZES = {"reads": (250.0, 25.0), "writes": (200.0, 10.0), "deletes": (200.0, 10.0)}  # noqa: RUF012 - a constant table

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._left = {kind: (size, time.monotonic()) for kind, (size, _) in self.SIZES.items()}

    def take(self, method: str) -> dict[str, str]:
        """Return the header that shows what is left, or raise 429."""
        kind = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")
        size, refill = self.SIZES[kind]
        left, then = self._left[kind]
        now = time.monotonic()
        left = min(size, left + (now - then) * refill)
        if self._enforced and left < 1:
            self._left[kind] = (left, now)
            headers = {"Retry-After": str(max(1, round((1 - left) / refill)))}
            raise ArmError(429, "SubscriptionRequestsThrottled", f"Number of {kind} exceeded the limit.", headers=headers)
        self._left[kind] = (max(0.0, left - 1), now)
        return {f"x-ms-ratelimit-remaining-subscription-{kind}": str(int(self._left[kind][0]))}


class ManagementApi:
    """An ASGI application over all kinds of entities."""

    def __init__(self, service: Service, settings: Settings, faults: Faults) -> None:
        self._service = service
        self._settings = settings
        self._faults = faults
        self._throttle = Throttle(enforced=settings.arm_rate_limits)
        self._kinds = {tuple(part.lower() for part in kind.collection): kind(service) for kind in KINDS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        headers = {"x-ms-request-id": str(uuid.uuid4()), "Cache-Control": "no-store"}
        try:
            answer = await self._answer(request, headers)
        except ArmError as error:
            answer = Answer(error.status, error.body)
            headers |= error.headers
        except RecursionError:
            answer = Answer(400, validation("body", "The body is nested too deeply.").body)
        if answer.etag:
            headers["ETag"] = answer.etag
        ARM_REQUESTS.labels(request.method, str(answer.status)).inc()
        await _response(request.method, answer, headers)(scope, receive, send)

    async def _answer(self, request: Request, headers: dict[str, str]) -> Answer:
        raw_path = request.scope.get("raw_path", request.url.path.encode()).split(b"?", 1)[0].decode("latin-1")
        query = {name.lower(): value for name, value in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)}
        self._authenticate(request)
        if not query.get("api-version"):
            raise ArmError(
                400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests."
            )
        headers |= self._throttle.take(request.method)
        fault = self._faults.take(request.method, raw_path)
        if fault is not None:
            code = {412: "PreconditionFailed", 429: "TooManyRequests", 409: "Conflict"}.get(fault.status, "InternalServerError")
            retry = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
            raise ArmError(fault.status, code, "A fault script of the sandbox ends this call.", headers=retry)
        prefix, path = self._split(raw_path)
        base_url = f"{request.url.scheme}://{request.headers.get('host', '')}"
        asked = Asked(request.method, path, (), query, await _body(request), request.headers.get("if-match"), prefix, base_url)
        return self._route(asked, raw_path)

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self._settings.arm_token.get_secret_value().encode()):
            return
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token", error_description="The access token is invalid."'}
        code, message = (
            ("InvalidAuthenticationToken", "The access token is invalid.") if token else ("AuthenticationFailed", "Authentication failed.")
        )
        raise ArmError(401, code, message, headers=challenge)

    def _split(self, raw_path: str) -> tuple[str, tuple[str, ...]]:
        """Return the service's own path and the decoded segments below it."""
        segments = [unquote(segment) for segment in raw_path.strip("/").split("/")]
        if any(segment in {".", "..", ""} for segment in segments):
            raise ArmError(400, "InvalidRequestUri", "The path holds an empty or relative segment.")
        start = next((index for index, segment in enumerate(segments) if segment.lower() == "microsoft.apimanagement"), -1)
        if (
            start < 5
            or len(segments) < start + 3
            or [segments[start - 5].lower(), segments[start - 3].lower()] != ["subscriptions", "resourcegroups"]
        ):
            raise ArmError(404, "InvalidResourceType", "The resource type could not be found.")
        for given, wanted, code in (
            (segments[start - 4], self._settings.arm_subscription_id, "SubscriptionNotFound"),
            (segments[start - 2], self._settings.arm_resource_group, "ResourceGroupNotFound"),
            (segments[start + 2], self._settings.arm_service_name, "ResourceNotFound"),
        ):
            if wanted and given.lower() != wanted.lower():
                raise ArmError(404, code, f"'{given}' could not be found.")
        prefix = "/" + "/".join(segments[start - 5 : start + 3])
        return prefix, tuple(segments[start + 3 :])

    def _route(self, asked: Asked, raw_path: str) -> Answer:
        path = asked.path
        if not path:
            if asked.method not in {"GET", "HEAD"}:
                raise ArmError(405, "MethodNotAllowed", "The sandbox's service itself can only be read.")
            return Answer(200, singletons.service_resource(next(iter(self._kinds.values())), asked.prefix), '"AAAAAAAAAAE="')
        first = path[0].lower()
        if first == "reports" and len(path) == 2:
            return self._report(asked, path[1].lower(), raw_path)
        if first == "quotas" and len(path) in {2, 4} and asked.method in {"GET", "PATCH"}:
            return quota_counters(self._service, asked)
        for length, act in ((0, self._collection), (1, self._entity), (2, self._action)):
            kind, ids = self._kind_of(path[: len(path) - length]) if len(path) > length else (None, ())
            if kind is not None:
                changed = Asked(**{**asked.__dict__, "ids": (*ids, *path[len(path) - length :][:1])})
                return act(kind, changed, raw_path)
        raise ArmError(404, "InvalidResourceType", f"The sandbox has no '{'/'.join(path[::2])}'.")

    def _kind_of(self, path: tuple[str, ...]) -> tuple[Kind | None, tuple[str, ...]]:
        pattern = tuple(part.lower() if index % 2 == 0 else "*" for index, part in enumerate(path))
        return self._kinds.get(pattern), path[1::2]

    def _collection(self, kind: Kind, asked: Asked, raw_path: str) -> Answer:
        if asked.method != "GET":
            raise ArmError(405, "MethodNotAllowed", f"{asked.method} is not allowed on a collection.")
        keep = matcher(parse_filter(asked.query.get("$filter")), kind.filter_fields(), kind.only_eq)
        found = [entity for entity in kind.list(asked) if keep(entity)]
        return self._page([kind.envelope(entity, asked) for entity in found], asked, raw_path)

    def _entity(self, kind: Kind, asked: Asked, _raw_path: str) -> Answer:
        if len(asked.ids[-1]) > kind.id_length_max:
            raise validation("id", f"The id has at most {kind.id_length_max} characters.")
        if isinstance(kind, READ_ONLY) and asked.method not in {"GET", "HEAD"}:
            raise ArmError(405, "MethodNotAllowed", f"{asked.method} is not allowed here.")
        verbs = {"GET": kind.get, "HEAD": kind.get, "PUT": kind.put, "PATCH": kind.patch, "DELETE": kind.delete}
        if asked.method not in verbs:
            raise ArmError(405, "MethodNotAllowed", f"{asked.method} is not allowed on an entity.")
        return verbs[asked.method](asked)

    def _action(self, kind: Kind, asked: Asked, _raw_path: str) -> Answer:
        name = asked.path[-1].lower()
        if asked.method != "POST":
            raise ArmError(404, "InvalidResourceType", f"The sandbox has no '{name}' there.")
        entity = kind.find(Asked(**{**asked.__dict__, "path": asked.path[:-1]}))
        return kind.action(asked, entity, name)

    def _report(self, asked: Asked, name: str, raw_path: str) -> Answer:
        if name not in REPORTS or asked.method != "GET":
            raise not_found("Report")
        if name == "byrequest":
            top, skip = _paging(asked)
            return by_request(self._service, asked, top, skip)
        return self._page(report_rows(self._service, asked, name), asked, raw_path)

    def _page(self, rows: list[dict[str, Any]], asked: Asked, raw_path: str) -> Answer:
        """Cut out one page. With `$top` the client's own limit is the page, and the link goes on behind it."""
        top, skip = _paging(asked)
        next_link = ""
        if skip + top < len(rows):
            query = {**asked.query, "$skip": str(skip + top)}
            next_link = f"{asked.base_url}{raw_path}?{urlencode(query, quote_via=quote, safe='$')}"
        return Answer(200, {"value": rows[skip : skip + top], "count": len(rows), "nextLink": next_link})


def _paging(asked: Asked) -> tuple[int, int]:
    numbers = []
    for name, default, least in (("$top", PAGE_SIZE, 1), ("$skip", 0, 0)):
        text = asked.query.get(name, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
            raise validation(name, f"{name} is a whole number of at least {least}.")
        numbers.append(int(text))
    return min(numbers[0], PAGE_SIZE_MAX), numbers[1]


async def _body(request: Request) -> Any:
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > BODY_BYTES_MAX:
            raise ArmError(413, "RequestEntityTooLarge", f"The body has at most {BODY_BYTES_MAX} bytes.")
    if not chunks:
        return None
    try:
        return orjson.loads(bytes(chunks).removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise ArmError(400, "InvalidRequestContent", f"The request content was invalid and could not be deserialized: {error}.") from error


def _response(method: str, answer: Answer, headers: dict[str, str]) -> Response:
    if answer.body is None or answer.status == 204:
        return Response(status_code=answer.status, headers=headers)
    content = b"" if method == "HEAD" else orjson.dumps(answer.body)
    return Response(content, answer.status, headers, media_type="application/json; charset=utf-8")
