"""What `turnpike senders` asks the door and prints; the door is answers made here."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from turnpike_cli.__main__ import app
from turnpike_cli.doors import SCOPES, Doors

MADE = {"id": "0a1b", "key": "tps_0a1b_secret", "source": "/gateways/one", "subscriptions": ["sub-a", "sub-b"]}
KEPT = {"id": "0a1b", "name": "one", "source_prefix": "/gateways/one", "subscriptions": None, "created_at": "2027-01-05", "created_by": "t"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str, Any]]:
    seen: list[tuple[str, str, str, Any]] = []

    async def ask(_: Doors, name: str, method: str, path: str, *, body: Any = None) -> Any:
        seen.append((name, method, path, body))
        return {"POST": MADE, "GET": {"senders": [KEPT]}, "DELETE": None}[method]

    monkeypatch.setenv("TURNPIKE_DOORS", "usage_collector=http://127.0.0.1:1")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", "k" * 32)
    monkeypatch.setattr(Doors, "ask", ask)
    return seen


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_a_sender_is_made_with_its_scope_and_its_key_is_shown(asked: list[tuple[str, str, str, Any]]) -> None:
    words = run("senders", "add", "one", "--source", "/gateways/one", "--subscription", "sub-a", "--subscription", "sub-b")
    assert "key tps_0a1b_secret" in words
    assert json.loads(run("senders", "add", "one", "--source", "/gateways/one", "--json"))["key"] == "tps_0a1b_secret"
    bodies = [{"name": "one", "source": "/gateways/one", "subscriptions": given} for given in (["sub-a", "sub-b"], None)]
    assert asked == [("usage_collector", "POST", "/v1/senders", body) for body in bodies]


def test_senders_are_listed_without_keys_and_revoked_by_id(asked: list[tuple[str, str, str, Any]]) -> None:
    listed = run("senders", "list")
    assert "/gateways/one" in listed
    assert "all" in listed
    assert json.loads(run("senders", "list", "--json")) == [KEPT]
    assert "revoked" in run("senders", "revoke", "0a1b/../x")
    assert asked[-1] == ("usage_collector", "DELETE", "/v1/senders/0a1b%2F..%2Fx", None)


def test_the_command_may_do_all_of_it() -> None:
    assert {"senders:read", "senders:write"} <= set(SCOPES)
