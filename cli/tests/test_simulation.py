"""`simulate`, `upgrade` and `validate` need no stack: files in, figures out."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from turnpike_cli.__main__ import app, main
from turnpike_cli.errors import CommandError

ROOT = Path(__file__).parents[2]
OLDER = ROOT / "docs" / "examples" / "older-form.json"
USAGE = "customer,product,calls\nalpha,payg,12345\nbeta,standard,250_000\ngamma,basic,10\ndelta,enterprise,0\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The catalogue with a dearer payg, a cheaper standard, and enterprise under another id."""
    text = (ROOT / "monetizationModels.json").read_text()
    changed = text.replace('"0.15"', '"0.20"').replace('"89.95"', '"79.95"').replace('"id": "enterprise"', '"id": "corporate"')
    (tmp_path / "other.json").write_text(changed)
    return tmp_path / "other.json"


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    (tmp_path / "usage.csv").write_text(USAGE)
    return tmp_path / "usage.csv"


def test_a_month_is_priced_under_two_catalogues_side_by_side(usage: Path, other: Path) -> None:
    answer = json.loads(run("simulate", usage, "--against", other, "--month", "2026-02", "--json").stdout)
    found = [(entry["customer"], entry["before_minor"], entry["after_minor"], entry["difference_minor"]) for entry in answer["customers"]]
    assert found == [("alpha", 1852, 2469, 617), ("beta", 23_995, 22_995, -1000), ("gamma", 1495, 1495, 0), ("delta", 74_995, None, None)]
    assert "no product" in answer["customers"][3]["reason"]
    assert answer["totals"] == {
        "usd": {"customers": 3, "before_minor": 27_342, "after_minor": 26_959, "pay_more": 1, "pay_less": 1, "unpriced": 1}
    }


def test_people_see_a_table_and_the_sums(usage: Path, other: Path) -> None:
    printed = run("simulate", usage, "--against", other).stdout
    assert "3 customers in USD: USD 273.42 now, USD 269.59 then; 1 pay more, 1 less, 1 cannot be compared" in printed


def test_a_trial_and_a_setup_fee_belong_to_no_simulated_month(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("customer,product,calls\na,partner,20000\n")
    examples = ROOT / "docs" / "examples"
    answer = json.loads(
        run("simulate", file, "--catalogue", examples / "setup-and-limits.json", "--against", examples / "trial.json", "--json").stdout
    )
    assert answer["customers"][0]["before_minor"] == 200_00
    file.write_text("customer,product,calls\na,pro,11000\n")
    answer = json.loads(
        run("simulate", file, "--catalogue", examples / "trial.json", "--against", examples / "trial.json", "--json").stdout
    )
    assert answer["customers"][0]["after_minor"] == 31_00


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("customer,calls\na,1\n", "must name the columns"),
        ("customer,product,calls\na,payg,-1\nb,payg,x\n", "line 3"),
        ("customer,product,calls\na,payg\n", "another number of columns"),
        ("customer,product,calls\n,payg,1\n", "is missing"),
        ("customer,product,calls\na,paygo,1\n", 'Did you mean "payg"'),
        ("customer,product,cals\na,payg,1\n", "has no meter"),
        ("customer,product,calls,currency\na,payg,1,eur\n", "not sold in EUR"),
    ],
)
def test_a_file_that_cannot_be_priced_is_refused_with_its_lines(tmp_path: Path, other: Path, text: str, words: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    error = run("simulate", tmp_path / "bad.csv", "--against", other).exception
    assert isinstance(error, CommandError)
    assert words in str(error)


def test_upgrade_writes_the_present_form_and_never_over_a_file(tmp_path: Path) -> None:
    target = tmp_path / "new.json"
    assert run("catalogue", "upgrade", OLDER, "--to", target).exit_code == 0
    document = json.loads(target.read_text())
    assert document["products"][4] == {
        "id": "standard",
        "name": "Standard",
        "model": "TierWithOverage",
        "price": {"base": "89.95", "usage": [{"meter": "calls", "amount": "0.1", "per": 100, "included": 100_000}]},
    }
    assert "7 products and 1 meter can be sold" in run("catalogue", "validate", "--file", target).stdout
    assert isinstance(run("catalogue", "upgrade", OLDER, "--to", target).exception, CommandError)
    assert run("catalogue", "upgrade", target).stdout == target.read_text()


def test_the_file_may_be_named_without_an_option_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"version": 2}')
    assert isinstance(run("catalogue", "validate", tmp_path / "broken.json").exception, CommandError)
    assert run("catalogue", "validate", OLDER).exit_code == 0
    assert "Name one catalogue" in str(run("catalogue", "validate", OLDER, "--file", OLDER).exception)


def test_what_is_wrong_with_a_file_can_be_had_as_json(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"version": 1,\n"currency": "usb",\n"products": []}')
    answer = run("catalogue", "validate", tmp_path / "broken.json", "--json")
    assert answer.exit_code == 1
    problems = json.loads(answer.stdout)["problems"]
    assert [(problem["path"], problem["line"]) for problem in problems] == [("$.currency", 2), ("$.products", 3)]
    assert 'Did you mean "usd"?' in problems[0]["message"]
    assert problems[0]["allowed"]
    right = run("catalogue", "validate", OLDER, "--json")
    assert (right.exit_code, json.loads(right.stdout)) == (0, {"valid": True, "problems": []})


@pytest.mark.parametrize(("arguments", "code"), [(["catalogue", "plan", "--fil", "x"], 64), (["nonsense"], 64), (["quote", "--help"], 0)])
def test_a_mistyped_command_does_not_end_like_a_plan_with_changes(arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["turnpike", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


def test_the_exit_code_of_a_command_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`validate --json` ends with `typer.Exit`, as `plan` does with its 2."""
    (tmp_path / "broken.json").write_text("[]")
    monkeypatch.setattr("turnpike_cli.catalogue_commands.REFUSED", 2)
    monkeypatch.setattr("sys.argv", ["turnpike", "catalogue", "validate", str(tmp_path / "broken.json"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_the_upgraded_file_names_the_schema_from_where_it_stands(tmp_path: Path) -> None:
    target = tmp_path / "plans.json"
    run("catalogue", "upgrade", OLDER, "--to", target)
    assert (tmp_path / json.loads(target.read_text())["$schema"]).resolve() == ROOT / "contracts" / "monetizationModels.schema.json"


def test_usage_of_a_product_that_is_not_sold_says_which_catalogue_was_asked(other: Path, tmp_path: Path) -> None:
    (tmp_path / "strange.csv").write_text("customer,product,calls\n" + "alpha,corporat,1\n" * 25)
    message = str(run("simulate", tmp_path / "strange.csv", "--against", other).exception)
    assert "as it is (--catalogue names it)" in message
    assert message.endswith("... and 5 more")
