"""`turnpike usage rejected`: usage that was not taken, and why."""

import asyncio
from typing import Annotated, Any

import typer

from turnpike_cli import correction_commands
from turnpike_cli.doors import Doors
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

Subscription = Annotated[str | None, typer.Option("--subscription", help="Only this subscription's.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many of each list, newest first.")]

usage_app = typer.Typer(help="Usage: what was counted and what was not.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    correction_commands.register(usage_app)
    app.add_typer(usage_app, name="usage")


@usage_app.callback()
def usage() -> None:
    """Usage: what was counted and what was not."""


@usage_app.command()
def rejected(subscription: Subscription = None, limit: Limit = 100, data: DataFolder = None, as_json: AsJson = False) -> None:
    """List rejected events of the last 30 days, and what the HTTP door refused."""
    found = asyncio.run(_rejected(Stack(data), subscription, limit))
    if as_json:
        print_json(found)
        return
    if not found["events"] and not found["at_the_door"]:
        typer.echo("nothing was rejected in the last 30 days")
        return
    events = [[one["at"], one["reason"], one["sid"], one["source"], one["id"]] for one in found["events"]]
    print_table("Rejected events", ["time", "reason", "subscription or sid", "source", "id"], events)
    refused = [
        [one["last_at"], one["reason"], one["subscription_id"], one["sender"] or one["sender_id"], str(one["events"])]
        for one in found["at_the_door"]
    ]
    print_table("Refused at the HTTP door", ["last", "reason", "subscription", "sender", "events"], refused)


async def _rejected(stack: Stack, subscription: str | None, limit: int) -> dict[str, Any]:
    params = {"limit": limit, **({"subscription_id": subscription} if subscription else {})}
    async with Doors(stack) as doors:
        answer: dict[str, Any] = await doors.ask("usage_collector", "GET", "/v1/rejected", params=params)
    return answer
