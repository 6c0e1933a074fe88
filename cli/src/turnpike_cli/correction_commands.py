"""`turnpike usage adjust | delete | adjustments`: usage that was counted wrongly is put right, with a reason and a name."""

import asyncio
from typing import Annotated, Any

import typer

from billing_common.money import display
from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SubscriptionId = Annotated[str, typer.Argument(help="Turnpike's subscription id.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the correction, never published.")]
By = Annotated[str, typer.Option(help="Who answers for it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would change in usage and money, and change nothing.")]
WHERE = {
    "usage": "with the usage of its period, which Stripe bills at the period's end",
    "draft": "on the draft invoice of its period",
    "next_invoice": "on the next invoice",
    "own_invoice": "on an invoice of its own, because the subscription has ended",
}


def register(app: typer.Typer) -> None:
    app.command()(adjust)
    app.command()(delete)
    app.command()(adjustments)


def adjust(
    subscription: SubscriptionId,
    *,
    meter: Annotated[str, typer.Option(help="Meter id, as in the catalogue.")],
    quantity: Annotated[int, typer.Option(help="What to add; negative to take away.")],
    at: Annotated[str, typer.Option(help="Time of the usage (UTC when no zone is given): it decides the hour and the period.")],
    reason: Reason,
    by: By,
    dry_run: DryRun = False,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Add usage, or take some away. The same words twice are one adjustment."""
    body = {"meter": meter, "quantity": quantity, "at": parse_moment(at, "--at").isoformat()}
    _make(Stack(data), "adjustments", subscription, body | {"reason": reason, "by": by, "dry_run": dry_run}, as_json=as_json)


def delete(
    subscription: SubscriptionId,
    *,
    source: Annotated[str, typer.Option(help="The event's CloudEvents source; `apim` for calls through API Management.")],
    event_id: Annotated[str, typer.Option("--id", help="The event's id, as its sender named it.")],
    day: Annotated[str, typer.Option(help="UTC day of the event's time: 2026-12-01.")],
    reason: Reason,
    by: By,
    dry_run: DryRun = False,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take one event out of what was counted. It is not counted again when its sender repeats it."""
    body = {"source": source, "id": event_id, "day": parse_moment(day, "--day").date().isoformat()}
    _make(Stack(data), "deletions", subscription, body | {"reason": reason, "by": by, "dry_run": dry_run}, as_json=as_json)


def _make(stack: Stack, kind: str, subscription: str, body: dict[str, Any], *, as_json: bool) -> None:
    made, money = asyncio.run(_ask(stack, kind, {"subscription_id": subscription, **body}))
    if as_json:
        print_json({**made, "money": money})
        return
    for line in lines_of(made, money):
        typer.echo(line)


async def _ask(stack: Stack, kind: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Try it first, so that the money is known before anything is written; then make it."""
    async with Doors(stack) as doors:
        path = f"/v1/corrections/{kind}"
        tried: dict[str, Any] = await doors.ask("usage_collector", "POST", path, body={**body, "dry_run": True})
        if tried["state"] == "known":
            return tried, None
        segment = tried["segment"]
        change = {
            "subscription_id": body["subscription_id"],
            "product_id": segment["product_id"],
            "catalogue_version": segment["catalogue_version"],
            "segment_start": segment["start"],
            "segment_end": segment["end"],
            "after_close": segment["closed"],
            "totals_before": tried["totals_before"],
            "totals_after": tried["totals_after"],
        }
        try:
            money: dict[str, Any] | None = await doors.ask("checkout", "POST", "/v1/corrections/preview", body=change)
        except CommandError as error:
            if body["dry_run"]:
                raise
            money = {"error": str(error)}  # it is right in any case; only the preview is missing
        made = tried if body["dry_run"] else await doors.ask("usage_collector", "POST", path, body=body)
    return made, money


def lines_of(made: dict[str, Any], money: dict[str, Any] | None) -> list[str]:
    """Say what a correction did, or would do."""
    what = ", ".join(f"{amount:+,} {meter}" for meter, amount in made["amounts"].items())
    if made["state"] == "known":
        return [f"This correction was made before ({what}, {made['correction_id']}); nothing was changed.",
                "To make it a second time, give it another reason."]  # fmt: skip
    segment = made["segment"]
    end = segment["end"][:10] if segment["end"] else "open-ended"
    held = ", ".join(f"{quantity:,} {meter}" for meter, quantity in made["hour_before"].items()) or "nothing"
    totals = ", ".join(
        f"{meter} {made['totals_before'].get(meter, 0):,} -> {after:,}"
        for meter, after in made["totals_after"].items()
        if meter in made["amounts"]
    )
    return [
        f"{'Would change' if made['state'] == 'tried' else 'Changed'}: {what} in the hour from {made['hour'][:16]} UTC, which held {held}",
        f"Period {segment['start'][:10]} to {end}, product {segment['product_id']}: {totals}",
        _words_of(money or {}),
    ]


def _words_of(money: dict[str, Any]) -> str:
    if "error" in money:
        return f"Money: could not be asked ({money['error']}); see `turnpike usage adjustments`"
    if money["where"] is None:
        return "Money: nothing changes"
    return f"Money: {display(money['amount_minor'], money['currency'])}, {WHERE[money['where']]}" + (
        f" ({money['invoice_id']})" if money.get("invoice_id") else ""
    )


def adjustments(
    *,
    subscription: Annotated[str | None, typer.Option("--subscription", help="Only this subscription's.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Made at this time or later; 90 days ago when absent.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Made before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 100,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """List corrections of usage: who made which, why, and what it cost or gave back."""
    named = {
        "subscription_id": subscription,
        "from": since and parse_moment(since, "--from").isoformat(),
        "to": to and parse_moment(to, "--to").isoformat(),
    }
    found = asyncio.run(_listed(Stack(data), {name: value for name, value in named.items() if value}, limit))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no usage was corrected")
        return
    columns = ["made", "subscription", "kind", "amounts", "usage of", "money", "reason", "by"]
    print_table("Corrections of usage", columns, [_row(one) for one in found])


async def _listed(stack: Stack, named: dict[str, str], limit: int) -> list[dict[str, Any]]:
    only = {name: value for name, value in named.items() if name == "subscription_id"}
    async with Doors(stack) as doors:
        found = await doors.ask("usage_collector", "GET", "/v1/corrections", params={**named, "limit": limit})
        charges = await doors.ask("checkout", "GET", "/v1/corrections", params={**only, "limit": 1000})
    by_id = {charge["correction_id"]: charge for charge in charges}
    return [{**one, "charge": by_id.get(one["correction_id"])} for one in found]


def _row(one: dict[str, Any]) -> list[str]:
    amounts = ", ".join(f"{amount:+,} {meter}" for meter, amount in one["amounts"].items())
    what = amounts + (f" (event {one['id']})" if one["id"] else "")
    return [one["made_at"][:19], one["subscription_id"], one["kind"], what, one["at"][:16], money_of(one), one["reason"], one["by"]]


def money_of(one: dict[str, Any]) -> str:
    """Say what became of the money of a correction."""
    charge = one["charge"]
    if one["place"] == "window":
        return "in the period's usage"
    if charge is None:
        return "not rated yet, or free"
    amount = display(charge["amount_minor"], charge["currency"])
    if charge["state"] == "done":
        return f"{amount} {(charge['placed'] or 'nothing to add').replace('_', ' ')}"
    return f"{amount} {charge['state']}" + (f": {charge['error']}" if charge["error"] else "")
