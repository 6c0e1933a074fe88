"""Short-lived signed tokens with scopes, for the internal doors."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
from fastapi import HTTPException, Request

LIFETIME = timedelta(seconds=60)
AUDIENCE = "turnpike-internal"


@dataclass(frozen=True)
class Caller:
    """Who calls, and what the token allows."""

    name: str
    scopes: frozenset[str]


def issue_token(keys: Sequence[str], *, caller: str, scopes: Sequence[str]) -> str:
    """Return a token (JWT, HS256) that `caller` may use for 60 s of wall time at doors asking for one of `scopes`."""
    now = datetime.now(UTC)
    claims = {"iss": caller, "sub": caller, "aud": AUDIENCE, "scope": " ".join(scopes), "iat": now, "exp": now + LIFETIME}
    return jwt.encode(claims, keys[0], algorithm="HS256")


def read_token(keys: Sequence[str], token: str) -> Caller | None:
    """Return the caller, or None when no key verifies the token, it has expired or lives too long."""
    for key in keys:
        try:
            claims = jwt.decode(token, key, algorithms=["HS256"], audience=AUDIENCE, options={"require": ["exp", "iat", "sub", "scope"]})
        except jwt.PyJWTError:
            continue
        if claims["exp"] - claims["iat"] <= LIFETIME.total_seconds() and isinstance(claims["scope"], str):
            return Caller(name=claims["sub"], scopes=frozenset(claims["scope"].split()))
    return None


def require_scope(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """Return a FastAPI dependency: 401 without a good token, 403 without the scope. The keys stand in `app.state.token_keys`."""

    async def check(request: Request) -> Caller:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        caller = read_token(request.app.state.token_keys, token) if kind.lower() == "bearer" else None
        if caller is None:
            raise HTTPException(401, "this door needs an internal token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})
        if scope not in caller.scopes:
            raise HTTPException(403, f"the token lacks the scope {scope}")
        return caller

    return check


class InternalAuth:
    """For httpx: signs each request with a fresh token."""

    def __init__(self, keys: Sequence[str], *, caller: str, scopes: Sequence[str]) -> None:
        self._keys, self._caller, self._scopes = keys, caller, scopes

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {issue_token(self._keys, caller=self._caller, scopes=self._scopes)}"}
