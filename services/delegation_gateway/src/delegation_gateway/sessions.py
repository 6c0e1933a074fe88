"""Who is signed in: the cookie, its token, and the second lock of forms that act."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi import Request, Response

from billing_common.db import Connection
from delegation_gateway import accounts_store
from delegation_gateway.accounts_store import Member
from delegation_gateway.settings import Settings


@dataclass(frozen=True)
class Visitor:
    """A signed-in member. `form_token` goes into every form that acts and only fits this session."""

    member: Member
    form_token: str

    @property
    def account_id(self) -> str:
        return self.member.account_id

    @property
    def user_id(self) -> str:
        return self.member.user_id

    def owns_form(self, form_token: str) -> bool:
        return hmac.compare_digest(self.form_token.encode(), form_token.encode())


def cookie_name(settings: Settings) -> str:
    """`__Host-` binds the cookie to this host; browsers take it over https only."""
    return "__Host-session" if settings.is_https else "session"


async def visitor_of(request: Request, connection: Connection, settings: Settings) -> Visitor | None:
    """Return who sends this request, by the session cookie. Sessions last by wall time, whatever the business clock says."""
    token = request.cookies.get(cookie_name(settings), "")
    if not token:
        return None
    member = await accounts_store.session_member(connection, token_hash(token), datetime.now(UTC))
    return None if member is None else Visitor(member, form_token(token))


async def begin(connection: Connection, settings: Settings, user_id: str) -> str:
    """Start a session and return the token for its cookie."""
    token, now = secrets.token_urlsafe(32), datetime.now(UTC)
    await accounts_store.add_session(
        connection, token_hash(token), user_id, now=now, expires_at=now + timedelta(hours=settings.session_hours)
    )
    return token


def set_cookie(response: Response, settings: Settings, token: str) -> None:
    """Lax, not Strict: the way back from Checkout is a cross-site GET and would look signed out."""
    response.set_cookie(
        cookie_name(settings),
        token,
        max_age=settings.session_hours * 3600,
        httponly=True,
        secure=settings.is_https,
        samesite="lax",
        path="/",
    )


async def end(request: Request, response: Response, connection: Connection, settings: Settings) -> None:
    """End the session of this request, here and in the browser."""
    name = cookie_name(settings)
    if token := request.cookies.get(name, ""):
        await accounts_store.end_session(connection, token_hash(token))
    response.delete_cookie(name, httponly=True, secure=settings.is_https, samesite="lax", path="/")


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def form_token(token: str) -> str:
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()
