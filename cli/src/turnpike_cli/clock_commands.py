"""`turnpike clock show` and `turnpike clock advance`."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from turnpike_cli.clock import BusinessTime, Step
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError, DoorClosedError
from turnpike_cli.output import print_json, progress
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

clock_app = typer.Typer(help="Show and move the business clock of the sandbox and everything that follows it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(clock_app, name="clock")


@clock_app.command()
def show(data: DataFolder = None, as_json: AsJson = False) -> None:
    """Show the business time, and what each process waits for and is due to do."""
    asyncio.run(_show(Stack(data), as_json))


async def _show(stack: Stack, as_json: bool) -> None:
    async with Doors(stack) as doors:
        clock = BusinessTime(doors)
        now, offset = await clock.now(), await clock.offset()
        statuses = await asyncio.gather(*(_status(doors, name) for name in doors.names))
    if as_json:
        print_json({"now": now, "offset_seconds": offset.total_seconds(), "processes": statuses})
        return
    typer.echo(f"{now:%Y-%m-%d %H:%M:%S} UTC, {offset} ahead of the wall clock")
    for status in statuses:
        waiting = "; ".join(status["waiting_for"]) or "settled"
        typer.echo(f"  {status['service']:<24}{waiting}{', next due ' + status['next_due'] if status['next_due'] else ''}")


async def _status(doors: Doors, name: str) -> dict[str, Any]:
    try:
        return await doors.status(name)
    except DoorClosedError as error:
        return {"service": name, "settled": False, "waiting_for": [str(error)], "next_due": None}


@clock_app.command()
def advance(
    to: Annotated[str | None, typer.Option(help="A date or time in UTC: 2026-12-01 or 2026-12-01T06:00:00Z.")] = None,
    by: Annotated[str | None, typer.Option(help="A duration: 90s, 30m, 12h, 3d, 2w, or several: 1d12h.")] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Move the clock forward, from one due transition to the next, waiting at each until all is settled."""
    if (to is None) == (by is None):
        raise CommandError("Say either --to TIME or --by DURATION.")
    asyncio.run(_advance(Stack(data), parse_moment(to, "--to") if to else parse_duration(by or ""), as_json))


async def _advance(stack: Stack, target: datetime | timedelta, as_json: bool) -> None:
    say = progress()

    def on_step(step: Step) -> None:
        if not as_json:
            say(f"{step.at:%Y-%m-%d %H:%M:%S}  {step.cause} ({step.seconds:.2f} s to settle)")

    async with Doors(stack) as doors:
        clock = BusinessTime(doors)
        moment = target if isinstance(target, datetime) else await clock.now() + target
        steps = await clock.advance_to(moment, on_step=on_step)
    if as_json:
        print_json([{"at": step.at, "cause": step.cause, "seconds": round(step.seconds, 3)} for step in steps])


def parse_moment(text: str, option: str = "") -> datetime:
    """Read a date or time; without a zone it is UTC. `option` names where it was written."""
    where = f"{option}: " if option else ""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except ValueError as error:
        raise CommandError(f"{where}{text!r} is no time; write 2026-12-01 or 2026-12-01T06:00:00Z.") from error
    except OverflowError as error:
        raise CommandError(f"{where}{text!r} lies before the year 1 or after the year 9999 in UTC.") from error


def parse_duration(text: str) -> timedelta:
    """Read `90s`, `30m`, `12h`, `3d`, `2w` and sums such as `1d12h`."""
    if not re.fullmatch(r"(\d{1,6}[smhdw])+", text):
        raise CommandError(f"{text!r} is no duration; write 90s, 30m, 12h, 3d, 2w or 1d12h.")
    return sum((timedelta(**{UNITS[unit]: int(number)}) for number, unit in re.findall(r"(\d+)([smhdw])", text)), timedelta())
