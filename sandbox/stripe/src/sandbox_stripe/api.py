"""One API request from raw bytes to an answer: key, idempotency, contract, handler, expand."""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

import orjson

from sandbox_stripe import contract
from sandbox_stripe.calls import HANDLERS, Call
from sandbox_stripe.contract import Operation
from sandbox_stripe.errors import Json, StripeError, invalid
from sandbox_stripe.forms import decode_form
from sandbox_stripe.render import expand
from sandbox_stripe.world import API_VERSION, Request, World, draw

IDEMPOTENCY_KEY_MAX = 255
STREAM = "/v2/billing/meter_event_stream"


@dataclass(frozen=True)
class Incoming:
    """A request as it came in."""

    method: str
    path: str
    query: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """A request that passed every check."""

    operation: Operation
    params: Json
    token: str
    request: Request


def error_answer(error: StripeError, request_id: str) -> Answer:
    headers = {"Stripe-Should-Retry": "true"} if error.status == 409 else {}
    return Answer(error.status, orjson.dumps(error.body()), {"Request-Id": request_id, **headers, **error.headers})


def answer(world: World, incoming: Incoming) -> Answer:
    """Answer one request. Whatever happens, the answer has a Request-Id and a JSON body."""
    request_id = f"req_{draw(14)}"
    try:
        token = authenticate(world, incoming)
        operation = contract.find_operation(incoming.method, incoming.path)
        if operation is None or (incoming.method, operation.template) not in HANDLERS:
            raise _no_such_address(incoming)
        params = read_params(incoming, operation)
        key = idempotency_key(incoming)
        if key is None:
            return _run(world, incoming, _Work(operation, params, token, Request(request_id)))
        return _once(world, incoming, _Work(operation, params, token, Request(request_id, key)))
    except StripeError as error:
        return error_answer(error, request_id)


def authenticate(world: World, incoming: Incoming) -> str:
    """Return the key of a request. Restricted keys (`rk_test_`) of the same account are taken too."""
    scheme, _, key = incoming.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        message = "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth."
        raise StripeError(401, message)
    if incoming.path == STREAM:
        return key
    wanted = world.settings.api_key.get_secret_value()
    restricted = wanted.replace("sk_test_", "rk_test_", 1)
    if not (hmac.compare_digest(key.encode(), wanted.encode()) or hmac.compare_digest(key.encode(), restricted.encode())):
        raise StripeError(401, f"Invalid API Key provided: {key[:8]}{'*' * 8}{key[-4:] if len(key) > 16 else ''}")
    return key


def _no_such_address(incoming: Incoming) -> StripeError:
    message = f"Unrecognized request URL ({incoming.method.upper()}: {incoming.path}). This sandbox does not have it; see https://stripe.com/docs."
    return StripeError(404, message)


def read_params(incoming: Incoming, operation: Operation) -> Json:
    """Decode and check the parameters: JSON for v2, brackets for v1."""
    if incoming.path.startswith("/v2/") and incoming.body:
        try:
            raw = orjson.loads(incoming.body)
        except orjson.JSONDecodeError:
            message = "Invalid request body: expected JSON."
            raise invalid(message) from None
        return contract.check(operation.schema, raw)
    query = decode_form(incoming.query)
    try:
        body = decode_form(incoming.body.decode())
    except UnicodeDecodeError:
        message = "The request's body is not UTF-8."
        raise invalid(message) from None
    return contract.check(operation.schema, {**query, **body})


def idempotency_key(incoming: Incoming) -> str | None:
    if incoming.method != "post" and not (incoming.method == "delete" and incoming.path.startswith("/v2/")):
        return None
    key = incoming.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
        message = f"Idempotency keys must have 1 to {IDEMPOTENCY_KEY_MAX} characters."
        raise StripeError(400, message, type_="idempotency_error")
    return key


def _once(world: World, incoming: Incoming, work: _Work) -> Answer:
    """Run a request that carries an idempotency key, or replay what it answered before. Result and effects are one transaction."""
    fingerprint = hashlib.sha256(orjson.dumps([incoming.method, incoming.path, work.params], option=orjson.OPT_SORT_KEYS)).hexdigest()
    row = world.store.execute("SELECT request_hash, status, body FROM idempotency WHERE key = ?", work.request.idempotency_key).fetchone()
    if row is None:
        return _run(world, incoming, work, fingerprint)
    if row[0] != fingerprint:
        message = (
            "Keys for idempotent requests can only be used with the same parameters they were first used with. "
            f"Try using a key other than '{work.request.idempotency_key}' if you meant to execute a different request."
        )
        raise StripeError(400, message, type_="idempotency_error")
    headers = {"Request-Id": work.request.id or "", "Idempotent-Replayed": "true", "Idempotency-Key": work.request.idempotency_key or ""}
    return Answer(row[1], row[2], headers)


def _run(world: World, incoming: Incoming, work: _Work, fingerprint: str | None = None) -> Answer:
    request = work.request
    if incoming.method == "get":
        return _perform(world, incoming, work)
    with world.store.transaction():
        try:
            done = _perform(world, incoming, work)
        except StripeError as error:
            if error.commit:
                done = error_answer(error, request.id or "")
            elif fingerprint is None:
                raise
            else:
                world.store.rollback_partial()
                done = error_answer(error, request.id or "")
        if fingerprint is not None:
            done.headers["Idempotency-Key"] = request.idempotency_key or ""
            values: tuple[Any, ...] = (request.idempotency_key, fingerprint, done.status, done.body, int(world.wall()))
            world.store.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", *values)
    return done


def _perform(world: World, incoming: Incoming, work: _Work) -> Answer:
    paths = work.params.pop("expand", None) or []
    world.request = work.request
    call = Call(world, incoming.path, work.operation.path_params, work.params, work.token)
    try:
        shown = HANDLERS[incoming.method, work.operation.template](call)
    finally:
        world.request = Request()
    shown = expand(world.store, shown, paths)
    return Answer(
        200, orjson.dumps(shown, option=orjson.OPT_INDENT_2), {"Request-Id": work.request.id or "", "Stripe-Version": API_VERSION}
    )
