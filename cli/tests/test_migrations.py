"""What `catalogue apply --migrate` and `catalogue migrations` ask of checkout and say; the doors are answers made here."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from turnpike_cli import migration_commands
from turnpike_cli.__main__ import app
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError

MOVE = {
    "subscription_id": "s-1", "account_id": "a-1", "product_id": "standard", "from_version": 1, "when": "now",
    "effective_at": "2027-01-16T12:00:01+00:00", "currency": "usd", "proration_minor": 500,
}  # fmt: skip
STAY = {
    "subscription_id": "s-2",
    "account_id": "a-2",
    "product_id": "standard",
    "from_version": 1,
    "code": "ending",
    "reason": "Cancelled.",
}
ANSWER: dict[str, Any] = {
    "when": "now", "moving": 1, "staying": 1, "moves": [MOVE], "stays": [STAY],
    "totals": [{"currency": "usd", "when": "now", "subscribers": 1, "proration_minor": 500}],
}  # fmt: skip
PLAN = {"plan": "0123456789abcdef", "steps": [], "unchanged": 3, "products": [], "subscribers": {}, "current_version": 1, "changes": True}


class Checkout:
    """Stands in for the doors; keeps the order in which they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.rows: list[dict[str, Any]] = []

    async def ask(self, _name: str, method: str, path: str, *, params: Any = None, **_: Any) -> Any:
        self.asked.append(f"{method} {path}{'?when=' + params['when'] if params and 'when' in params else ''}")
        if path == "/v1/catalogue/plan":
            return PLAN
        if path.startswith("/v1/migrations"):
            return {"migrations": self.rows} if method == "GET" else ANSWER
        if method == "GET":
            return PLAN | {"state": "done"}
        return {"version": 2, "new_version": True, "done": [], "remaining": [], **PLAN}


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout()
    monkeypatch.setenv("TURNPIKE_DOORS", "checkout=http://127.0.0.1:1")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", "k" * 32)
    monkeypatch.setattr(Doors, "ask", made.ask)
    return made


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words)


def test_who_moves_and_what_it_comes_to_is_said_before_it_is_done(checkout: Checkout) -> None:
    done = run("catalogue", "apply", "--migrate", "now")
    assert done.exit_code == 0, done.exception
    order = [asked for asked in checkout.asked if "migrations" in asked or asked.startswith("POST /v1/catalogue/apply")]
    assert order == ["POST /v1/migrations/plan?when=now", "POST /v1/catalogue/apply", "POST /v1/migrations?when=now"]
    before, after = done.stdout.split("catalogue version 2 is applied")
    assert "s-1  standard from version 1  will move at 2027-01-16T12:00:01+00:00  proration USD 5.00" in before
    assert "s-2  standard stays: Cancelled." in before
    assert "1 subscriber in USD now: proration USD 5.00, on the next invoices" in before
    assert "1 move, 1 stay" in after


def test_json_holds_the_migration_beside_what_was_applied(checkout: Checkout) -> None:
    done = run("catalogue", "apply", "--migrate", "next-period", "--json")
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["migration"]["moves"]) == (2, [MOVE])
    assert "POST /v1/migrations?when=next-period" in checkout.asked


def test_without_the_option_nobody_is_moved(checkout: Checkout) -> None:
    run("catalogue", "apply")
    assert not [asked for asked in checkout.asked if "migrations" in asked]


def test_a_repair_moves_nobody(checkout: Checkout) -> None:
    refused = run("catalogue", "apply", "--repair", "--migrate", "now")
    assert isinstance(refused.exception, CommandError)
    assert checkout.asked == []


def test_a_long_list_is_cut_and_says_so() -> None:
    answer = ANSWER | {"moving": 60, "moves": [MOVE] * 60}
    lines = migration_commands.lines_of(answer, begun=True)
    assert len([line for line in lines if "s-1" in line]) == migration_commands.SHOWN_MAX
    assert "  and 10 more (--json lists up to 1,000)" in lines
    assert migration_commands.lines_of({**ANSWER, "moving": 0, "staying": 0}, begun=False) == [
        "no subscriber pays another price than this catalogue's"
    ]


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("scheduled", 0), ("failed", 1)])
def test_the_list_of_moves_fails_when_one_has_failed(checkout: Checkout, state: str, code: int) -> None:
    checkout.rows = [
        {"subscription_id": "s-1", "product_id": "standard", "from_catalogue_version": 1, "catalogue_version": 2, "state": state,
         "effective_at": "2027-02-01", "reason": None}
    ]  # fmt: skip
    done = run("catalogue", "migrations")
    assert (done.exit_code, state in done.stdout) == (code, True)
