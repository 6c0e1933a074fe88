"""One running stack for all integration tests of this folder, and the services' last words when one fails."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_system import World, living, reserve_ports

from turnpike_cli.parts import PARTS
from turnpike_cli.stack import Stack

LINES_SHOWN = 12
WIDTH = 400
TELLING = ("Unexpected error", "stood still", "Kafka error occurred")
FOLDER = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """A whole stack in a folder of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="turnpike-integration-"))
    folder.chmod(0o755)  # Postgres runs as another user under root
    pytestconfig.stash[FOLDER] = folder
    reserve_ports(folder)
    running = Stack(folder, fast=True)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def world(stack: Stack) -> AsyncIterator[World]:
    """The stack of all tests, ready to be lived in."""
    async with living(stack) as world:
        yield world


@pytest.fixture(autouse=True)
async def _everything_in_order(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Leave the stack to the next test as it was found: all parts up, no fault set, webhooks as usual."""
    yield
    if "world" not in request.fixturenames:
        return
    world: World = request.getfixturevalue("world")
    await world.revive()
    await world.webhooks()
    for sandbox in ("sandbox_stripe", "sandbox_apim"):
        await world.doors.ask(sandbox, "DELETE", "/_sandbox/faults")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the end of every log of the stack beside a failure."""
    report = yield
    folder = item.config.stash.get(FOLDER, None)
    if report.failed and folder is not None and "stack" in getattr(item, "fixturenames", ()):
        for name in (part.name for part in PARTS):
            log = folder / "logs" / f"{name}.log"
            lines = [line[:WIDTH] for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
            telling = [line for line in lines if any(word in line for word in TELLING)]
            report.sections.append((f"log of {name}", "\n".join([*telling[-LINES_SHOWN:], "...", *lines[-LINES_SHOWN:]])))
    return report
