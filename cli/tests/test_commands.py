"""What the command prints and how it ends, against the shared stack."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import Result

from billing_common import quoting
from billing_common.catalogue import Catalogue
from embedded_servers import places
from turnpike_cli.errors import CommandError
from turnpike_cli.stack import Stack

Run = Callable[..., Result]


def test_status_names_address_pid_and_health_of_each_part_and_how_an_sdk_reaches_the_sandbox(run: Run, stack: Stack) -> None:
    answer = run("status", "--json")
    document = json.loads(answer.stdout)
    assert (answer.exit_code, document["ready"]) == (0, True)
    kafka = next(part for part in document["parts"] if part["name"] == "kafka")
    assert kafka["addresses"]["client"] == f"127.0.0.1:{stack.state.ports['kafka']['client']}"
    assert document["sandbox"]["stripe"]["api_key"] == stack.secrets.stripe_api_key
    assert Path(document["sandbox"]["apim"]["ca_file"]).exists()


def test_status_ends_with_1_when_a_part_is_not_ready(run: Run, stack: Stack) -> None:
    stack.kill("checkout")
    try:
        answer = run("status")
        assert answer.exit_code == 1
        assert "died" in answer.stdout
    finally:
        stack.start()


def test_logs_prints_what_the_process_wrote(run: Run) -> None:
    assert "checkout serves" in run("logs", "checkout").stdout
    assert isinstance(run("logs", "chekout").exception, CommandError)


def test_up_on_a_running_stack_says_so_and_where_everything_is(run: Run, stack: Stack) -> None:
    answer = run("up")
    assert "everything ran already" in answer.stdout
    assert stack.addresses()["delegation_gateway"]["http"] in answer.stdout


def test_the_clock_moves_everybody(run: Run, stack: Stack) -> None:
    before = json.loads(run("clock", "show", "--json").stdout)
    answer = run("clock", "advance", "--by", "1d12h")
    assert answer.exit_code == 0, answer.exception
    after = json.loads(run("clock", "show", "--json").stdout)
    assert after["offset_seconds"] - before["offset_seconds"] == pytest.approx(36 * 3600, abs=2)
    expected = datetime.now(UTC) + timedelta(seconds=after["offset_seconds"])
    assert len(after["processes"]) == 8
    for process in after["processes"]:
        assert datetime.fromisoformat(process["now"]) - expected < timedelta(seconds=10)


def test_the_clock_wants_one_of_two_options(run: Run) -> None:
    assert isinstance(run("clock", "advance").exception, CommandError)
    assert isinstance(run("clock", "advance", "--by", "1d", "--to", "2030-01-01").exception, CommandError)


def test_dead_letters_of_all_services_are_listed_shown_and_sent_again(run: Run) -> None:
    assert [letter["id"] for letter in json.loads(run("dlq", "list", "--json").stdout)] == ["checkout/0-1"]
    assert json.loads(run("dlq", "show", "checkout/0-1").stdout)["value"] == "{"
    assert run("dlq", "requeue", "checkout/0-1").stdout == "checkout/0-1 was sent again to account.registered\n"
    assert run("dlq", "requeue", "--all").stdout == "checkout/0-1 was sent again to account.registered\n"


@pytest.mark.parametrize("letter", ["0-1", "checkout/", "checkout/../status", "nobody/0-1"])
def test_an_id_that_names_no_dead_letter_is_refused_before_anything_is_asked(run: Run, letter: str) -> None:
    assert isinstance(run("dlq", "show", letter).exception, CommandError)


def test_a_service_that_is_down_does_not_hide_the_dead_letters_of_others(run: Run, stack: Stack) -> None:
    stack.kill("stripe_reporter")
    try:
        answer = run("dlq", "list", "--json")
        assert "checkout/0-1" in answer.stdout
        assert "stripe_reporter does not answer" in answer.stderr
    finally:
        stack.start()


def test_plan_ends_with_2_on_changes_and_apply_does_just_that_plan(run: Run) -> None:
    plan = run("catalogue", "plan")
    assert plan.exit_code == 2
    assert "7 changes at Stripe and API Management" in plan.stdout
    done = run("catalogue", "apply").stdout
    assert "5/7  stripe: create product standard\n" in done
    assert done.endswith("catalogue version 1 is applied\n")
    assert "as it was before" in run("catalogue", "apply", "--plan", "ffffffffffffffff").stdout


@pytest.mark.parametrize(
    ("product", "calls", "total"),
    [("standard", 128_000, 89_95 + 28_00), ("payg", 1000, 150), ("developer", 100, 0), ("enterprise", 2_000_000, 2 * 749_95)],
)
def test_a_quote_is_what_the_catalogue_says_to_the_cent(run: Run, product: str, calls: int, total: int) -> None:
    answer = json.loads(run("quote", "--product", product, "--calls", str(calls), "--json").stdout)
    assert (answer["currency"], answer["total_minor"]) == ("usd", total)
    assert sum(line["amount_minor"] for line in answer["lines"]) == total


def test_a_start_in_the_middle_of_the_month_prorates_the_base_fee(run: Run) -> None:
    answer = json.loads(run("quote", "--product", "basic", "--calls", "0", "--from", "2026-11-16", "--json").stdout)
    assert answer["total_minor"] == round(1495 / 2)


def test_a_quote_of_the_command_is_that_of_the_http_door(run: Run) -> None:
    catalogue = Catalogue.parse((places.checkout() / "monetizationModels.json").read_text())
    start, end = datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)
    asked = quoting.Question("pro", {"calls": 600_000}, start=start, end=end, currency="usd")
    options = ("--meter", "calls=600000", "--from", "2026-11-16", "--to", "2026-11-20", "--currency", "USD")
    answer = json.loads(run("quote", "--product", "pro", *options, "--json").stdout)
    assert answer == quoting.quote(catalogue, asked, now=start).public()  # checkout's test compares its answer with the same


def test_a_trial_is_quoted_free_and_said_to_be(run: Run) -> None:
    file = str(places.checkout() / "docs" / "examples" / "trial.json")
    said = run("quote", "--file", file, "--product", "pro", "--calls", "5", "--from", "2026-11-16").stdout
    assert "USD 0.00" in said
    assert "Free until 2026-11-30. Ask without --from for a period that is paid for.\n" in said
    assert "USD 29.00" in run("quote", "--file", file, "--product", "pro", "--calls", "5").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--product", "standrad", "--calls", "1"),
        ("--product", "standard", "--calls", "1" + 15 * "0" + "1"),
        ("--product", "standard", "--calls", "1", "--meter", "calls=1"),
        ("--product", "standard", "--meter", "calls=-1"),
        ("--product", "standard", "--meter", "pages=1"),
        ("--product", "standard", "--calls", "1", "--currency", "xxx"),
        ("--product", "standard", "--calls", "1", "--from", "2026-11-16", "--to", "2027-11-16"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_one_sentence(run: Run, arguments: tuple[str, ...]) -> None:
    error = run("quote", *arguments).exception
    assert isinstance(error, CommandError)
    assert "\n" not in str(error)


def test_a_broken_catalogue_is_told_with_line_and_remedy(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text('{"version": 1,\n "products": [{"id": "a", "name": "A",\n "pricng": {}}]}')
    error = run("catalogue", "validate", "--file", str(file)).exception
    assert isinstance(error, CommandError)
    assert "line 3" in str(error)
    assert isinstance(run("catalogue", "validate", "--file", str(tmp_path / "none.json")).exception, CommandError)


def test_an_error_is_a_sentence_on_stderr_and_never_a_stack_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turnpike_cli", "clock", "show", "--data", str(tmp_path / "empty")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The stack was never started here; run `turnpike up`.\n"
