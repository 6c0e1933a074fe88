"""`turnpike demo`: starts the stack, plays the story through its doors, and stays up for a person to look around."""

import asyncio
import contextlib
import time
from typing import Annotated

import httpx
import typer
from rich.console import Console

from embedded_servers import places
from turnpike_cli.catalogue_commands import MODELS_FILE
from turnpike_cli.errors import CommandError
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import DataFolder, print_addresses

WIDTH = 150


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    *,
    leave: Annotated[bool, typer.Option("--exit", help="Stop everything after the story.")] = False,
    data: DataFolder = None,
) -> None:
    """Play the whole story on real Kafka and Postgres, from sign-up to invoice, suspension and return; exit code 1 if a check fails."""
    started = time.monotonic()
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    stack = Stack(data, say=lambda text: console.print(f"  [dim]{time.monotonic() - started:5.1f} s[/dim]  {text}"))
    failed, last_line = True, ""
    try:
        stack.start()
        print_addresses(stack)
        failed, last_line = asyncio.run(_play(stack, console, started))
        if not leave:
            console.print(f"\n{last_line}")
            _stay(console)
    finally:
        stack.stop()
    if leave:
        console.print(f"\n{last_line}")  # the very last line, after everything has stopped: what reads the output looks there
    raise typer.Exit(1 if failed else 0)


async def _play(stack: Stack, console: Console, started: float) -> tuple[bool, str]:
    """Play all chapters; returns whether anything failed, and the line that sums it up."""
    from turnpike_cli.clock import BusinessTime  # these import Stripe's SDK and lxml: only where the story is played
    from turnpike_cli.doors import Doors
    from turnpike_cli.story.browser import StoryError
    from turnpike_cli.story.checks import Checks
    from turnpike_cli.story.people import Places
    from turnpike_cli.story.script import Story
    from turnpike_cli.story.stripe_view import StripeView

    checks = Checks(console, started=started)
    addresses = stack.addresses()
    spots = Places(
        portal=addresses["sandbox_apim"]["portal"],
        gateway=addresses["sandbox_apim"]["gateway"],
        turnpike=addresses["delegation_gateway"]["http"],
        ingest=addresses["usage_collector"]["http"],
    )
    async with Doors(stack) as doors, httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=32)) as client:
        story = Story(
            places=spots,
            doors=doors,
            clock=BusinessTime(doors),
            stripe=StripeView.connect(addresses["sandbox_stripe"]["http"], stack.secrets.stripe_api_key),
            checks=checks,
            catalogue=places.checkout() / MODELS_FILE,
            folder=stack.folder,
            http=client,
        )
        try:
            await story.play()
        except (StoryError, CommandError, LookupError, TimeoutError, httpx.HTTPError) as error:
            checks.check("the story could be told to its end", held=False, detail=f"{type(error).__name__}: {error}")
        finally:
            await story.stripe.close()
    return checks.failed > 0, checks.last_line()


def _stay(console: Console) -> None:
    console.print("Everything stays up for you to look around; Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)  # a person decides when to leave
