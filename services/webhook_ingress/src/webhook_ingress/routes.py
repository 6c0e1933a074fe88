"""Requests in: Stripe's webhooks on the public port, recovery on the internal one."""

from datetime import UTC, datetime

import asyncpg
from fastapi import APIRouter, Depends, HTTPException, Request
from prometheus_client import Counter

from billing_common.internal_auth import require_scope
from webhook_ingress import domain, store
from webhook_ingress.stripe_gateway import StripeUnavailableError

BODY_BYTES_MAX = 1024 * 1024

RECEIVED = Counter("turnpike_webhooks_received_total", "Webhooks that were stored or known", ["type", "outcome"])
REFUSED = Counter("turnpike_webhooks_refused_total", "Requests that were not a webhook of Stripe's", ["reason"])

public = APIRouter()
internal = APIRouter()


@public.post("/webhooks/stripe")
async def receive_webhook(request: Request) -> dict[str, bool]:
    """Check the signature over the raw body, store the event and only then answer 2xx."""
    body = await _read_body(request)
    state = request.app.state
    try:
        domain.check_signature(
            body,
            request.headers.get("stripe-signature"),
            state.webhook_secrets,
            now=datetime.now(UTC),
            tolerance=state.signature_tolerance,
        )
        event = domain.read_event(body)
    except domain.SignatureError as error:
        REFUSED.labels("signature").inc()
        raise HTTPException(400, str(error)) from None
    except domain.MalformedEventError as error:
        REFUSED.labels("malformed").inc()
        raise HTTPException(400, str(error)) from None
    try:
        new = await store.receive(state.pool, event, source="webhook")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        REFUSED.labels("database").inc()
        raise HTTPException(503, "the event could not be stored: send it again", {"Retry-After": "5"}) from None
    if new and event.kind is not None:
        state.worker.wake()
    RECEIVED.labels(event.type, ("stored" if event.kind else "kept") if new else "duplicate").inc()
    return {"received": True}


async def _read_body(request: Request) -> bytes:
    """Return the raw body, never holding more than the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            REFUSED.labels("too_large").inc()
            raise HTTPException(413, f"a webhook has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


@internal.post("/v1/recover", dependencies=[Depends(require_scope("webhooks:write"))])
async def recover(request: Request) -> dict[str, int]:
    """Ask Stripe for events whose webhooks were lost; answers how many were missing."""
    try:
        return {"missing": await request.app.state.recovery.recover()}
    except StripeUnavailableError as error:
        raise HTTPException(502, f"Stripe did not answer: {error}") from None
