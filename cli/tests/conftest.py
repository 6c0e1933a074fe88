"""A stack whose Kafka and Postgres are real and whose other processes are small stand-ins, shared by the tests of this member."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnpike_cli import parts
from turnpike_cli.stack import Stack

FAKE_PART = Path(__file__).parent / "fake_part.py"


class FakeStack(Stack):
    def _command(self, part: parts.Part) -> list[str]:
        return [sys.executable, "-S", "-E", str(FAKE_PART), part.name]


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
