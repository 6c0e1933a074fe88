"""The door of the developer portal: `/apim-delegation`. A GET only shows; what acts is a POST with the session's form token."""

import structlog
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from delegation_gateway import sessions, subscriptions_store
from delegation_gateway.parts import (
    SUBSCRIPTIONS,
    HereParts,
    MaybeVisitor,
    Parts,
    SignInRequiredError,
    check_form,
    no_such_subscription,
    other_user,
    path_of,
)
from delegation_gateway.routes.accounts import register_page, sign_in_page
from delegation_gateway.routes.subscribe import ask_for_subscription, make_subscription
from delegation_gateway.sessions import Visitor
from delegation_gateway.signature import Link, LinkForgedError, LinkIncompleteError, read_link
from turnpike_ui import PageError

router = APIRouter()
log = structlog.get_logger(__name__)
NOT_YET = {
    "ChangePassword": ("Your password cannot be changed here yet", "Ask your API provider to set a new one for you."),
    "ChangeProfile": ("Your profile cannot be changed here yet", "Ask your API provider to change it for you."),
    "CloseAccount": (
        "Accounts cannot be closed here yet",
        "End your subscriptions first, then ask your API provider to close the account.",
    ),
}


def checked_link(parts: Parts, parameters: list[tuple[str, str]]) -> Link:
    """Return the link or end with the page that says what is wrong with it."""
    portal = ("Open the developer portal", parts.settings.portal_url)
    try:
        return read_link(parts.settings.validation_keys, parameters)
    except LinkIncompleteError:
        raise PageError(
            400,
            "This link is not complete",
            "Part of its address is missing or was changed on the way. Start again in the portal.",
            action=portal,
        ) from None
    except LinkForgedError:
        log.warning("delegation link refused: no key verifies it")
        raise PageError(
            403,
            "This link is not from the developer portal",
            "Its signature does not fit, so nothing was done. Start again in the portal.",
            action=portal,
        ) from None


@router.get("/apim-delegation")
async def show(request: Request, parts: HereParts, visitor: MaybeVisitor) -> Response:
    link = checked_link(parts, request.query_params.multi_items())
    if link.operation == "SignUp":
        return register_page(request, parts, {"return_url": link.values["returnUrl"]})
    if link.operation == "SignIn":
        return sign_in_page(request, parts, {"return_url": link.values["returnUrl"], "visitor": visitor})
    if link.operation == "SignOut":
        return _ask_to_sign_out(request, parts, visitor, link)
    if visitor is None:
        raise SignInRequiredError(path_of(request))
    if link.operation == "Subscribe":
        return await ask_for_subscription(request, parts, visitor, link)
    if link.operation in {"Unsubscribe", "Renew"}:
        return await _show_subscription_step(parts, visitor, link)
    _refuse_other_user(visitor, link)
    title, text = NOT_YET[link.operation]
    raise PageError(501, title, text, action=SUBSCRIPTIONS)


@router.post("/apim-delegation")
async def act(request: Request, parts: HereParts, visitor: MaybeVisitor) -> Response:
    async with request.form(max_files=0, max_fields=20) as form:
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    own = {"form_token", "form_id", "catalogue_version", "display_name", "consent", "currency"}
    link = checked_link(parts, [field for field in fields if field[0] not in own])
    given = {name: value for name, value in fields if name in own}
    if visitor is None:
        raise SignInRequiredError("/subscriptions")
    check_form(visitor, given.get("form_token", ""))
    if link.operation == "Subscribe":
        return await make_subscription(request, parts, visitor, link, given)
    if link.operation == "SignOut":
        response = RedirectResponse(parts.settings.portal_url, 303)
        async with parts.pool.acquire() as connection:
            await sessions.end(request, response, connection, parts.settings)
        return response
    raise PageError(405, "This link cannot be used like that", "Open it in the portal and use the buttons of the page it leads to.")


def _ask_to_sign_out(request: Request, parts: Parts, visitor: Visitor | None, link: Link) -> Response:
    if visitor is None:
        return RedirectResponse(parts.settings.portal_url, 303)
    return parts.pages.render(request, "sign_out.html", {"link": link, "visitor": visitor})


def _refuse_other_user(visitor: Visitor, link: Link) -> None:
    if link.values["userId"] != visitor.user_id:
        raise other_user()


async def _show_subscription_step(parts: Parts, visitor: Visitor, link: Link) -> Response:
    """Lead to our own page about the subscription, which asks before it acts; only to one of the visitor's account."""
    found = await subscriptions_store.find_subscription(parts.pool, link.values["subscriptionId"], visitor.account_id)
    if found is None:
        raise no_such_subscription()
    if link.values["subscriptionId"] not in {found.subscription_id, found.sid}:  # a further key: it is revoked there, not the subscription
        return RedirectResponse(f"/subscriptions/{found.subscription_id}#keys", 303)
    step = (
        "/cancel" if link.operation == "Unsubscribe" and not found.is_ended else ""
    )  # subscriptions renew by themselves: that page says when
    return RedirectResponse(f"/subscriptions/{found.subscription_id}{step}", 303)
