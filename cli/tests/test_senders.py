"""What `turnpike senders` asks the door and prints; the door is answers made here."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from turnpike_cli.__main__ import app
from turnpike_cli.doors import SCOPES, Doors
from turnpike_cli.errors import DoorRefusedError

MADE = {
    "id": "0a1b",
    "key": "tps_0a1b_secret",
    "source": "/gateways/one",
    "subscriptions": ["sub-a", "sub-b"],
    "meters": ["calls", "tokens"],
    "notes": ["sub-a is billed elsewhere"],
}
KEPT = {
    "id": "0a1b",
    "name": "one",
    "source_prefix": "/gateways/one",
    "subscriptions": None,
    "meters": ["tokens"],
    "created_at": "2027-01-05T10:20:00Z",
    "created_by": "t",
    "notes": ["only enterprise is billed"],
}


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
    words = run(
        "senders", "add", "one", "--source", "/gateways/one", "--subscription", "sub-a", "--subscription", "sub-b", "--meter", "calls"
    )
    assert "/gateways/one and all below it; it may name only sub-a, sub-b" in words
    assert "it may send only for the meters calls, tokens, and every event has to name one (data.meter)" in words
    assert "key tps_0a1b_secret" in words
    assert "! sub-a is billed elsewhere" in words
    assert json.loads(run("senders", "add", "one", "--source", "/gateways/one", "--json"))["key"] == "tps_0a1b_secret"
    scopes = [{"subscriptions": ["sub-a", "sub-b"], "meters": ["calls"]}, {"subscriptions": None, "meters": None}]
    bodies = [{"name": "one", "source": "/gateways/one", **scope} for scope in scopes]
    assert asked == [("usage_collector", "POST", "/v1/senders", body) for body in bodies]


def test_senders_are_listed_without_keys_and_revoked_by_id(asked: list[tuple[str, str, str, Any]]) -> None:
    listed = run("senders", "list")
    assert "/gateways/one" in listed
    assert "all" in listed
    assert "tokens" in listed
    assert "2027-01-05" in listed
    assert "one: only enterprise is billed" in listed
    assert json.loads(run("senders", "list", "--json")) == [KEPT]
    assert "revoked" in run("senders", "revoke", "0a1b/../x")
    assert asked[-1] == ("usage_collector", "DELETE", "/v1/senders/0a1b%2F..%2Fx", None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one", "--source", "/gateways/one/"], "without / at the end"),
        (["one", "--source", "/gateways one"], "without a blank"),
        (["one", "--source", ""], "1 to 200 characters"),
        ([" ", "--source", "/gateways/one"], "say what people call the sender"),
    ],
)
def test_what_the_door_would_refuse_is_said_before_it_is_asked(words: list[str], said: str, asked: list[tuple[str, str, str, Any]]) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["senders", "add", *words])
    assert done.exit_code == 2
    assert said in done.stderr
    assert asked == []


def test_where_nobody_may_send_the_list_says_how_to_change_that(
    asked: list[tuple[str, str, str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: Any, **__: Any) -> Any:
        return {"senders": []}

    monkeypatch.setattr(Doors, "ask", nobody)
    assert "turnpike senders add NAME --source SOURCE" in run("senders", "list")


def test_an_id_that_nobody_has_is_said_with_where_ids_are_found(
    asked: list[tuple[str, str, str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise DoorRefusedError("usage_collector refuses", "no such sender", content=None)

    monkeypatch.setattr(Doors, "ask", refuse)
    done = CliRunner().invoke(app, ["senders", "revoke", "orders"])
    assert str(done.exception) == "orders: no such sender; `turnpike senders list` shows the ids of those who may send."


def test_the_command_may_do_all_of_it() -> None:
    assert {"senders:read", "senders:write"} <= set(SCOPES)
