"""A stack whose Kafka and Postgres are real and whose other processes are small stand-ins, shared by the tests of this member."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from turnpike_cli.__main__ import app
from turnpike_cli.parts import Part
from turnpike_cli.stack import Stack

FAKE_PART = Path(__file__).parent / "fake_part.py"


class FakeStack(Stack):
    def _command(self, part: Part) -> list[str]:
        return [sys.executable, "-S", "-E", str(FAKE_PART), part.name]

    def _launch_all(self, parts: list[Part]) -> None:
        for part in parts:
            self._launch(part)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="turnpike-stack-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def stack(folder: Path) -> Iterator[FakeStack]:
    """Started once; a test that stops something starts it again."""
    stack = FakeStack(folder, fast=True)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def run(stack: FakeStack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command against the shared stack."""
    monkeypatch.setenv("TURNPIKE_HOME", str(folder))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))
