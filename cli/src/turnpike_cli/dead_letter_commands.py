"""`turnpike dlq list`, `show` and `requeue`: what no retry could help, over all services."""

import asyncio
from typing import Annotated, Any

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorClosedError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.parts import SERVICE_NAMES
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

PAGE = 200
Service = Annotated[str | None, typer.Option("--service", help="Only this service's.")]
LetterId = Annotated[str, typer.Argument(help="SERVICE/ID, as the list shows it.")]

dead_letter_app = typer.Typer(help="Dead letters: records that were set aside because no retry can help.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(dead_letter_app, name="dlq")


@dead_letter_app.command("list")
def list_letters(service: Service = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """List dead letters, newest first."""
    letters = asyncio.run(_list(Stack(data), service))
    if as_json:
        print_json(letters)
        return
    rows = [[letter["id"], letter["topic"], letter["key"], f"{letter['error']}: {letter['message']}", _state(letter)] for letter in letters]
    print_table("", ["id", "topic", "key", "cause", "state"], rows)


async def _list(stack: Stack, service: str | None) -> list[dict[str, Any]]:
    if service is not None:
        _check(service)
    found = []
    async with Doors(stack) as doors:
        for name in [service] if service else SERVICE_NAMES:
            try:
                answer = await doors.ask(name, "GET", "/dead-letters", params={"limit": PAGE})
            except DoorClosedError as error:
                typer.echo(str(error), err=True)  # one that is down must not hide the others
                continue
            found += [letter | {"id": f"{name}/{letter['id']}", "service": name} for letter in answer["dead_letters"]]
    return found


@dead_letter_app.command()
def show(letter: LetterId, data: DataFolder = None) -> None:
    """Show one with its headers and its original record."""
    service, letter_id = _split(letter)
    print_json(asyncio.run(_ask(Stack(data), service, "GET", f"/dead-letters/{letter_id}")))


@dead_letter_app.command()
def requeue(
    letters: Annotated[list[str] | None, typer.Argument(help="SERVICE/ID, as the list shows it; several are allowed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not sent again yet.")] = False,
    service: Service = None,
    data: DataFolder = None,
) -> None:
    """Send dead letters again to the topics they came from."""
    stack = Stack(data)
    chosen = list(letters or [])
    if everything == bool(chosen):
        raise CommandError("Name the dead letters, or say --all.")
    if everything:
        chosen = [letter["id"] for letter in asyncio.run(_list(stack, service)) if not letter["requeued"]]
    for letter in chosen:
        name, letter_id = _split(letter)
        answer = asyncio.run(_ask(stack, name, "POST", f"/dead-letters/{letter_id}/requeue"))
        typer.echo(f"{letter} was sent again to {answer['topic']}")
    if not chosen:
        typer.echo("there is none")


async def _ask(stack: Stack, service: str, method: str, path: str) -> Any:
    async with Doors(stack) as doors:
        return await doors.ask(service, method, path)


def _split(letter: str) -> tuple[str, str]:
    service, _, letter_id = letter.partition("/")
    if not letter_id.replace("-", "").isdigit():
        raise CommandError(f"{letter!r} names no dead letter; `turnpike dlq list` shows their ids.")
    _check(service)
    return service, letter_id


def _check(service: str) -> None:
    if service not in SERVICE_NAMES:
        raise CommandError(f"There is no service {service}; there are {', '.join(SERVICE_NAMES)}.")


def _state(letter: dict[str, Any]) -> str:
    return "sent again" if letter["requeued"] else "waiting"
