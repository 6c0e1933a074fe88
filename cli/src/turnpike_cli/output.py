"""How the command prints: lines with the time they took, tables, JSON."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import typer


def progress() -> Callable[[str], None]:
    """Return a printer that puts the seconds since now before each line."""
    started = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"{time.monotonic() - started:6.1f} s  {line}")

    return say


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.console import Console  # a tenth of a second that `up` and JSON do not need
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
