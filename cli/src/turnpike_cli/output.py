"""How the command prints: lines with the time they took, tables, JSON."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import typer

PIPED_WIDTH = 200  # where nobody says how wide a line may be: ids stay whole, so that they can be searched for


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
    is_told = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if is_told else PIPED_WIDTH).print(table)
