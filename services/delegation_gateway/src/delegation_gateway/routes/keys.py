"""Keys of a subscription beside the first: added, shown, replaced and revoked by its owner, up to the number of the plan."""

from dataclasses import dataclass
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Form, Path, Request
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from billing_common.db import Connection
from billing_common.events import SubscriptionKeysChanged
from billing_common.key_sids import sid_of
from billing_common.outbox import announce
from delegation_gateway import domain, keys_store
from delegation_gateway.domain import Subscription
from delegation_gateway.keys_store import Key
from delegation_gateway.parts import HereParts, Parts, SignedIn, check_form
from delegation_gateway.routes.subscriptions import Shown, own, page, sold_as
from delegation_gateway.sessions import Visitor
from turnpike_ui import PageError

router = APIRouter(prefix="/subscriptions/{subscription_id}/keys")
log = structlog.get_logger(__name__)
FORM_ID_CHARACTERS_MAX = 64


class AddForm(BaseModel):
    form_token: str = ""
    form_id: str = ""
    name: str = ""


class KeyForm(BaseModel):
    form_token: str = ""
    which: Literal["primary", "secondary"] = "primary"


@dataclass(frozen=True)
class Named:
    """The key that an address names, of a subscription of the visitor's account."""

    subscription: Subscription
    number: int


async def named_key(parts: HereParts, visitor: SignedIn, subscription_id: str, number: Annotated[int, Path(ge=1, le=100_000)]) -> Named:
    return Named(await own(parts, visitor, subscription_id), number)


def _back(subscription: Subscription) -> tuple[str, str]:
    return ("Open the subscription", f"/subscriptions/{subscription.subscription_id}")


@router.post("")
async def add(request: Request, parts: HereParts, visitor: SignedIn, subscription_id: str, form: Annotated[AddForm, Form()]) -> Response:
    """Ask for one more key. The same form twice is one key."""
    check_form(visitor, form.form_token)
    subscription = await own(parts, visitor, subscription_id)
    _refuse_without_access(subscription)
    if (error := domain.key_name_error(form.name)) is not None:
        return await page(request, parts, visitor, subscription, errors={"name": error}, name=form.name)
    if not 0 < len(form.form_id) <= FORM_ID_CHARACTERS_MAX:
        raise PageError(422, "The form was not complete", "Open the subscription and try again.", action=_back(subscription))
    allowed = await _allowed(parts, subscription)
    async with parts.pool.acquire() as connection, connection.transaction():
        own_id = subscription.subscription_id
        await keys_store.lock(connection, own_id)
        if not await keys_store.form_was_sent(connection, own_id, form.form_id):
            if 1 + len(await keys_store.list_keys(connection, own_id)) >= allowed:
                text = "Revoke one that you no longer need, or change to a plan with more."
                raise PageError(409, f"Your plan has {allowed} key{'s' if allowed != 1 else ''}", text, action=_back(subscription))
            number = await keys_store.next_number(connection, own_id)
            key = Key(number, sid_of(own_id, number), form.name.strip(), parts.clock.now(), None, is_there=False)
            await keys_store.add(connection, own_id, key, form_id=form.form_id, by=visitor.user_id)
            await _announce(connection, parts, subscription, visitor)
            log.info("key asked for", subscription_id=own_id, number=number)
    return RedirectResponse(f"/subscriptions/{own_id}#keys", 303)


@router.post("/{number}/show")
async def show(
    request: Request, parts: HereParts, visitor: SignedIn, named: Annotated[Named, Depends(named_key)], form: Annotated[KeyForm, Form()]
) -> Response:
    """Show one key's two values. API Management keeps them; they pass through here and are stored nowhere."""
    check_form(visitor, form.form_token)
    shown = Shown(named.number, await parts.apim.keys(await _sid(parts, named)))
    log.info("keys shown", subscription_id=named.subscription.subscription_id, number=named.number)
    return await page(request, parts, visitor, named.subscription, shown)


@router.post("/{number}/regenerate")
async def regenerate(
    request: Request, parts: HereParts, visitor: SignedIn, named: Annotated[Named, Depends(named_key)], form: Annotated[KeyForm, Form()]
) -> Response:
    """Replace one of a key's two values by a new one; the old value is refused from then on, the other goes on working."""
    check_form(visitor, form.form_token)
    sid = await _sid(parts, named)
    await parts.apim.regenerate(sid, form.which)
    log.info("key replaced", subscription_id=named.subscription.subscription_id, number=named.number, which=form.which)
    return await page(request, parts, visitor, named.subscription, Shown(named.number, await parts.apim.keys(sid)))


@router.post("/{number}/revoke")
async def revoke(
    parts: HereParts, visitor: SignedIn, named: Annotated[Named, Depends(named_key)], form: Annotated[KeyForm, Form()]
) -> Response:
    """End one key for good. The first lives as long as its subscription."""
    check_form(visitor, form.form_token)
    subscription, number = named.subscription, named.number
    if number == 1:
        text = "It lives as long as the subscription. Replace its values if somebody else may have them."
        raise PageError(409, "The first key cannot be revoked", text, action=_back(subscription))
    async with parts.pool.acquire() as connection, connection.transaction():
        await keys_store.lock(connection, subscription.subscription_id)
        if await keys_store.revoke(connection, subscription.subscription_id, number, by=visitor.user_id, at=parts.clock.now()):
            await _announce(connection, parts, subscription, visitor)
            log.info("key revoked", subscription_id=subscription.subscription_id, number=number)
    return RedirectResponse(f"/subscriptions/{subscription.subscription_id}#keys", 303)


def _refuse_without_access(subscription: Subscription) -> None:
    if not subscription.is_live or subscription.access != "active" or subscription.cancellation == "now":
        text = "Keys are added while the subscription is active."
        raise PageError(409, "No key can be added now", text, action=_back(subscription))


async def _allowed(parts: Parts, subscription: Subscription) -> int:
    sold = await sold_as(parts, subscription)
    if sold is None:
        raise PageError(503, "The plan is not known here yet", "Try again in a minute.", action=_back(subscription))
    return sold[1].keys


async def _sid(parts: Parts, named: Named) -> str:
    """Return the sid of a key that is there; another subscription's is not found."""
    subscription, number = named.subscription, named.number
    if number == 1:
        if subscription.has_key and subscription.sid is not None:
            return subscription.sid
    elif subscription.has_key:
        for key in await keys_store.list_keys(parts.pool, subscription.subscription_id):
            if key.number == number and key.is_there:
                return key.sid
    raise PageError(404, "There is no such key", "It is being made, or it was revoked.", action=_back(subscription))


async def _announce(connection: Connection, parts: Parts, subscription: Subscription, visitor: Visitor) -> None:
    revision, keys = await keys_store.next_state(connection, subscription.subscription_id)
    event = SubscriptionKeysChanged(
        cause_id=f"keys:{subscription.subscription_id}:{revision}",
        occurred_at=parts.clock.now(),
        subscription_id=subscription.subscription_id,
        account_id=subscription.account_id,
        user_id=visitor.user_id,
        revision=revision,
        keys=keys,
    )
    await announce(connection, event)
