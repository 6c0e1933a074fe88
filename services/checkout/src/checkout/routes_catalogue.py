"""Requests in, on the internal port: plan and apply a catalogue, look for drift and repair it, and read what was applied."""

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from billing_common.catalogue import Catalogue
from billing_common.catalogue_changes import read_over
from billing_common.catalogue_diff import lines
from billing_common.internal_auth import Caller, require_scope
from checkout import applying, domain, drift, gates, plan_view, store, store_catalogue
from checkout.applying import Applied
from checkout.domain import RefusedError
from checkout.effects import effects
from checkout.store_catalogue import Version

router = APIRouter()
BODY_MAX = 4 * 1024 * 1024
SHOWN_MAX = 100

Fingerprint = Annotated[str | None, Query(pattern="^[0-9a-f]{16}$", description="fingerprint of the plan that was agreed to")]
By = Annotated[str | None, Query(pattern=r"^[^\x00-\x1f\x7f]{1,100}$", description="the person at the command")]
Reader = Depends(require_scope("catalogue:read"))
Writer = Annotated[Caller, Depends(require_scope("catalogue:write"))]
VersionNumber = Annotated[int | None, Query(ge=1, le=domain.VERSION_MAX)]


@router.post("/v1/catalogue/plan", dependencies=[Reader])
async def plan(request: Request) -> dict[str, Any]:
    """Show what an apply would do, and what it means for those who are subscribed. The body is monetizationModels.json itself."""
    state = request.app.state
    catalogue = await read_catalogue(request)
    looked = await applying.look(state.pool, state.outside, catalogue)
    return {
        "current_version": looked.previous.version if looked.previous else None,
        "changes": looked.changes,
        "products": plan_view.by_product(looked.plan, catalogue, looked.previous),
        "subscribers": await effects(state.pool, state.usage_door, catalogue, looked.previous, now=state.clock.now()),
        **looked.plan.public(),
    }


@router.post("/v1/catalogue/apply")
async def apply(request: Request, caller: Writer, plan: Fingerprint = None, by: By = None) -> dict[str, Any]:
    """Bring APIM and Stripe to the catalogue and number it. Applying it again finishes what was interrupted, or changes nothing."""
    state = request.app.state
    catalogue = await read_catalogue(request)
    return _applied(await applying.apply(state.pool, state.outside, catalogue, by=by or caller.name, now=state.clock.now(), expected=plan))


@router.post("/v1/catalogue/repair")
async def repair(request: Request, caller: Writer, plan: Fingerprint = None, by: By = None) -> dict[str, Any]:
    """Put back what was changed by hand since the applied version. `plan` is the one that `GET /v1/catalogue/drift` named."""
    state = request.app.state
    return _applied(await applying.apply(state.pool, state.outside, None, by=by or caller.name, now=state.clock.now(), expected=plan))


@router.get("/v1/catalogue/drift", dependencies=[Reader])
async def get_drift(request: Request) -> dict[str, Any]:
    """Compare APIM and Stripe with the applied version, not with the file."""
    pool = request.app.state.pool
    looked, findings = await drift.find(pool, request.app.state.outside)
    last = await store_catalogue.last_apply(pool)
    assert looked.previous is not None
    return {
        "version": looked.previous.version,
        "applied_by": looked.previous.applied_by,
        "applied_at": looked.previous.applied_at.isoformat(),
        "drift": bool(findings),
        "findings": findings,
        "unchanged": len(looked.plan.kept),
        "plan": looked.plan.fingerprint,
        "unfinished_apply": _apply(last) if last is not None and last.is_unfinished else None,
    }


@router.get("/v1/catalogue/apply", dependencies=[Reader])
async def progress(request: Request) -> dict[str, Any]:
    """Return the apply that was begun last: what is done and what is left."""
    last = await store_catalogue.last_apply(request.app.state.pool)
    if last is None:
        raise RefusedError(404, "no_apply", "nothing has been applied yet")
    return _apply(last)


@router.get("/v1/catalogue", dependencies=[Reader])
async def show(request: Request, version: VersionNumber = None) -> dict[str, Any]:
    """Return an applied version, the latest unless one is named."""
    pool = request.app.state.pool
    found = await (store_catalogue.get(pool, version) if version else store_catalogue.latest(pool))
    if found is None:
        raise RefusedError(
            404, "no_catalogue", f"no catalogue has been applied as version {version}" if version else "nothing is applied yet"
        )
    earlier = await store_catalogue.latest_versions(pool, 1, before=found.version)
    return _version(found, earlier) | {"document": found.document, "stripe_ids": found.stripe_ids}


@router.get("/v1/catalogue/history", dependencies=[Reader])
async def history(request: Request, limit: Annotated[int, Query(ge=1, le=SHOWN_MAX)] = SHOWN_MAX) -> dict[str, Any]:
    """Return who applied what and when, newest first: the difference in lines and the ids that came into being."""
    versions = await store_catalogue.latest_versions(request.app.state.pool, limit + 1)
    return {"versions": [_version(version, versions[index + 1 : index + 2]) for index, version in enumerate(versions[:limit])]}


def _version(version: Version, before: list[Version]) -> dict[str, Any]:
    return {
        "version": version.version,
        "applied_by": version.applied_by,
        "applied_at": version.applied_at.isoformat(),
        "diff": lines(before[0].document if before else None, version.document),
        "created": version.created,
        "steps": [step["text"] for step in version.steps],
    }


def _apply(found: store_catalogue.Apply) -> dict[str, Any]:
    return {**asdict(found), "started_at": found.started_at.isoformat()}


def _applied(applied: Applied) -> dict[str, Any]:
    return {
        "version": applied.version.version,
        "new_version": applied.is_new,
        "done": [step.text() for step in applied.plan.steps],
        "remaining": [],
        "stripe_ids": applied.version.stripe_ids,
        **applied.plan.public(),
    }


async def read_catalogue(request: Request) -> Catalogue:
    """Read the body and refuse what cannot be sold, here or to those who are subscribed: everything at once, nothing touched."""
    text = await _text(request)
    async with request.app.state.pool.acquire() as connection:
        live = await store.count_live(connection)
    reading = read_over(text, live)
    await gates.note_unknown(request.app.state.outside.apim, reading)
    return reading.result()


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
