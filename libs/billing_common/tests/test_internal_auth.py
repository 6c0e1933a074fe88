"""Internal tokens: right key, right scope, short life."""

from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
from fastapi import Depends, FastAPI

from billing_common.internal_auth import AUDIENCE, issue_token, read_token, require_scope

KEY, OLD_KEY, OTHER = "k" * 32, "o" * 32, "x" * 32


def test_a_token_says_who_calls_and_what_is_allowed() -> None:
    caller = read_token([KEY], issue_token([KEY], caller="cli", scopes=["status:read", "clock:write"]))
    assert caller is not None
    assert (caller.name, caller.scopes) == ("cli", {"status:read", "clock:write"})


def test_while_a_key_is_rotated_both_are_accepted() -> None:
    assert read_token([KEY, OLD_KEY], issue_token([OLD_KEY], caller="cli", scopes=[]))


@pytest.mark.parametrize(
    ("key", "audience", "lifetime"),
    [(OTHER, AUDIENCE, 60), (KEY, "someone else", 60), (KEY, AUDIENCE, 3600), (KEY, AUDIENCE, -1)],
    ids=["a foreign key", "another audience", "a long life", "expired"],
)
def test_a_token_is_refused_with(key: str, audience: str, lifetime: int) -> None:
    now = datetime.now(UTC)
    claims = {"sub": "x", "scope": "a", "aud": audience, "iat": now - timedelta(seconds=2), "exp": now + timedelta(seconds=lifetime - 2)}
    assert read_token([KEY], jwt.encode(claims, key, algorithm="HS256")) is None


def test_an_unsigned_token_is_refused() -> None:
    now = datetime.now(UTC)
    claims = {"sub": "x", "scope": "a", "aud": AUDIENCE, "iat": now, "exp": now + timedelta(seconds=30)}
    assert read_token([KEY], jwt.encode(claims, None, algorithm="none")) is None


async def test_a_door_asks_for_its_scope() -> None:
    app = FastAPI()
    app.state.token_keys = (KEY,)

    @app.get("/door", dependencies=[Depends(require_scope("door:open"))])
    async def door() -> str:
        return "open"

    good = issue_token([KEY], caller="cli", scopes=["door:open"])
    narrow = issue_token([KEY], caller="cli", scopes=["door:look"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        assert (await client.get("/door")).status_code == 401
        assert (await client.get("/door", headers={"authorization": f"Bearer {narrow}"})).status_code == 403
        assert (await client.get("/door", headers={"authorization": f"Bearer {good}"})).json() == "open"
