"""Requests in, on the internal port: usage, reconciliation, what was rejected and the senders' keys."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator

from billing_common.internal_auth import Caller, require_scope
from billing_common.moments import Moment
from usage_collector import sender_notes, sender_store, subscription_store, window_store
from usage_collector.reconciliation import reconcile
from usage_collector.refusals import rejected
from usage_collector.senders import new_key

log = structlog.get_logger(__name__)
router = APIRouter()
RANGE_MAX = timedelta(days=400)
OWN_SOURCES = ("apim", "turnpike")
REJECTED_SHOWN = timedelta(days=30)
From = Annotated[Moment, Query(alias="from")]


class SenderRequest(BaseModel):
    """`subscriptions` or `meters` absent: all. A key that is bound to meters sends no event without one."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    source: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\s\x00]*[^\s\x00/]$", description="CloudEvents source, with all below it"
    )
    subscriptions: list[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(default=None, max_length=10000)
    meters: list[Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]] | None = Field(
        default=None, min_length=1, max_length=100
    )

    @field_validator("source")
    @classmethod
    def _not_ours(cls, source: str) -> str:
        """Ids are told apart by source: who speaks for one of Turnpike's own could have a gateway's call taken for a repetition."""
        if source.partition("/")[0] in OWN_SOURCES:
            raise ValueError(f"{', '.join(OWN_SOURCES)} and all below them are Turnpike's own: name the sender's, e.g. /gateways/orders")
        return source


class Span(BaseModel):
    """One subscription and the time its usage is asked for: segments that begin in it, so a billing period is asked for whole."""

    model_config = ConfigDict(extra="forbid")

    subscription_id: str = Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")
    since: Moment = Field(alias="from")
    to: Moment


class TotalsRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    entries: list[Span] = Field(max_length=1000)


def as_range(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Return both in UTC, where days begin and end."""
    try:
        since, until = since.astimezone(UTC), until.astimezone(UTC)
        fits = since < until <= since + RANGE_MAX
    except OverflowError:
        fits = False
    if not fits:
        raise HTTPException(422, f"`to` must lie after `from`, by at most {RANGE_MAX.days} days")
    return since, until


@router.get("/v1/usage/{subscription_id}", dependencies=[Depends(require_scope("usage:read"))])
async def get_usage(request: Request, subscription_id: str, since: From, to: Moment, by: Literal["hour", "day"] = "hour") -> dict[str, Any]:
    """Usage of a subscription by meter and hour or day (windows whose hour lies in the range), with totals and how fresh they are."""
    since, to = as_range(since, to)
    state = request.app.state
    async with state.pool.acquire() as connection:
        known = await window_store.subscription_row(connection, subscription_id)
        if known is None:
            raise HTTPException(404, "no usage is known of this subscription")
        segments = await window_store.segments(connection, subscription_id, since, to)
        rows = await window_store.usage(connection, subscription_id, since, to, by)
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["meter_id"]] = totals.get(row["meter_id"], 0) + row["quantity"]
    seconds, unread = state.positions.freshness()
    return {
        "subscription_id": subscription_id,
        "account_id": known["account_id"],
        "reported": known["reported"],
        "from": since.isoformat(),
        "to": to.isoformat(),
        "totals": totals,
        "segments": [dict(segment) for segment in segments],
        "usage": [dict(row) for row in rows],
        "freshness": {"as_of": state.clock.now().isoformat(), "staleness_seconds": round(seconds, 3), "unread_records": unread},
    }


@router.post("/v1/usage-totals", dependencies=[Depends(require_scope("usage:read"))])
async def get_totals(request: Request, body: TotalsRequest) -> dict[str, Any]:
    """Usage of many subscriptions at once: subscription -> product -> meter -> quantity. Unknown subscriptions are left out."""
    spans = {entry.subscription_id: as_range(entry.since, entry.to) for entry in body.entries}
    if len(spans) < len(body.entries):
        raise HTTPException(422, "each subscription is asked for once")
    async with request.app.state.pool.acquire() as connection:
        known = await window_store.known_subscriptions(connection, list(spans))
        totals: dict[str, dict[str, dict[str, int]]] = {subscription_id: {} for subscription_id in known}
        for row in await window_store.totals(connection, spans):
            totals[row["subscription_id"]].setdefault(row["product_id"], {})[row["meter_id"]] = row["quantity"]
    return {"totals": totals}


@router.get("/v1/reconciliation", dependencies=[Depends(require_scope("usage:read"))])
async def get_reconciliation(request: Request, subscription_id: str, since: From, to: Moment) -> dict[str, Any]:
    """Received = counted + filtered + rejected + held, and counted quantity = windows; `from` and `to` are taken to the hour."""
    since, to = as_range(since, to)
    if any(when.minute or when.second or when.microsecond for when in (since, to)):
        raise HTTPException(422, "`from` and `to` must be full hours")
    async with request.app.state.pool.acquire() as connection:
        if await window_store.subscription_row(connection, subscription_id) is None:
            raise HTTPException(404, "no usage is known of this subscription")
        sids = await subscription_store.keys_of(connection, [subscription_id])
        return await reconcile(connection, subscription_id, sids, since, to)


@router.get("/v1/rejected", dependencies=[Depends(require_scope("usage:read"))])
async def get_rejected(
    request: Request,
    subscription_id: str | None = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    to: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Rejected events, newest first, and sums of what the HTTP door refused; of 30 days unless said otherwise."""
    state = request.app.state
    until = to or state.clock.now() + timedelta(seconds=1)
    since, until = as_range(since or until - REJECTED_SHOWN, until)
    return await rejected(state.pool, subscription_id, since, until, limit=limit)


@router.post("/v1/senders", status_code=201)
async def add_sender(
    request: Request, body: SenderRequest, caller: Annotated[Caller, Depends(require_scope("senders:write"))]
) -> dict[str, Any]:
    """Make a sender. Its key is in this answer and nowhere else; `notes` say what of its scope is billed from another source."""
    sender_id, key, key_sha256 = new_key()
    state = request.app.state
    await sender_store.add_sender(
        state.pool,
        sender_id,
        name=body.name,
        key_sha256=key_sha256,
        source_prefix=body.source,
        subscriptions=body.subscriptions,
        meters=body.meters,
        now=state.clock.now(),
        by=caller.name,
    )
    log.info("sender made", sender=sender_id, by=caller.name)
    (notes,) = await _notes(request, [(body.subscriptions, body.meters)])
    scope = {"subscriptions": body.subscriptions, "meters": body.meters}
    return {"id": sender_id, "key": key, "source": body.source, **scope, "notes": notes}


async def _notes(request: Request, scopes: Sequence[tuple[Sequence[str] | None, Sequence[str] | None]]) -> list[list[str]]:
    """Return what to know of each scope: its subscriptions and its meters."""
    state = request.app.state
    async with state.pool.acquire() as connection:
        subscriptions = [names for names, _ in scopes]
        found = await sender_notes.notes(connection, state.collector.directory, subscriptions, now=state.clock.now())
        known, _ = await subscription_store.known_meters(connection)
    return [[*notes, *sender_notes.of_meters(meters or (), known)] for notes, (_, meters) in zip(found, scopes, strict=True)]


@router.get("/v1/senders", dependencies=[Depends(require_scope("senders:read"))])
async def list_senders(request: Request) -> dict[str, Any]:
    rows = await sender_store.senders(request.app.state.pool)
    shown = ("id", "name", "source_prefix", "subscriptions", "meters", "created_at", "created_by")
    found = await _notes(request, [(row["subscriptions"], row["meters"]) for row in rows])
    return {"senders": [{name: row[name] for name in shown} | {"notes": notes} for row, notes in zip(rows, found, strict=True)]}


@router.delete("/v1/senders/{sender_id}", status_code=204)
async def revoke_sender(request: Request, sender_id: str, caller: Annotated[Caller, Depends(require_scope("senders:write"))]) -> None:
    if not await sender_store.revoke_sender(request.app.state.pool, sender_id, now=request.app.state.clock.now()):
        raise HTTPException(404, "no such sender, or it was revoked before")
    log.info("sender revoked", sender=sender_id, by=caller.name)
