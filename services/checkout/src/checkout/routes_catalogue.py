"""Requests in, on the internal port: plan and apply a catalogue, and read what was applied."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from billing_common.catalogue import Catalogue
from billing_common.internal_auth import Caller, require_scope
from checkout import applying, domain, store_catalogue
from checkout.domain import RefusedError
from checkout.plan import Plan

router = APIRouter()
BODY_MAX = 4 * 1024 * 1024
SHOWN_MAX = 100


@router.post("/v1/catalogue/plan", dependencies=[Depends(require_scope("catalogue:read"))])
async def plan(request: Request) -> dict[str, Any]:
    """Show what an apply would do. The body is monetizationModels.json itself."""
    catalogue = Catalogue.parse(await _text(request))
    pool = request.app.state.pool
    previous = await store_catalogue.latest(pool)
    await applying.refuse_changes_under_subscribers(pool, catalogue)
    found, _ = await applying.look(request.app.state.outside, catalogue, previous)
    changed = previous is None or previous.document != catalogue.document()
    return {"current_version": previous.version if previous else None, "changes": bool(found.steps) or changed, **_shown(found)}


@router.post("/v1/catalogue/apply")
async def apply(
    request: Request,
    caller: Annotated[Caller, Depends(require_scope("catalogue:write"))],
    plan: Annotated[str | None, Query(pattern="^[0-9a-f]{16}$", description="fingerprint of the plan that was agreed to")] = None,
) -> dict[str, Any]:
    """Bring APIM and Stripe to the catalogue and number it. Applying it again finishes what was interrupted, or changes nothing."""
    state = request.app.state
    applied = await applying.apply(
        state.pool, state.outside, Catalogue.parse(await _text(request)), by=caller.name, now=state.clock.now(), expected=plan
    )
    return {
        "version": applied.version.version,
        "new_version": applied.is_new,
        "done": [step.text() for step in applied.plan.steps],
        "remaining": [],
        "stripe_ids": applied.version.stripe_ids,
        **_shown(applied.plan),
    }


@router.get("/v1/catalogue", dependencies=[Depends(require_scope("catalogue:read"))])
async def show(request: Request, version: Annotated[int | None, Query(ge=1, le=domain.VERSION_MAX)] = None) -> dict[str, Any]:
    """Return an applied version, the latest unless one is named, and who applied what before."""
    pool = request.app.state.pool
    found = await (store_catalogue.get(pool, version) if version else store_catalogue.latest(pool))
    if found is None:
        raise RefusedError(404, "no_catalogue", "no such catalogue has been applied")
    return {
        "version": found.version,
        "document": found.document,
        "stripe_ids": found.stripe_ids,
        "applied_by": found.applied_by,
        "applied_at": found.applied_at.isoformat(),
        "history": await store_catalogue.history(pool, SHOWN_MAX),
    }


def _shown(plan: Plan) -> dict[str, Any]:
    return {"plan": plan.fingerprint, "steps": [step.public() for step in plan.steps], "unchanged": plan.unchanged}


async def _text(request: Request) -> str:
    """Read the body with a limit. A wrapper `{"text": ...}` or `{"document": ...}` is opened."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_MAX:
            raise RefusedError(413, "too_large", f"a catalogue has at most {BODY_MAX} bytes")
        chunks.append(chunk)
    try:
        text = b"".join(chunks).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError(422, "not_utf8", "the body is not UTF-8") from error
    return _unwrapped(text)


def _unwrapped(text: str) -> str:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text  # the parser of the catalogue says what is wrong, with its line
    if isinstance(body, dict) and isinstance(body.get("text"), str):
        return str(body["text"])
    if isinstance(body, dict) and isinstance(body.get("document"), dict):
        return json.dumps(body["document"])
    return text
