"""Registration, sign-in and sign-out."""

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel
from starlette.responses import RedirectResponse, Response

from billing_common.events import AccountRegistered, derive_id
from billing_common.outbox import announce
from delegation_gateway import accounts_store, domain, sessions
from delegation_gateway.accounts_store import Member, add_attempt, attempt_subject, count_attempts
from delegation_gateway.apim_gateway import ApimUnavailableError, UserRefusedError
from delegation_gateway.domain import Registration
from delegation_gateway.parts import HereParts, MaybeVisitor, Parts, SignedIn, check_form
from delegation_gateway.routes.portal import to_portal
from turnpike_ui import PageError
from turnpike_ui.pages import local_path

router = APIRouter()
log = structlog.get_logger(__name__)
WRONG = "The e-mail address or the password is not right"


class SignInForm(BaseModel):
    email: str = ""
    password: str = ""
    next: str = ""
    return_url: str = ""


class RegistrationForm(BaseModel):
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    password: str = ""
    registration_id: str = ""
    next: str = ""
    return_url: str = ""


class PortalForm(BaseModel):
    form_token: str = ""
    return_url: str = "/"


def sign_in_page(
    request: Request, parts: Parts, context: dict[str, Any] | None = None, *, status: int = 200, errors: dict[str, str] | None = None
) -> Response:
    values = {"email": "", "next": "", "return_url": "", "errors": errors or {}, "visitor": None} | (context or {})
    return parts.pages.render(request, "sign_in.html", values, status)


def register_page(
    request: Request, parts: Parts, context: dict[str, Any] | None = None, *, status: int = 200, errors: dict[str, str] | None = None
) -> Response:
    empty = {"email": "", "first_name": "", "last_name": "", "next": "", "return_url": ""}
    values = {**empty, "registration_id": secrets.token_urlsafe(16), "errors": errors or {}} | (context or {})
    return parts.pages.render(request, "register.html", values, status)


@router.get("/sign-in")
async def show_sign_in(request: Request, parts: HereParts, visitor: MaybeVisitor, next: str = "") -> Response:  # noqa: A002 # the parameter's public name
    if visitor is not None:
        return RedirectResponse(local_path(next or "/subscriptions"), 303)
    return sign_in_page(request, parts, {"next": local_path(next) if next else ""})


@router.post("/sign-in")
async def sign_in(request: Request, parts: HereParts, form: Annotated[SignInForm, Form()]) -> Response:
    email, password = form.email, form.password
    context = {"email": email[: domain.EMAIL_CHARACTERS_MAX], "next": form.next, "return_url": form.return_url}
    if not email.strip() or not password:
        errors = {"email": "Enter your e-mail address"} if not email.strip() else {"password": "Enter your password"}
        return sign_in_page(request, parts, context, status=422, errors=errors)
    subjects = _sign_in_subjects(request, email)
    await _refuse_too_many(parts, {subjects[0]: parts.settings.sign_in_attempts_per_account_max})
    await _refuse_too_many(parts, {subjects[1]: parts.settings.sign_in_attempts_per_address_max})
    member = await accounts_store.find_member(parts.pool, domain.email_key(email))
    right = await parts.passwords.verify(member.password_hash if member else None, password[: domain.PASSWORD_CHARACTERS_MAX + 1])
    if member is None or not right:
        for subject in subjects:
            await add_attempt(parts.pool, subject, datetime.now(UTC))
        log.info("sign-in refused")
        return sign_in_page(request, parts, context, status=422, errors={"email": WRONG})
    await accounts_store.forget_attempts(parts.pool, subjects[0])
    if parts.passwords.is_outdated(member.password_hash):
        await accounts_store.set_password_hash(parts.pool, member.user_id, await parts.passwords.hash(password))
    return await _signed_in(request, parts, member, next_path=form.next, return_url=form.return_url)


def _sign_in_subjects(request: Request, email: str) -> tuple[str, str]:
    address = request.client.host if request.client else "unknown"
    return attempt_subject("account", domain.email_key(email)), attempt_subject("address", address)


async def _refuse_too_many(parts: Parts, limits: dict[str, int]) -> None:
    for subject, most in limits.items():
        if await count_attempts(parts.pool, subject, datetime.now(UTC)) >= most:
            raise PageError(429, "Too many attempts", "Wait 15 minutes and try again.", headers={"Retry-After": "900"})


async def _signed_in(request: Request, parts: Parts, member: Member, *, next_path: str, return_url: str) -> Response:
    """Start the session and go on: to the portal if the visitor came from there, else to the page that was asked for."""
    response: Response
    try:
        if return_url:
            response = await to_portal(parts, member, return_url)
        else:
            response = RedirectResponse(local_path(next_path or "/subscriptions"), 303)
    except ApimUnavailableError:
        response = parts.pages.error(request, 503, action=("Go to your subscriptions", "/subscriptions"))
    except UserRefusedError:
        text = "The developer portal will not take this account. It may know the e-mail address already: ask your provider."
        raise PageError(409, "The portal refused this account", text) from None
    async with parts.pool.acquire() as connection, connection.transaction():
        token = await sessions.begin(connection, parts.settings, member.user_id)
    sessions.set_cookie(response, parts.settings, token)
    return response


@router.get("/register")
async def show_register(request: Request, parts: HereParts, next: str = "") -> Response:  # noqa: A002 # the parameter's public name
    return register_page(request, parts, {"next": local_path(next) if next else ""})


@router.post("/register")
async def register(request: Request, parts: HereParts, form: Annotated[RegistrationForm, Form()]) -> Response:
    asked = Registration(form.first_name, form.last_name, form.email, form.password)
    registration_id = form.registration_id[:64] or secrets.token_urlsafe(16)
    context = {
        "first_name": form.first_name[:200],
        "last_name": form.last_name[:200],
        "email": form.email[:300],
        "registration_id": registration_id,
        "next": form.next,
        "return_url": form.return_url,
    }
    if errors := domain.registration_errors(asked):
        return register_page(request, parts, context, status=422, errors=errors)
    address = attempt_subject("registration", request.client.host if request.client else "unknown")
    await _refuse_too_many(parts, {address: parts.settings.registrations_per_address_max})
    await add_attempt(parts.pool, address, datetime.now(UTC))
    member = await _add_account(parts, asked, registration_id)
    if member is None:
        taken = {"email": "There is an account with this e-mail address. Sign in instead, or use another address."}
        return register_page(request, parts, context, status=422, errors=taken)
    return await _signed_in(request, parts, member, next_path=form.next, return_url=form.return_url)


async def _add_account(parts: Parts, asked: Registration, registration_id: str) -> Member | None:
    """Add account and member once; None when the address is taken, unless it was taken by this very form a moment ago."""
    account_id = str(derive_id("account", registration_id, asked.email_key))
    user_id = str(derive_id("user", registration_id, asked.email_key))
    password_hash, now = await parts.passwords.hash(asked.password), parts.clock.now()
    async with parts.pool.acquire() as connection, connection.transaction():
        if await accounts_store.find_member(connection, asked.email_key) is None and await accounts_store.add_account(
            connection,
            asked,
            account_id=account_id,
            user_id=user_id,
            registration_id=registration_id,
            password_hash=password_hash,
            at=now,
        ):
            event = AccountRegistered(cause_id=f"registration:{registration_id}", occurred_at=now, account_id=account_id, user_id=user_id)
            await announce(connection, event)
            log.info("account registered", account_id=account_id, event_id=str(event.event_id))
        known = await accounts_store.find_member(connection, asked.email_key)
    if known is None or known.registration_id != registration_id:
        return None
    return known if await parts.passwords.verify(known.password_hash, asked.password) else None


@router.post("/sign-out")
async def sign_out(request: Request, parts: HereParts, visitor: SignedIn, form_token: Annotated[str, Form()] = "") -> Response:
    check_form(visitor, form_token)
    response = RedirectResponse("/", 303)
    async with parts.pool.acquire() as connection:
        await sessions.end(request, response, connection, parts.settings)
    return response


@router.post("/portal")
async def go_to_portal(parts: HereParts, visitor: SignedIn, form: Annotated[PortalForm, Form()]) -> Response:
    """Sign the visitor into the developer portal without asking for the password again."""
    check_form(visitor, form.form_token)
    return await to_portal(parts, visitor.member, form.return_url)
