"""`turnpike senders add`, `list` and `revoke`: who may send usage over HTTP."""

import asyncio
import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorRefusedError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SERVICE = "usage_collector"
NAME_MAX, SOURCE_MAX = 100, 200


def _as_name(text: str) -> str:
    if not text.strip() or len(text) > NAME_MAX:
        raise typer.BadParameter(f"say what people call the sender, in at most {NAME_MAX} characters.")
    return text


def _as_source(text: str) -> str:
    if not text or len(text) > SOURCE_MAX or re.search(r"[\s\x00]", text) or text.endswith("/"):
        raise typer.BadParameter(f"1 to {SOURCE_MAX} characters without a blank and without / at the end, e.g. /gateways/orders.")
    return text


Name = Annotated[str, typer.Argument(help="What people call the sender.", callback=_as_name)]
Source = Annotated[
    str,
    typer.Option("--source", help="CloudEvents source it speaks for, with all below it, e.g. /gateways/orders.", callback=_as_source),
]
Only = Annotated[list[str] | None, typer.Option("--subscription", help="A subscription it may name; may be given again; absent: all.")]
Meters = Annotated[
    list[str] | None,
    typer.Option("--meter", help="A meter it may send for; may be given again; absent: all. With it, every event has to name its meter."),
]
SenderId = Annotated[str, typer.Argument(help="Its id, as the list shows it.")]

sender_app = typer.Typer(help="Senders of usage over HTTP and their keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(sender_app, name="senders")


@sender_app.command()
def add(
    name: Name, source: Source, *, subscription: Only = None, meter: Meters = None, data: DataFolder = None, as_json: AsJson = False
) -> None:
    """Make a sender and show its key: only now, Turnpike keeps a hash of it."""
    body = {"name": name, "source": source, "subscriptions": subscription or None, "meters": meter or None}
    made = asyncio.run(_ask(Stack(data), "POST", "/v1/senders", body))
    if as_json:
        print_json(made)
        return
    only = f"only {_only(made['subscriptions'])}" if made["subscriptions"] else "every subscription"
    typer.echo(f"sender {made['id']} for {made['source']} and all below it; it may name {only}")
    if made["meters"]:
        typer.echo(f"it may send only for the meters {_only(made['meters'])}, and every event has to name one (data.meter)")
    typer.echo(f"key {made['key']}\nKeep the key now: it is not shown again.")
    for note in made["notes"]:
        typer.echo(f"! {note}")


@sender_app.command("list")
def list_senders(data: DataFolder = None, as_json: AsJson = False) -> None:
    """List those who may send; a revoked one is not among them."""
    found = asyncio.run(_ask(Stack(data), "GET", "/v1/senders"))["senders"]
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Nobody may send: `turnpike senders add NAME --source SOURCE` makes a sender and its key.")
        return
    rows = [
        [one["id"], one["name"], one["source_prefix"], _only(one["subscriptions"]), _only(one["meters"]), one["created_at"][:10]]
        for one in found
    ]
    print_table("", ["id", "name", "source", "subscriptions", "meters", "since"], rows)
    for one in found:
        for note in one["notes"]:
            typer.echo(f"{one['name']}: {note}")


@sender_app.command()
def revoke(sender: SenderId, data: DataFolder = None) -> None:
    """Refuse a sender's key from now on; within seconds at every instance."""
    try:
        asyncio.run(_ask(Stack(data), "DELETE", f"/v1/senders/{quote(sender, safe='')}"))
    except DoorRefusedError as error:
        raise CommandError(f"{sender}: {error.words}; `turnpike senders list` shows the ids of those who may send.") from None
    typer.echo(f"sender {sender} is revoked: its key is refused within seconds; what it sent before stays counted")


def _only(names: list[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


async def _ask(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    async with Doors(stack) as doors:
        return await doors.ask(SERVICE, method, path, body=body)
