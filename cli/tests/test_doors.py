"""Doors that are not this folder's stack: named in the environment, for containers."""

from typing import Any

import httpx
import pytest

from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.stack import Stack

KEY = "k" * 32


@pytest.fixture
def named(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setenv("TURNPIKE_DOORS", f"checkout={stack.door('checkout')}")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", KEY)
    return stack


async def test_a_door_named_in_the_environment_is_asked(named: Stack) -> None:
    async with Doors(named) as doors:
        assert doors.names == ["checkout"]
        assert (await doors.status("checkout"))["service"] == "checkout"


async def test_a_door_that_is_not_named_is_said_with_the_remedy(named: Stack) -> None:
    async with Doors(named) as doors:
        with pytest.raises(CommandError, match="add `stripe_reporter=http://host:8001` to TURNPIKE_DOORS"):
            await doors.status("stripe_reporter")


def test_a_wrong_name_or_a_missing_key_is_said_at_once(named: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNPIKE_DOORS", "chekout=http://checkout:8001")
    with pytest.raises(CommandError, match="chekout=http://checkout:8001 is not SERVICE"):
        Doors(named)
    monkeypatch.setenv("TURNPIKE_DOORS", "checkout=http://checkout:8001")
    monkeypatch.delenv("TURNPIKE_INTERNAL_TOKEN_KEYS")
    with pytest.raises(CommandError, match="set TURNPIKE_INTERNAL_TOKEN_KEYS"):
        Doors(named)


async def test_a_body_that_does_not_fit_is_said_by_its_fields(named: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> httpx.Response:
        detail = [
            {"type": "x", "loc": ["body", "entries", 0, "to"], "msg": "Field required"},
            {"type": "x", "loc": ["body"], "msg": "Not all of it"},
        ]
        return httpx.Response(422, json={"detail": detail})

    async with Doors(named) as doors:
        monkeypatch.setattr(httpx.AsyncClient, "request", refuse)
        with pytest.raises(CommandError, match=r"checkout refuses POST /v1/x: entries\.0\.to: Field required; body: Not all of it"):
            await doors.ask("checkout", "POST", "/v1/x")
