"""`turnpike usage`: what was counted, what it costs so far, what was not taken and why. Corrections stand in a file of their own."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from billing_common.bill_so_far import earlier_of
from billing_common.money import display
from turnpike_cli import correction_commands, late_commands, refused_commands, unbilled_commands
from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.doors import Doors, path_part
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

Subscription = Annotated[str | None, typer.Option("--subscription", help="Only this subscription's.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many of each list, newest first.")]
Since = Annotated[str | None, typer.Option("--from", help="From this time on (UTC when no zone is given).")]
To = Annotated[str | None, typer.Option("--to", help="Before this time.")]
By = Literal["hour", "day", "endpoint", "status"]
SOURCES = {"stream": "the gateway's stream", "ingest": "a sender over HTTP", "reports": "API Management's reports"}

usage_app = typer.Typer(help="Usage: what was counted, what was not, and how it is put right.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    correction_commands.register(usage_app)
    late_commands.register(usage_app)
    unbilled_commands.register(usage_app)
    refused_commands.register(usage_app)
    app.add_typer(usage_app, name="usage")


@usage_app.callback()
def usage() -> None:
    """Usage: what was counted, what was not, and how it is put right."""


@usage_app.command()
def rejected(
    *,
    subscription: Subscription = None,
    since: Since = None,
    to: To = None,
    limit: Limit = 100,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """List rejected events, of the last 30 days unless said otherwise, and what the HTTP door refused."""
    params = {"subscription_id": subscription, "from": _moment(since, "--from"), "to": _moment(to, "--to"), "limit": limit}
    found = asyncio.run(_ask(Stack(data), "/v1/rejected", params))
    if as_json:
        print_json(found)
        return
    if not found["events"] and not found["at_the_door"]:
        typer.echo("nothing was rejected" + ("" if since or to else " in the last 30 days"))
        return
    events = [[one["at"][:19], one["reason"], one["sid"], one["source"], one["id"]] for one in found["events"]]
    if events:
        print_table("Rejected events", ["time (UTC)", "reason", "subscription or sid", "source", "id"], events)
    refused = [
        [one["last_at"][:19], one["reason"], one["subscription_id"], one["sender"] or one["sender_id"], str(one["events"])]
        for one in found["at_the_door"]
    ]
    if refused:
        print_table("Refused at the HTTP door", ["last (UTC)", "reason", "subscription", "sender", "events"], refused)


@usage_app.command()
def held(*, subscription: Subscription = None, limit: Limit = 100, data: DataFolder = None, as_json: AsJson = False) -> None:
    """List events that wait, because nobody knows yet whose they are or by which plan they count, with why and since when."""
    found = asyncio.run(_ask(Stack(data), "/v1/held", {"subscription_id": subscription, "limit": limit}))
    if as_json:
        print_json(found)
    elif found:
        rows = [
            [one["sid"], one["reason"], one["source"], f"{one['events']:,}", one["first_at"][:19], one["last_at"][:19]] for one in found
        ]
        print_table("Events that wait", ["subscription or sid", "reason", "source", "events", "oldest (UTC)", "newest (UTC)"], rows)
    else:
        typer.echo("no event waits")


def _moment(text: str | None, option: str) -> str | None:
    return parse_moment(text, option).isoformat() if text else None


async def _ask(stack: Stack, path: str, params: dict[str, Any]) -> Any:
    async with Doors(stack) as doors:
        named = {name: value for name, value in params.items() if value is not None}
        return await doors.ask("usage_collector", "GET", path, params=named)


@usage_app.command()
def show(
    subscription: Annotated[str, typer.Argument(help="Turnpike's subscription id.")],
    *,
    by: Annotated[By, typer.Option(help="How to divide it.")] = "day",
    since: Since = None,
    to: To = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show a subscription's usage (of its running period unless said otherwise), its bill so far and where that is heading."""
    found = asyncio.run(_show(Stack(data), subscription, by, since, to))
    if as_json:
        print_json(found)
        return
    for line in standing_lines(found["standing"], found["of_earlier_periods"]):
        typer.echo(line)
    print_table(f"Usage by {by}", *_table(found["split"], by))
    for row in found["of_other_sources"]:
        typer.echo(f"! {row['distinct']:,} events came from {SOURCES.get(row['origin'], row['origin'])}, which does not bill this product: "
                   "they count nothing")  # fmt: skip
    if found["split"]["complete_until"]:
        typer.echo(f"Hours from {found['split']['complete_until'][:16]} UTC on are in the totals but are not divided yet.")


def _hour_after(moment: datetime) -> datetime:
    try:
        return moment + timedelta(hours=1)
    except OverflowError as error:
        raise CommandError(f"--from: {moment:%Y-%m-%d} is the end of the calendar; name an earlier day.") from error


async def _show(stack: Stack, subscription: str, by: By, since: str | None, to: str | None) -> dict[str, Any]:
    path = f"/v1/usage/{path_part(subscription, 'subscription')}"
    async with Doors(stack) as doors:
        standing = await doors.ask("usage_collector", "GET", f"{path}/standing")
        start = parse_moment(since or standing["period_start"], "--from")
        end = parse_moment(to, "--to") if to else _hour_after(max(datetime.fromisoformat(standing["freshness"]["as_of"]), start))
        span = {"from": start.isoformat(), "to": end.isoformat()}
        split = await doors.ask("usage_collector", "GET", f"{path}/split", params={**span, "by": [by, "outcome"]})
        origins = await doors.ask("usage_collector", "GET", f"{path}/split", params={**span, "by": ["origin", "outcome"]})
        charges = await doors.ask("checkout", "GET", "/v1/corrections", params={"subscription_id": subscription, "limit": 1000})
    begin = datetime.fromisoformat(standing["period_start"])
    return {
        "standing": standing,
        "split": split,
        "of_earlier_periods": [asdict(one) for one in earlier_of(begin, charges)],
        "of_other_sources": [row for row in origins["rows"] if row["reason"] == "other_source"],
    }


def standing_lines(standing: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> list[str]:
    """Say where a subscription stands: period, totals, quota, bill, projection with its basis, and how fresh all this is.

    `earlier` is what is billed with this period and was used in one before.
    """
    besides = sum(one["amount_minor"] for one in earlier)
    totals = ", ".join(f"{quantity:,} {meter}" for meter, quantity in standing["totals"].items()) or "nothing"
    lines = [
        f"{standing['product_id']}, period {standing['period_start'][:10]} to {standing['period_end'][:10]} (UTC): {totals}",
        *(
            f"{one['meter_id']}: {one['used']:,} of {one['limit']:,}, {one['remaining']:,} left"
            + (f" until {one['window_end'][:10]}" if one["window_end"] else "")
            + (", then calls stop" if one["stops"] else "")
            for one in standing["quotas"]
        ),
    ]
    if bill := standing["bill"]:
        of_which = f"; {display(besides, bill['currency'])} of it for usage of earlier periods" if earlier else ""
        lines.append(f"Bill so far: {display(bill['total_minor'] + besides, bill['currency'])}, without tax{of_which}")
        if cap := standing.get("spend_cap_minor"):
            own = display(bill["total_minor"], bill["currency"])
            lines.append(
                f"Spend cap: {own} of {display(cap, bill['currency'])}, {bill['total_minor'] * 100 // cap} %; calls go on beyond it"
            )
        lines += [
            f"  {one['description']}: {display(one['amount_minor'], one['currency'])}{', on an invoice of its own' if one['alone'] else ''}"
            for one in earlier
        ]
    if projected := standing["projected"]:
        basis = projected["basis"]
        usage = ", ".join(f"{quantity:,} {meter}" for meter, quantity in basis["usage"].items())
        amount = display(projected["total_minor"] + besides, projected["currency"])
        lines.append(f"At this pace: {amount} for {usage} at the period's end (pace since {basis['since'][:16]} UTC)")
    fresh = standing["freshness"]
    unread = f", {fresh['unread_records']:,} records not read yet" if fresh["unread_records"] else ""
    return [*lines, f"As of {fresh['as_of'][:19]} UTC; at most {fresh['staleness_seconds']:.1f} s behind the streams{unread}"]


def _table(split: dict[str, Any], by: By) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: what counted in its meter's unit, what did not with its reason."""
    names = {"hour": "hour", "day": "day", "endpoint": "endpoint", "status": "status"}
    rows = []
    for row in split["rows"]:
        place = {
            "hour": str(row["hour"])[:16],
            "day": str(row["day"])[:10],
            "endpoint": " ".join(filter(None, (row["method"], row["template"]))) or f"({row['origin']})",
            "status": str(row["status"] or "-"),
        }[by]
        what = row["outcome"] + (f": {row['reason']}" if row["reason"] else "")
        rows.append([place, row["meter_id"] or "-", what, f"{row['events']:,}", f"{row['quantity']:,}"])
    return [names[by], "meter", "outcome", "events", "quantity"], rows
