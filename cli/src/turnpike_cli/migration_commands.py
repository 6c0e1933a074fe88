"""`turnpike catalogue apply --migrate` and `turnpike catalogue migrations`: who moves to the new price, when, at what proration."""

import asyncio
from enum import StrEnum
from typing import Annotated, Any

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SECONDS = 300.0  # one transaction for each subscriber
SHOWN_MAX = 50


class When(StrEnum):
    """When subscribers move to the new price."""

    NOW = "now"
    NEXT_PERIOD = "next-period"


Migrate = Annotated[
    When | None,
    typer.Option("--migrate", help="Move subscribers to the new price: now, prorated on the next invoice, or with the next period."),
]


def register(app: typer.Typer) -> None:
    app.command()(migrations)


async def planned(doors: Doors, when: When, text: str) -> dict[str, Any]:
    """Return who would move if this catalogue were applied."""
    return dict(
        await doors.ask("checkout", "POST", "/v1/migrations/plan", body={"text": text}, params={"when": when}, timeout_seconds=SECONDS)
    )


async def started(doors: Doors, when: When) -> dict[str, Any]:
    """Begin to move subscribers to the applied catalogue; return who moves."""
    return dict(await doors.ask("checkout", "POST", "/v1/migrations", params={"when": when}, timeout_seconds=SECONDS))


def lines_of(answer: dict[str, Any], *, begun: bool) -> list[str]:
    """Say who moves and who stays, and what it comes to."""
    from billing_common.money import display  # imports pydantic: only where money is shown

    if not answer["moving"] and not answer["staying"]:
        return ["no subscriber pays another price than this catalogue's"]
    verb = "moves" if begun else "will move"
    found = [
        f"  {move['subscription_id']}  {move['product_id']} from version {move['from_version']}  {verb} at {move['effective_at']}"
        f"  proration {display(move['proration_minor'], move['currency'])}"
        for move in answer["moves"][:SHOWN_MAX]
    ]
    if answer["moving"] > SHOWN_MAX:
        found.append(f"  and {answer['moving'] - SHOWN_MAX:,} more (--json lists up to 1,000)")
    found += [f"  {stay['subscription_id']}  {stay['product_id']} stays: {stay['reason']}" for stay in answer["stays"][:SHOWN_MAX]]
    if answer["staying"] > SHOWN_MAX:
        found.append(f"  and {answer['staying'] - SHOWN_MAX:,} more stay")
    for total in answer["totals"]:
        what = f"proration {display(total['proration_minor'], total['currency'])}, on the next invoices"
        text = what if total["when"] == "now" else "nothing is prorated"
        who = "subscriber" if total["subscribers"] == 1 else "subscribers"
        found.append(f"{total['subscribers']:,} {who} in {total['currency'].upper()} {_when(total['when'])}: {text}")
    return [*found, f"{answer['moving']:,} {'move' if begun else 'will move'}, {answer['staying']:,} stay"]


def _when(when: str) -> str:
    return "now" if when == When.NOW else "with their next period"


def migrations(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, those under way or failed first.")] = 50,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show where the moves to new prices stand; exit code 1 when one failed."""
    answer = asyncio.run(_ask(Stack(data), limit))
    rows = answer["migrations"]
    if as_json:
        print_json(answer)
    else:
        columns = ["subscription", "product", "version", "state", "effective", "reason"]
        cells = [
            [
                row["subscription_id"],
                row["product_id"],
                f"{row['from_catalogue_version']} -> {row['catalogue_version']}",
                row["state"],
                row["effective_at"],
                row["reason"] or "",
            ]
            for row in rows
        ]
        print_table("", columns, cells)
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


async def _ask(stack: Stack, limit: int) -> dict[str, Any]:
    async with Doors(stack) as doors:
        return dict(await doors.ask("checkout", "GET", "/v1/migrations", params={"limit": limit}))
