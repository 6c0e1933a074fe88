"""`docs/how-to/write-a-catalogue.md`, followed word for word."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turnpike_cli.__main__ import app
from turnpike_cli.errors import CommandError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "write-a-catalogue.md").read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^ *```{kind}\n(.*?)^ *```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return ["".join(f"{line[3:]}\n" for line in block.splitlines()) for block in found]


def printed(command: str) -> str:
    name, *arguments = shlex.split(command)
    assert name == "turnpike"
    answer = CliRunner().invoke(app, arguments)
    if isinstance(answer.exception, CommandError):
        return f"{answer.exception}\n"
    assert answer.exit_code == 0, answer.exception
    return answer.stdout


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("plans.json").write_text(blocks("json")[0])
    Path("dearer.json").write_text(blocks("json")[0].replace('"base": "49"', '"base": "59"'))
    Path("usage.csv").write_text(blocks("csv")[0])


def test_every_command_prints_what_the_page_says() -> None:
    validate, quote, simulate = [block.partition("\n") for block in blocks("console")]
    assert printed(validate[0].removeprefix("$ ")) == validate[2]
    assert re.search(r"total.*USD 127\.00", printed(quote[0].removeprefix("$ ")))
    assert re.search(r"beta.*USD 49\.00.*USD 59\.00.*\+USD 10\.00", printed(simulate[0].removeprefix("$ ")))


def test_the_mistakes_are_told_as_the_page_says() -> None:
    Path("plans.json").write_text(blocks("json")[0].replace('"meter": "calls"', '"meter": "cals"'))
    assert printed("turnpike catalogue validate --file plans.json") == blocks("text")[0]
