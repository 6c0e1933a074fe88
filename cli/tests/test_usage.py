"""What the usage commands ask the doors and print; the doors themselves are answers made here."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turnpike_cli.__main__ import app
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.unbilled_commands import _became

Answers = dict[tuple[str, str, str], Any]
ADJUST = [
    "usage",
    "adjust",
    "s-1",
    "--meter",
    "calls",
    "--quantity",
    "-1200",
    "--at",
    "2027-01-05T10:20",
    "--reason",
    "a probe",
    "--by",
    "Ada",
]
MADE = {
    "correction_id": "c-1",
    "state": "made",
    "kind": "adjustment",
    "place": "window",
    "amounts": {"calls": -1200},
    "at": "2027-01-05T10:20:00+00:00",
    "hour": "2027-01-05T10:00:00+00:00",
    "hour_before": {"calls": 5000},
    "segment": {
        "start": "2027-01-01T00:00:00Z",
        "end": "2027-02-01T00:00:00Z",
        "product_id": "standard",
        "catalogue_version": 1,
        "closed": False,
    },
    "totals_before": {"calls": 151200, "bytes": 7},
    "totals_after": {"calls": 150000, "bytes": 7},
}
CORRECTIONS = ("usage_collector", "POST", "/v1/corrections/adjustments")
PREVIEW = ("checkout", "POST", "/v1/corrections/preview")


class Asked:
    """Stands in for the doors; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.asked: list[tuple[str, str, Any]] = []

    async def ask(self, name: str, method: str, path: str, *, params: Any = None, body: Any = None, **_: Any) -> Any:
        self.asked.append((name, path, body or params))
        answer = self.answers[name, method, path]
        if isinstance(answer, Exception):
            raise answer
        return answer(body or params) if callable(answer) else answer


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setenv("TURNPIKE_DOORS", "usage_collector=http://127.0.0.1:1,checkout=http://127.0.0.1:1")
    monkeypatch.setenv("TURNPIKE_INTERNAL_TOKEN_KEYS", "k" * 32)
    monkeypatch.setattr(Doors, "ask", asked.ask)
    return asked


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def tried(made: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda body: {**made, "state": "tried" if body["dry_run"] else made["state"]}


def test_an_adjustment_says_what_changed_in_usage_and_money(doors: Asked) -> None:
    doors.answers = {
        CORRECTIONS: tried(MADE),
        PREVIEW: {"amount_minor": -120, "currency": "usd", "where": "usage", "invoice_id": None},
    }
    assert run(*ADJUST).stdout.splitlines() == [
        "Changed: -1,200 calls in the hour from 2027-01-05T10:00 UTC, which held 5,000 calls",
        "Period 2027-01-01 to 2027-02-01, product standard: calls 151,200 -> 150,000",
        "Money: USD -1.20, with the usage of its period, which Stripe bills at the period's end",
    ]
    bodies = [body for name, _, body in doors.asked if name == "usage_collector"]
    assert [body["dry_run"] for body in bodies] == [True, False]
    assert bodies[1]["at"] == "2027-01-05T10:20:00+00:00"


def test_a_dry_run_asks_only_what_would_happen(doors: Asked) -> None:
    doors.answers = {CORRECTIONS: tried(MADE), PREVIEW: {"amount_minor": -5, "currency": "usd", "where": "draft", "invoice_id": "in_1"}}
    answer = run(*ADJUST, "--dry-run")
    assert answer.stdout.startswith("Would change: ")
    assert answer.stdout.endswith("Money: USD -0.05, on the draft invoice of its period (in_1)\n")
    assert all(body["dry_run"] for name, _, body in doors.asked if name == "usage_collector")


def test_what_was_made_before_is_said_so(doors: Asked) -> None:
    doors.answers = {CORRECTIONS: {**MADE, "state": "known"}}
    assert "was made before" in run(*ADJUST).stdout


def test_a_correction_is_made_even_when_nobody_can_price_it(doors: Asked) -> None:
    doors.answers = {CORRECTIONS: tried(MADE), PREVIEW: CommandError("checkout does not answer")}
    assert "Money: could not be asked" in run(*ADJUST).stdout
    assert isinstance(run(*ADJUST, "--dry-run").exception, CommandError)


def test_a_deletion_names_the_event(doors: Asked) -> None:
    deletions = ("usage_collector", "POST", "/v1/corrections/deletions")
    doors.answers = {
        deletions: tried({**MADE, "kind": "deletion"}),
        PREVIEW: {"amount_minor": 0, "currency": "usd", "where": None, "invoice_id": None},
    }
    words = ["--source", "/shop", "--id", "e-7", "--day", "2027-01-05", "--reason", "a probe", "--by", "Ada"]
    assert "Money: nothing changes" in run("usage", "delete", "s-1", *words).stdout
    assert doors.asked[0][2] | {"dry_run": True} == {
        "subscription_id": "s-1", "source": "/shop", "id": "e-7", "day": "2027-01-05", "reason": "a probe", "by": "Ada", "dry_run": True,
    }  # fmt: skip


def test_corrections_are_listed_with_who_why_and_what_became_of_the_money(doors: Asked) -> None:
    listed = {
        "correction_id": "c-1", "kind": "deletion", "subscription_id": "s-1", "place": "invoice", "amounts": {"calls": -1}, "id": "e-7",
        "at": "2027-01-05T10:20:00Z", "source": "/shop", "reason": "a probe", "by": "Ada", "made_at": "2027-02-03T09:00:00Z",
    }  # fmt: skip
    charge = {"correction_id": "c-1", "amount_minor": -120, "currency": "usd", "placed": "next_invoice", "state": "done", "error": None}
    doors.answers = {("usage_collector", "GET", "/v1/corrections"): [listed], ("checkout", "GET", "/v1/corrections"): [charge]}
    (found,) = json.loads(run("usage", "adjustments", "--subscription", "s-1", "--json").stdout)
    assert found["charge"]["amount_minor"] == -120
    table = run("usage", "adjustments").stdout
    assert all(word in table for word in ("Ada", "probe", "-1.20", "deletion"))
    doors.answers = {("usage_collector", "GET", "/v1/corrections"): [], ("checkout", "GET", "/v1/corrections"): []}
    assert run("usage", "adjustments").stdout == "no usage was corrected\n"


STANDING = {
    "product_id": "standard",
    "period_start": "2027-01-10T12:30:00Z",
    "period_end": "2027-02-01T00:00:00Z",
    "totals": {"calls": 84215},
    "quotas": [
        {"meter_id": "calls", "limit": 100000, "used": 84215, "remaining": 15785, "window_end": "2027-02-01T00:00:00Z", "stops": False}
    ],
    "bill": {"currency": "usd", "total_minor": 8995, "lines": []},
    "projected": {
        "currency": "usd",
        "total_minor": 10995,
        "lines": [],
        "basis": {"since": "2027-01-10T12:30:00Z", "usage": {"calls": 120000}},
    },
    "freshness": {"as_of": "2027-01-20T09:00:00Z", "staleness_seconds": 0.42, "unread_records": 0},
}
CHARGES = ("checkout", "GET", "/v1/corrections")
NOTHING = {"hour": None, "day": None, "origin": "stream", "method": "", "template": "", "status": None, "outcome": "counted", "reason": ""}


def test_what_is_spent_of_a_cap_is_shown_and_that_nothing_stops_there(doors: Asked) -> None:
    doors.answers = {
        ("usage_collector", "GET", "/v1/usage/s-1/standing"): {**STANDING, "spend_cap_minor": 10000},
        ("usage_collector", "GET", "/v1/usage/s-1/split"): {"complete_until": None, "rows": []},
        CHARGES: [],
    }
    assert "Spend cap: USD 89.95 of USD 100.00, 89 %; calls go on beyond it" in run("usage", "show", "s-1").stdout.splitlines()


def test_usage_is_shown_with_its_bill_the_basis_of_the_projection_and_how_fresh_it_is(doors: Asked) -> None:
    split = {
        "complete_until": None,
        "rows": [
            {**NOTHING, "method": "GET", "template": "/orders", "meter_id": "calls", "events": 84215, "quantity": 84215},
            {**NOTHING, "outcome": "filtered", "reason": "failed", "meter_id": "", "events": 3, "quantity": 0},
        ],
    }
    doors.answers = {
        ("usage_collector", "GET", "/v1/usage/s-1/standing"): STANDING,
        ("usage_collector", "GET", "/v1/usage/s-1/split"): split,
        CHARGES: [],
    }
    lines = run("usage", "show", "s-1", "--by", "endpoint").stdout.splitlines()
    assert lines[:5] == [
        "standard, period 2027-01-10 to 2027-02-01 (UTC): 84,215 calls",
        "calls: 84,215 of 100,000, 15,785 left until 2027-02-01",
        "Bill so far: USD 89.95, without tax",
        "At this pace: USD 109.95 for 120,000 calls at the period's end (pace since 2027-01-10T12:30 UTC)",
        "As of 2027-01-20T09:00:00 UTC; at most 0.4 s behind the streams",
    ]
    assert any("GET /orders" in line and "84,215" in line for line in lines)
    assert any("filtered: failed" in line for line in lines)
    assert not any("Spend cap" in line for line in lines)
    asked = doors.asked[1][2]
    assert (asked["from"], asked["to"], asked["by"]) == ("2027-01-10T12:30:00+00:00", "2027-01-20T10:00:00+00:00", ["endpoint", "outcome"])


def test_usage_of_an_earlier_period_stands_with_the_period_in_which_it_is_billed(doors: Asked) -> None:
    late = {"description": "Late usage: +500 API calls, 9 January 2027", "currency": "usd", "made_at": "2027-01-10T13:00:00Z"}
    charges = [
        {**late, "amount_minor": 60, "placed": "next_invoice"},
        {**late, "amount_minor": 30, "placed": None},  # not at Stripe yet
        {**late, "amount_minor": 7, "placed": "draft"},  # that of the period it was used in
        {**late, "amount_minor": 0, "placed": None},
        {**late, "amount_minor": 9, "placed": "next_invoice", "made_at": "2027-01-10T12:29:59Z"},  # billed by now
    ]
    doors.answers = {
        ("usage_collector", "GET", "/v1/usage/s-1/standing"): STANDING,
        ("usage_collector", "GET", "/v1/usage/s-1/split"): {"complete_until": None, "rows": []},
        CHARGES: charges,
    }
    lines = run("usage", "show", "s-1").stdout.splitlines()
    assert lines[2:6] == [
        "Bill so far: USD 90.85, without tax; USD 0.90 of it for usage of earlier periods",
        "  Late usage: +500 API calls, 9 January 2027: USD 0.60",
        "  Late usage: +500 API calls, 9 January 2027: USD 0.30",
        "At this pace: USD 110.85 for 120,000 calls at the period's end (pace since 2027-01-10T12:30 UTC)",
    ]
    shown = json.loads(run("usage", "show", "s-1", "--json").stdout)["of_earlier_periods"]
    assert [(one["description"], one["amount_minor"], one["alone"]) for one in shown] == [
        (late["description"], 60, False),
        (late["description"], 30, False),
    ]
    assert doors.asked[3] == ("checkout", "/v1/corrections", {"subscription_id": "s-1", "limit": 1000})


def test_usage_that_came_from_a_source_that_does_not_bill_is_named(doors: Asked) -> None:
    sent = {"origin": "ingest", "outcome": "filtered", "reason": "other_source", "meter_id": "", "distinct": 1200, "events": 1200}
    counted = {**sent, "origin": "stream", "outcome": "counted", "reason": "", "distinct": 5}
    failed = {**counted, "outcome": "filtered", "reason": "failed"}
    doors.answers = {
        ("usage_collector", "GET", "/v1/usage/s-1/standing"): STANDING,
        ("usage_collector", "GET", "/v1/usage/s-1/split"): lambda asked: {
            "complete_until": None,
            "rows": [sent, counted, failed] if "origin" in asked["by"] else [],
        },
        CHARGES: [],
    }
    text = " ".join(run("usage", "show", "s-1").stdout.split())
    assert "! 1,200 events came from a sender over HTTP, which does not bill this product: they count nothing" in text
    assert text.count("they count nothing") == 1


def test_hours_that_are_not_divided_yet_are_named(doors: Asked) -> None:
    doors.answers = {
        ("usage_collector", "GET", "/v1/usage/s-1/standing"): {**STANDING, "projected": None, "quotas": []},
        ("usage_collector", "GET", "/v1/usage/s-1/split"): {"complete_until": "2027-01-20T08:00:00Z", "rows": []},
        CHARGES: [],
    }
    assert "Hours from 2027-01-20T08:00 UTC on are in the totals" in run("usage", "show", "s-1").stdout


def test_rejected_events_can_be_asked_for_by_time(doors: Asked) -> None:
    event = {"at": "2027-01-05T10:20:00Z", "reason": "quantity_too_large", "sid": "s-1", "source": "/shop", "id": "e-7"}
    doors.answers = {("usage_collector", "GET", "/v1/rejected"): {"events": [event], "at_the_door": []}}
    shown = run("usage", "rejected", "--subscription", "s-1", "--from", "2027-01-05", "--to", "2027-01-06").stdout
    assert "too_large" in shown
    assert "at the HTTP door" not in shown  # nothing was
    assert doors.asked[0][2] == {
        "subscription_id": "s-1", "from": "2027-01-05T00:00:00+00:00", "to": "2027-01-06T00:00:00+00:00", "limit": 100,
    }  # fmt: skip


LATE = {
    "subscription_id": "s-1",
    "segment_start": "2027-01-01T00:00:00Z",
    "segment_end": "2027-02-01T00:00:00Z",
    "disposition": "keep",
    "decided_by": None,
    "billed": {"calls": {"quantity": 1200, "events": 7}},
    "waived": {},
    "held_events": 3,
}


def test_late_usage_is_listed_and_decided(doors: Asked) -> None:
    doors.answers = {("usage_collector", "GET", "/v1/late"): [LATE], ("usage_collector", "POST", "/v1/late/decisions"): None}
    listed = run("usage", "late").stdout
    assert "kept" in listed
    assert "1,200" in listed
    decide = ["usage", "late", "--subscription", "s-1", "--segment", "2027-01-01", "--decide", "bill"]
    assert "and --by" in str(run(*decide).exception)
    run(*decide, "--by", "Ada")
    body = {"subscription_id": "s-1", "segment_start": "2027-01-01T00:00:00+00:00", "disposition": "bill", "by": "Ada"}
    assert ("usage_collector", "/v1/late/decisions", body) in doors.asked


def test_no_late_usage_is_said_in_a_sentence(doors: Asked) -> None:
    doors.answers = {("usage_collector", "GET", "/v1/late"): []}
    assert "no usage came after its period was closed" in run("usage", "late").stdout


UNBILLED = {
    "unbilled_id": "u-1", "subscription_id": "s-1", "of_invoice": "ABC-0001", "meter_id": "calls", "billed": 9000, "counted": 10000,
    "amount_minor": 150, "currency": "usd", "disposition": "keep", "decided_by": None, "placed": None, "invoice_id": None, "state": "done",
    "error": None,
}  # fmt: skip


def test_usage_missing_on_final_invoices_is_listed_and_decided(doors: Asked) -> None:
    billed = UNBILLED | {"disposition": "bill", "decided_by": "Ada", "placed": "next_invoice"}
    failed = UNBILLED | {"disposition": "bill", "state": "refused", "error": "card_declined"}
    doors.answers = {
        ("checkout", "GET", "/v1/unbilled"): [UNBILLED, billed, failed],
        ("checkout", "POST", "/v1/unbilled/decisions"): None,
    }
    listed = " ".join(run("usage", "unbilled").stdout.split())
    for words in ("9,000", "10,000", "kept", "1.50"):
        assert words in listed
    assert "and --by" in str(run("usage", "unbilled", "--decide", "bill", "--id", "u-1").exception)
    run("usage", "unbilled", "--decide", "waive", "--id", "u-1", "--by", "Ada")
    assert ("checkout", "/v1/unbilled/decisions", {"unbilled_id": "u-1", "disposition": "waive", "by": "Ada"}) in doors.asked
    assert [_became(one) for one in (UNBILLED, billed, failed)] == ["kept", "billed by Ada: next invoice", "billed, refused: card_declined"]


def test_that_no_invoice_lacks_usage_is_said_in_a_sentence(doors: Asked) -> None:
    doors.answers = {("checkout", "GET", "/v1/unbilled"): []}
    assert "no final invoice lacks usage" in run("usage", "unbilled").stdout


@pytest.mark.parametrize(("command", "what"), [(("usage", "show"), "subscription"), (("explain",), "invoice")])
def test_ids_with_a_slash_are_not_known_and_others_are_quoted(doors: Asked, command: tuple[str, ...], what: str) -> None:
    assert str(run(*command, "a/b?c").exception) == f"{what} 'a/b?c' is not known: no id looks like this."
    assert doors.asked == []
    run(*command, "b?c#d")
    assert "/b%3Fc%23d" in doors.asked[0][1]


def test_a_time_beyond_the_calendar_is_refused_by_its_option(doors: Asked) -> None:
    done = run(*(word if word != "2027-01-05T10:20" else "0001-01-01T00:00:00+05:00" for word in ADJUST))
    assert isinstance(done.exception, CommandError)
    assert str(done.exception).startswith("--at: '0001-01-01T00:00:00+05:00' lies before the year 1")
    assert doors.asked == []
    doors.answers = {("usage_collector", "GET", "/v1/usage/s-1/standing"): STANDING}
    assert str(run("usage", "show", "s-1", "--from", "9999-12-31T23:30").exception).startswith("--from: 9999-12-31")


@pytest.mark.parametrize(("words", "asked"), [((), {}), (("--subscription", "s-1"), {"subscription_id": "s-1"})])
def test_what_stripe_refused_is_sent_again(doors: Asked, words: tuple[str, ...], asked: dict[str, str]) -> None:
    report = ("stripe_reporter", "POST", "/v1/report")
    doors.answers = {report: {"windows": 0, "retried": 1200}}
    assert run("usage", "retry-refused", *words).stdout.startswith("1,200 refused meter events are sent again")
    assert doors.asked == [("stripe_reporter", "/v1/report", {"retry_rejected": True, **asked})]
    doors.answers = {report: {"windows": 3, "retried": 0}}
    assert "refused nothing" in run("usage", "retry-refused", *words).stdout


def test_events_that_wait_are_listed_with_their_reason(doors: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    waiting = {"sid": "s-9", "source": "/g", "reason": "unknown_subscription", "events": 1200}
    times = {"first_at": "2027-01-05T10:20:00Z", "last_at": "2027-01-06T10:20:00Z"}
    doors.answers["usage_collector", "GET", "/v1/held"] = lambda asked: [] if "subscription_id" in asked else [waiting | times]
    text = CliRunner().invoke(app, ["usage", "held"]).stdout
    assert all(word in text for word in ("s-9", "unknown_subscription", "/g", "1,200", "2027-01-05T10:20:00", "2027-01-06T10:20:00"))
    assert "no event waits" in CliRunner().invoke(app, ["usage", "held", "--subscription", "s-1"]).stdout
