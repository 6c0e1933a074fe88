"""`turnpike explain`: what it asks and prints; the doors' answers are made here."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turnpike_cli.__main__ import app
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError

MARCH = {"period_start": "2027-03-01T00:00:00Z", "period_end": "2027-04-01T00:00:00Z"}
LINE = {"line_id": "il_1", "description": "API calls", "amount_minor": 1050, "quantity": 10500, "words": "usage of this time", **MARCH}
USAGE = {
    "key": "standard:calls:1", "meter_id": "calls", "meter_name": "API calls", "quantity": 10500, "counted": 10500, "rated_minor": 1050,
    "difference": None, "days": [{"start": "2027-03-04T00:00:00Z", "quantity": 10500, "amount_minor": 1050, "difference": None}],
    "not_counted": [{"outcome": "filtered", "reason": "failed", "words": "answered with an error", "events": 3}], **MARCH,
}  # fmt: skip
TREE = {
    "invoice_id": "in_1", "number": "ABC-1", "subscription_id": "s-1", "status": "paid", "currency": "usd", "total_minor": 950,
    "lines": [{**LINE, "correction_id": None}, {**LINE, "description": "Correction", "amount_minor": -100, "correction_id": "c-1"}],
    "usage": [USAGE],
}  # fmt: skip
HOUR = {
    "start": "2027-03-04T22:00:00Z", "quantity": 10500, "amount_minor": 1050, "difference": None,
    "endpoints": [{"origin": "stream", "method": "GET", "template": "/orders", "status": 200, "events": 10500, "quantity": 10500}],
    "not_counted": [{"reason": "failed", "events": 3, "outcome": "filtered", "words": ""}],
}  # fmt: skip
EVENT = {
    "id": "e-1", "source": "apim", "at": "2027-03-04T22:00:01.5+00:00", "origin": "stream", "method": "GET", "template": "/orders",
    "status": 200, "outcome": "counted", "reason": None, "counted": 5,
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/v1/explanations/ABC-1": TREE,
    "/v1/explanations/ABC-1/day": {"key": USAGE["key"], "day": "2027-03-04T00:00:00Z", "quantity": 10500, "hours": [HOUR]},
    "/v1/corrections": [{"correction_id": "c-1", "reason": "a probe", "by": "Ada"}],
}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    seen: list[tuple[str, Any]] = []

    async def ask(_: Doors, _name: str, _method: str, path: str, *, params: Any = None, **_more: Any) -> Any:
        seen.append((path, params))
        if path.endswith("/events"):
            return {"events": [EVENT], "next": None if (params or {}).get("after") else "2"}
        return json.loads(json.dumps(ANSWERS[path]))

    monkeypatch.setenv("TURNPIKE_DOORS", "stripe_reporter=http://127.0.0.1:1,usage_collector=http://127.0.0.1:1")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", "k" * 32)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(Doors, "ask", ask)
    return seen


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["explain", *words])


def test_lines_days_and_what_did_not_count_are_shown() -> None:
    text = run("ABC-1").stdout
    assert all(word in text for word in ("USD 10.50", "USD -1.00", "a probe (Ada)", "2027-03-04", "10,500", "USD 9.50"))
    assert "Not counted: 3 filtered (failed): answered with an error" in text


def test_a_day_opens_into_hours_and_endpoints(asked: list[tuple[str, Any]]) -> None:
    text = run("ABC-1", "--day", "2027-03-04").stdout
    assert all(word in text for word in ("22:00", "GET /orders 200", "not counted: failed"))
    assert asked[-1][1] == {"usage": "standard:calls:1", "day": "2027-03-04T00:00:00+00:00"}


def test_an_hour_opens_into_events_over_all_pages(asked: list[tuple[str, Any]]) -> None:
    found = json.loads(run("ABC-1", "--hour", "2027-03-04T22:00", "--json").stdout)
    assert len(found["events"]) == 2
    assert [params.get("after") for path, params in asked if path.endswith("/events")][-1] == "2"
    assert "e-1" in run("ABC-1", "--hour", "2027-03-04T22:00").stdout


def test_a_day_whose_events_do_not_add_up_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = {**USAGE["days"][0], "difference": "7 in events, 14 in the total"}  # type: ignore[index]  # a list of dicts
    monkeypatch.setitem(ANSWERS, "/v1/explanations/ABC-1", {**TREE, "usage": [{**USAGE, "days": [altered]}]})
    assert "! 7 in events, 14 in the total" in run("ABC-1").stdout


def test_a_day_of_several_meters_says_which_one_is_open_and_how_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = {**USAGE, "key": "standard:bytes:1", "meter_id": "bytes", "meter_name": "Traffic"}
    monkeypatch.setitem(ANSWERS, "/v1/explanations/ABC-1", {**TREE, "usage": [USAGE, bytes_]})
    for branch in (("--day", "2027-03-04"), ("--hour", "2027-03-04T22:00")):
        assert "may count for other meters too: --meter bytes" in run("ABC-1", *branch).stdout
        text = run("ABC-1", *branch, "--meter", "bytes").stdout
        assert "Traffic" in text
        assert "--meter" not in text


def test_a_meter_that_the_invoice_does_not_have_is_told_which_it_has() -> None:
    refused = run("ABC-1", "--meter", "byte").exception
    assert isinstance(refused, CommandError)
    assert str(refused) == "--meter: the invoice bills no usage of 'byte'; it has calls."


def test_a_time_outside_of_the_invoice_is_refused() -> None:
    assert isinstance(run("ABC-1", "--day", "2027-04-01").exception, CommandError)
    assert isinstance(run("ABC-1", "--meter", "bytes", "--day", "2027-03-04").exception, CommandError)


def test_the_csv_goes_into_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def save(file: Path, text: str) -> int:
        return file.write_text(text)

    async def download(_: Doors, name: str, path: str, file: Path, *, params: Any) -> int:
        return save(file, f"{name} {path} {params['level']}")

    monkeypatch.setattr(Doors, "download", download)
    file = tmp_path / "why.csv"
    assert run("ABC-1", "--csv", str(file), "--level", "events").stdout.endswith("bytes\n")
    assert file.read_text() == "stripe_reporter /v1/explanations/ABC-1/csv events"
