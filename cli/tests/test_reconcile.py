"""`turnpike reconcile`: what it asks, prints and ends with; the door's answers are made here."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turnpike_cli.__main__ import app
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorRefusedError
from turnpike_cli.reconcile_command import span_of

METER = {
    "product_id": "payg", "meter_id": "calls", "counted": 100, "windows": 100, "told": 100, "acknowledged": 100, "in_flight": 0,
    "unsent": 0, "rejected": 0, "stripe": 123,
}  # fmt: skip
BY_HAND = {
    "station": "ledger-stripe", "cause": "manual_change_in_stripe", "explained": False, "needs_attention": True,
    "day": "2027-03-05T00:00:00Z",
    "product_id": "payg", "meter_id": "calls", "quantity": 23, "amount_minor": 3, "currency": "usd",
    "age_seconds": 7200, "words": "added in Stripe",
}  # fmt: skip
FAILED = {
    **BY_HAND,
    "station": "events-meters",
    "cause": "filter",
    "needs_attention": False,
    "explained": True,
    "meter_id": "",
    "quantity": -4,
}


def subscription(*differences: dict[str, Any], name: str = "s-1", **fields: Any) -> dict[str, Any]:
    agrees = not any(row["needs_attention"] for row in differences)
    return {
        "subscription_id": name, "agrees": agrees, "gateway_calls": 104, "gateway_received": 104, "events": {"counted": 100, "filtered": 4},
        "duplicates": 0, "meters": [METER], "invoices": [], "differences": list(differences), "problems": [],
        "events_kept_from": None,
    } | fields  # fmt: skip


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []

    async def ask(_: Doors, _name: str, _method: str, path: str, *, params: Any = None, body: Any = None, **_more: Any) -> Any:
        if path == "/status":
            return {"now": "2027-03-11T09:00:00+00:00"}
        if path.endswith("/subscriptions"):
            return sorted(one["subscription_id"] for one in made if one["subscription_id"] > params["after"])[:1]
        if path.endswith("/repair"):
            return [{"subscription_id": name, "done": ["5 totals that were overdue are sent now"]} for name in body["subscriptions"]]
        return [one for one in made if one["subscription_id"] in body["subscriptions"]]

    monkeypatch.setenv("TURNPIKE_DOORS", "stripe_reporter=http://127.0.0.1:1")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", "k" * 32)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Doors, "ask", ask)
    return made


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["reconcile", *words])


def test_it_ends_with_0_when_all_agree(answers: list[dict[str, Any]]) -> None:
    answers += [subscription(FAILED), subscription(name="s-2")]
    done = run()
    assert done.exit_code == 0, done.exception
    assert "2 subscriptions: all stations agree" in done.stdout
    assert "As it should be, or gone in a while: 4 filter" in done.stdout


def test_it_ends_with_2_and_names_cause_money_and_age_of_a_difference(answers: list[dict[str, Any]]) -> None:
    answers.append(subscription(BY_HAND))
    done = run("--subscription", "s-1", "--period", "2027-03")
    assert done.exit_code == 2
    assert all(word in done.stdout for word in ("manual change in stripe", "+23", "USD 0.03", "2 h", "DIFFERS"))
    assert json.loads(run("--json").stdout)["agrees"] is False


def test_a_station_that_did_not_answer_is_no_agreement(answers: list[dict[str, Any]]) -> None:
    answers.append(subscription(problems=["Stripe did not answer for calls"]))
    done = run()
    assert done.exit_code == 2
    assert "this station was not compared" in done.stdout


def test_events_that_are_no_longer_kept_are_said_and_are_no_difference(answers: list[dict[str, Any]]) -> None:
    answers.append(subscription(meters=[METER | {"counted": None}], events={"counted": 7}, events_kept_from="2027-02-03T00:00:00Z"))
    done = run("--period", "2027-02")
    assert done.exit_code == 0
    assert "Events of days before 2027-02-03 are no longer kept" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "payg/calls" in line)
    assert row.replace("│", " ").split()[:6] == ["s-1", "payg/calls", "104", "-", "-", "100"], (
        "what is there of the events is not shown as all of them"
    )


def test_a_repair_says_what_was_done(answers: list[dict[str, Any]]) -> None:
    answers.append(subscription())
    assert "s-1: 5 totals that were overdue are sent now" in run("--repair").stdout


def test_a_period_is_a_month_a_day_or_two_days() -> None:
    now = datetime(2027, 3, 11, 9, tzinfo=UTC)
    first = datetime(2027, 2, 1, tzinfo=UTC)
    assert span_of("2027-02", now) == (first, datetime(2027, 3, 1, tzinfo=UTC))
    assert span_of("2027-02-01", now) == (first, first + timedelta(days=1))
    assert span_of("2027-02-01/2027-03-03", now) == (first, datetime(2027, 3, 3, tzinfo=UTC))
    assert span_of(None, now) == (datetime(2027, 1, 9, tzinfo=UTC), datetime(2027, 3, 12, tzinfo=UTC))
    with pytest.raises(CommandError):
        span_of("2027-03-03/2027-02-01", now)


@pytest.mark.parametrize("period", ["9999-12", "9999-12-31", "0001-01-01T00:00:00+05:00/2027-01-01"])
def test_a_period_beyond_the_calendar_is_refused_by_name(period: str, answers: list[dict[str, Any]]) -> None:
    done = run("--period", period)
    assert isinstance(done.exception, CommandError)
    assert str(done.exception).startswith("--period: ")


def test_an_id_that_nobody_knows_ends_with_the_reporters_words(answers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    known = Doors.ask

    async def ask(self: Doors, name: str, method: str, path: str, **more: Any) -> Any:
        if path == "/v1/reconciliations":
            raise DoorRefusedError("stripe_reporter refuses", "subscription nobody: not known", content=None)
        return await known(self, name, method, path, **more)

    monkeypatch.setattr(Doors, "ask", ask)
    done = run("--subscription", "nobody")
    assert "nobody: not known" in str(done.exception)
    assert "all stations agree" not in done.stdout
