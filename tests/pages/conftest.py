"""One stack, one browser and one look at all pages, shared by the tests of this folder."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

sys.path.insert(0, str(Path(__file__).parent))  # tools/screenshots.py uses the same modules

import browser as browsers
from inspection import Findings, inspect
from scene import Scene, play
from views import all_views

from turnpike_cli.stack import Stack

DAYS = 2  # of usage: enough for a chart
AT_ONCE = 3


@pytest.fixture(scope="session")
def program() -> Path:
    found = browsers.find()
    if found is None:
        if browsers.required():
            pytest.fail(browsers.NO_BROWSER)
        pytest.skip(browsers.NO_BROWSER)
    return found


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="turnpike-pages-") as name:
        Path(name).chmod(0o711)  # Postgres runs as another user where the tests run as root
        yield Path(name)


@pytest.fixture(scope="session")
async def chromium(program: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox"],
            env=browsers.environment(program),  # type: ignore[arg-type]
        )
        yield started
        await started.close()


@pytest.fixture(scope="session")
async def scene(program: Path, folder: Path) -> AsyncIterator[Scene]:
    """The stack is only started where there is a browser to look at it."""
    stack = Stack(folder, fast=True)
    try:
        await asyncio.to_thread(stack.start)
        async with play(stack, DAYS) as built:
            yield built
    finally:
        await asyncio.to_thread(stack.stop)


@pytest.fixture(scope="session")
async def findings(scene: Scene, chromium: Browser) -> Findings:
    """Look at every page once."""
    found, axe, gate = Findings(), browsers.axe(), asyncio.Semaphore(AT_ONCE)
    cookies = {name: person.cookies() for name, person in scene.people.items()}

    async def look(view: object) -> None:
        async with gate:
            await inspect(chromium, view, cookies.get(view.person, []), axe, found)  # type: ignore[attr-defined,arg-type]

    await asyncio.gather(*(look(view) for view in await all_views(scene)))
    return found
