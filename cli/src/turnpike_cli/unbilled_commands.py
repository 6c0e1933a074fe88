"""`turnpike usage unbilled`: usage that a final invoice does not bill, what became of it, and a person's word on what is kept."""

import asyncio
from typing import Annotated, Any

import typer

from billing_common.money import display
from turnpike_cli.errors import CommandError
from turnpike_cli.late_commands import WORDS, Decision, decide_and_list
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder


def register(app: typer.Typer) -> None:
    app.command()(unbilled)


def unbilled(
    *,
    subscription: Annotated[str | None, typer.Option("--subscription", help="Only this subscription's.")] = None,
    decide: Annotated[Decision | None, typer.Option("--decide", help="Bill or waive one that is kept.")] = None,
    which: Annotated[str | None, typer.Option("--id", help="With --decide: which one, as listed.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="With --decide: who answers for it.")] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """List usage that was counted in time and is missing on its final invoice, with what became of it; or decide what becomes of it."""
    decision = None
    if decide is not None:
        if which is None or by is None:
            raise CommandError("--decide needs --id, which `turnpike usage unbilled` lists, and --by")
        decision = {"unbilled_id": which, "disposition": decide, "by": by}
    found = asyncio.run(decide_and_list(Stack(data), "checkout", "/v1/unbilled", subscription, decision))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("no final invoice lacks usage that was counted for it")
    else:
        head = ["id", "subscription", "invoice", "meter", "it bills", "counted", "money", "is"]
        print_table("Usage missing on final invoices", head, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> list[str]:
    money = display(one["amount_minor"], one["currency"])
    figures = [f"{one['billed']:,}", f"{one['counted']:,}", money]
    return [one["unbilled_id"], one["subscription_id"], one["of_invoice"], one["meter_id"], *figures, _became(one)]


def _became(one: dict[str, Any]) -> str:
    words = WORDS[one["disposition"]] + (f" by {one['decided_by']}" if one["decided_by"] else "")
    if one["disposition"] != "bill":
        return words
    if one["state"] != "done":
        return f"{words}, {one['state']}" + (f": {one['error']}" if one["error"] else "")
    where = (one["placed"] or "nothing to add").replace("_", " ")
    return f"{words}: {where}" + (f" ({one['invoice_id']})" if one["invoice_id"] else "")
