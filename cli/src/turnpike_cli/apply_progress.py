"""An apply while it runs: asked for once, followed step by step by looking at what checkout writes down."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorClosedError

APPLY_SECONDS = 1800.0  # a large catalogue is hundreds of calls to Azure and Stripe
LOOK_SECONDS = 0.25


class Display(Protocol):
    """Shows how far an apply is."""

    def show(self, done: list[str], whole: int) -> None: ...


class _Lines:
    """One line for each step, where nobody looks at a screen."""

    def __init__(self) -> None:
        self._told = 0

    def show(self, done: list[str], whole: int) -> None:
        for number, text in enumerate(done[self._told :], self._told + 1):
            typer.echo(f"  {number:>{len(str(whole))}}/{whole}  {text}")
        self._told = max(self._told, len(done))


class _Bar:
    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("applying", total=None)

    def show(self, done: list[str], whole: int) -> None:
        self._progress.update(self._task, completed=len(done), total=whole, description=done[-1][:70] if done else "applying")


class _Nothing:
    def show(self, done: list[str], whole: int) -> None:
        """Print nothing: the answer is wanted alone."""


@contextmanager
def _display(*, quiet: bool) -> Iterator[Display]:
    if quiet:
        yield _Nothing()
    elif sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        with Progress(BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}"), transient=True) as progress:
            yield _Bar(progress)
    else:
        yield _Lines()


async def followed(doors: Doors, path: str, *, body: Any, plan: str, by: str, quiet: bool) -> dict[str, Any]:
    """Ask for an apply and show its steps until it has ended; return checkout's answer."""
    asked = asyncio.create_task(
        doors.ask("checkout", "POST", path, body=body, params={"plan": plan, "by": by}, timeout_seconds=APPLY_SECONDS)
    )
    seen: dict[str, Any] = {}
    try:
        with _display(quiet=quiet) as display:
            while not asked.done():
                await asyncio.wait({asked}, timeout=LOOK_SECONDS)
                seen = await _look(doors, plan) or seen
                if seen:
                    display.show(seen["done"], len(seen["done"]) + len(seen["remaining"]))
            answer: dict[str, Any] = await asked
            display.show(answer["done"], len(answer["done"]))
    except DoorClosedError as error:
        raise CommandError("\n".join([str(error), *_as_last_seen(seen)])) from error
    finally:
        asked.cancel()
    return answer


async def _look(doors: Doors, plan: str) -> dict[str, Any] | None:
    """Return the running apply of this plan; None before it begins, after it has ended, or when nobody answers."""
    try:
        found: dict[str, Any] = await doors.ask("checkout", "GET", "/v1/catalogue/apply")
    except CommandError:
        return None
    return found if found["plan"] == plan and found["state"] == "running" else None


def _as_last_seen(seen: dict[str, Any]) -> list[str]:
    if not seen:
        return ["No step was seen to be done. Run the same command again when checkout is back: it does what is left."]
    whole = len(seen["done"]) + len(seen["remaining"])
    return [
        f"{len(seen['done'])} of {whole} steps were done when it was last heard of; the next was: {(seen['remaining'] or ['none'])[0]}",
        "Run the same command again when checkout is back: it finds what is done and does what is left.",
    ]
