"""`turnpike catalogue plan`, `apply`, `drift`, `show` and `history`: fronts of checkout's doors."""

import asyncio
import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from turnpike_cli import catalogue_view, migration_commands
from turnpike_cli.apply_progress import followed
from turnpike_cli.catalogue_commands import Models, Named, chosen, path_of, read_text
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorRefusedError
from turnpike_cli.migration_commands import Migrate, When
from turnpike_cli.output import print_json
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

PLAN_SECONDS = 120.0  # dozens of reads at Azure and Stripe
BY_MAX = 100
CHANGES = 2  # the exit code of "something is not as it should be"
BROKEN_FILE = {"invalid_catalogue", "still_subscribed"}


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command("apply")(apply_catalogue)
    app.command()(drift)
    app.command()(show)
    app.command()(history)
    migration_commands.register(app)


def plan(named: Named = None, file: Models = None, data: DataFolder = None, as_json: AsJson = False) -> None:
    """Show what `apply` would change and what it means for subscribers; exit code 0 for nothing, 2 for changes, 1 for an error."""
    answer = asyncio.run(_plan(Stack(data), chosen(named, file)))
    if as_json:
        print_json(answer)
    else:
        _print(catalogue_view.plan(answer))
    if answer["changes"]:
        raise typer.Exit(CHANGES)


def apply_catalogue(
    named: Named = None,
    *,
    file: Models = None,
    agreed: Annotated[
        str | None, typer.Option("--plan", help="Do this plan and no other: the code that `plan` or `drift` printed.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put back what was changed by hand since the last apply; needs no file.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="Who applies it, for the history; your user name when absent.")] = None,
    migrate: Migrate = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Bring API Management and Stripe to what the file says; running again finishes what was interrupted."""
    file = chosen(named, file)
    if repair and file is not None:
        raise CommandError("--repair goes back to the applied version: it takes no --file. To apply a file, leave out --repair.")
    if repair and migrate is not None:
        raise CommandError("--repair changes no price: it takes no --migrate.")
    answer = asyncio.run(_apply(Stack(data), file, agreed, repair=repair, by=by or user_name(), migrate=migrate, quiet=as_json))
    if as_json:
        print_json(answer)
    elif repair and not answer["new_version"]:
        typer.echo(f"everything is as catalogue version {answer['version']} says")
    else:
        typer.echo(f"catalogue version {answer['version']} is applied{'' if answer['new_version'] else ', as it was before'}")
        if "migration" in answer:
            _print(migration_commands.lines_of(answer["migration"], begun=True))


async def _apply(
    stack: Stack, file: Path | None, agreed: str | None, *, repair: bool, by: str, migrate: When | None, quiet: bool
) -> dict[str, Any]:
    """Show what will happen, then do it; subscribers move when the new prices are there."""
    async with Doors(stack) as doors:
        if agreed is None:
            shown = await _ask(doors, "GET", "/v1/catalogue/drift") if repair else await _ask_plan(doors, file)
            agreed = str(shown["plan"])
            if not quiet:
                _print(catalogue_view.drift(shown) if repair else catalogue_view.plan(shown))
        if migrate is not None and not quiet:
            _print(migration_commands.lines_of(await migration_commands.planned(doors, migrate, read_text(file)), begun=False))
        path = "/v1/catalogue/repair" if repair else "/v1/catalogue/apply"
        body = None if repair else {"text": read_text(file)}
        try:
            answer = await followed(doors, path, body=body, plan=agreed, by=by, quiet=quiet)
        except DoorRefusedError as error:
            raise _refused(error, file) from error
        return answer if migrate is None else {**answer, "migration": await migration_commands.started(doors, migrate)}


def drift(data: DataFolder = None, as_json: AsJson = False) -> None:
    """Show what was changed by hand at API Management or Stripe since the last apply; exit code 0 for nothing, 2 for drift."""
    answer = asyncio.run(_get(Stack(data), "/v1/catalogue/drift"))
    if as_json:
        print_json(answer)
    else:
        _print(catalogue_view.drift(answer))
    if answer["drift"]:
        raise typer.Exit(CHANGES)


def show(
    version: Annotated[int | None, typer.Option(min=1, help="An earlier version; the latest when absent.")] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show an applied catalogue: what is sold at what price, and the ids at Stripe."""
    answer = asyncio.run(_get(Stack(data), "/v1/catalogue", {"version": version} if version else None))
    if as_json:
        print_json(answer)
    else:
        _print(catalogue_view.show(answer))


def history(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many versions, newest first.")] = 20,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """List the applied versions: who, when, what changed, which ids came into being."""
    answer = asyncio.run(_get(Stack(data), "/v1/catalogue/history", {"limit": limit}))
    if as_json:
        print_json(answer)
    else:
        _print(catalogue_view.history(answer))


def user_name() -> str:
    """Return who sits at the command; a container may have a user without a name."""
    try:
        return getpass.getuser()[:BY_MAX]
    except (KeyError, OSError):
        return "turnpike"


def _print(lines: list[str]) -> None:
    typer.echo("\n".join(lines))


async def _plan(stack: Stack, file: Path | None) -> dict[str, Any]:
    async with Doors(stack) as doors:
        return await _ask_plan(doors, file)


async def _ask_plan(doors: Doors, file: Path | None) -> dict[str, Any]:
    try:
        return await _ask(doors, "POST", "/v1/catalogue/plan", {"text": read_text(file)})
    except DoorRefusedError as error:
        raise _refused(error, file) from error


async def _get(stack: Stack, path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    async with Doors(stack) as doors:
        return await _ask(doors, "GET", path, params=params)


async def _ask(doors: Doors, method: str, path: str, body: Any = None, params: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await doors.ask("checkout", method, path, body=body, params=params, timeout_seconds=PLAN_SECONDS)
    except DoorRefusedError as error:
        raise error if error.code in BROKEN_FILE else CommandError(_sentence(error)) from error
    return answer


def _refused(error: DoorRefusedError, file: Path | None) -> CommandError:
    """Return checkout's words, with the file where it is the file's fault."""
    if error.code in BROKEN_FILE:
        return CommandError(f"{path_of(file)}: {error.words}")
    return CommandError("\n".join([_sentence(error), *catalogue_view.stopped(error.content)]))


def _sentence(error: DoorRefusedError) -> str:
    return f"{error.words[:1].upper()}{error.words[1:]}."
