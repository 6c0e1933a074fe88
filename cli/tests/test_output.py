"""How tables look to a person at a terminal, and to whatever reads a pipe."""

import pytest

from turnpike_cli.output import print_table

NAME = "f562e805-ee59-54ac-9503-2267e057d4e0"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    print_table("", ["subscription", *(f"station {number}" for number in range(8))], [[NAME, *["1,234,567"] * 8]])
    return capsys.readouterr().out


def test_ids_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert NAME in shown(capsys)


def test_whoever_says_how_wide_a_line_may_be_is_heard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(len(line) for line in shown(capsys).splitlines()) <= 80
