"""`turnpike senders add`, `list` and `revoke`: who may send usage over HTTP."""

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SERVICE = "usage_collector"
Name = Annotated[str, typer.Argument(help="What people call the sender.")]
Source = Annotated[str, typer.Option("--source", help="CloudEvents source it speaks for, with all below it, e.g. /gateways/orders.")]
Only = Annotated[list[str] | None, typer.Option("--subscription", help="A subscription it may name; may be given again; absent: all.")]
SenderId = Annotated[str, typer.Argument(help="Its id, as the list shows it.")]

sender_app = typer.Typer(help="Senders of usage over HTTP and their keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(sender_app, name="senders")


@sender_app.command()
def add(name: Name, source: Source, subscription: Only = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Make a sender and show its key: only now, Turnpike keeps a hash of it."""
    made = asyncio.run(_ask(Stack(data), "POST", "/v1/senders", {"name": name, "source": source, "subscriptions": subscription or None}))
    if as_json:
        print_json(made)
        return
    typer.echo(f"sender {made['id']} for {made['source']}\nkey {made['key']}\nKeep the key now: it is not shown again.")


@sender_app.command("list")
def list_senders(data: DataFolder = None, as_json: AsJson = False) -> None:
    """List senders."""
    found = asyncio.run(_ask(Stack(data), "GET", "/v1/senders"))["senders"]
    if as_json:
        print_json(found)
        return
    rows = [[one["id"], one["name"], one["source_prefix"], _only(one["subscriptions"]), one["created_by"]] for one in found]
    print_table("", ["id", "name", "source", "subscriptions", "made by"], rows)


@sender_app.command()
def revoke(sender: SenderId, data: DataFolder = None) -> None:
    """Refuse a sender's key from now on; within seconds at every instance."""
    asyncio.run(_ask(Stack(data), "DELETE", f"/v1/senders/{quote(sender, safe='')}"))
    typer.echo(f"sender {sender} is revoked")


def _only(subscriptions: list[str] | None) -> str:
    return "all" if subscriptions is None else ", ".join(subscriptions)


async def _ask(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    async with Doors(stack) as doors:
        return await doors.ask(SERVICE, method, path, body=body)
