"""`turnpike explain INVOICE`: from its lines to days, hours, endpoints and events, each level adding up; what did not count; CSV."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from billing_common.money import display
from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.doors import Doors, path_part
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SERVICE = "stripe_reporter"


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    invoice: Annotated[str, typer.Argument(help="Stripe's id (in_...) or the invoice's number.")],
    *,
    meter: Annotated[str | None, typer.Option(help="Only this meter's usage.")] = None,
    day: Annotated[str | None, typer.Option(help="Open a UTC day into hours and endpoints: 2026-12-01.")] = None,
    hour: Annotated[str | None, typer.Option(help="Open an hour into its events: 2026-12-01T09:00.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many events of an hour.")] = 100,
    csv: Annotated[Path | None, typer.Option(help="Write all of it into this file.")] = None,
    level: Annotated[Literal["endpoints", "events"], typer.Option(help="What a row of the CSV is.")] = "endpoints",
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Explain an invoice: every line, and for usage the days, hours, endpoints and events behind it, and what did not count."""
    stack = Stack(data)
    if csv is not None:
        written = asyncio.run(_download(stack, invoice, csv, level))
        typer.echo(f"{csv}: {written:,} bytes")
        return
    found = asyncio.run(_ask(stack, invoice, meter=meter, day=day, hour=hour, limit=limit))
    if as_json:
        print_json(found)
    elif hour:
        _print_events(found)
    elif day:
        _print_day(found)
    else:
        _print_invoice(found)


async def _download(stack: Stack, invoice: str, file: Path, level: str) -> int:
    async with Doors(stack) as doors:
        return await doors.download(SERVICE, f"/v1/explanations/{path_part(invoice, 'invoice')}/csv", file, params={"level": level})


async def _ask(stack: Stack, invoice: str, *, meter: str | None, day: str | None, hour: str | None, limit: int) -> dict[str, Any]:
    async with Doors(stack) as doors:
        path = f"/v1/explanations/{path_part(invoice, 'invoice')}"
        tree: dict[str, Any] = await doors.ask(SERVICE, "GET", path)
        tree["usage"] = _of_meter(tree["usage"], meter)
        if not (day or hour):
            tree["corrections"] = await _corrections(doors, tree)
            return tree
        usage, *others = _usage_at(tree, day, hour)
        tree["other_meters"] = sorted({one["meter_id"] for one in others} - {usage["meter_id"]})
        if hour:
            return {"invoice": tree, "usage": usage, "events": await _events(doors, path, usage, hour, limit)}
        params = {"usage": usage["key"], "day": parse_moment(day or "").isoformat()}
        return {"invoice": tree, "usage": usage, "day": await doors.ask(SERVICE, "GET", f"{path}/day", params=params)}


def _of_meter(usages: list[dict[str, Any]], meter: str | None) -> list[dict[str, Any]]:
    found = [usage for usage in usages if meter in {None, usage["meter_id"]}]
    if meter and not found:
        billed = ", ".join(dict.fromkeys(usage["meter_id"] for usage in usages)) or "none at all"
        raise CommandError(f"--meter: the invoice bills no usage of {meter!r}; it has {billed}.")
    return found


def _usage_at(tree: dict[str, Any], day: str | None, hour: str | None) -> list[dict[str, Any]]:
    """Return the usage whose time holds the day or hour: of each meter one, more where the plan changed then."""
    at = parse_moment(hour or day or "")
    span = timedelta(hours=1) if hour else timedelta(days=1)
    found = [usage for usage in tree["usage"] if at < parse_moment(usage["period_end"]) and at + span > parse_moment(usage["period_start"])]
    if found:
        return found
    raise CommandError(f"The invoice has no usage at {at:%Y-%m-%d %H:%M} UTC; without --day and --hour it shows which time it is for.")


async def _corrections(doors: Doors, tree: dict[str, Any]) -> dict[str, Any]:
    if not any(line["correction_id"] for line in tree["lines"]):
        return {}
    params = {"subscription_id": tree["subscription_id"], "from": "2000-01-01T00:00:00Z", "limit": 1000}
    found = await doors.ask("usage_collector", "GET", "/v1/corrections", params=params)
    return {one["correction_id"]: one for one in found}


async def _events(doors: Doors, path: str, usage: dict[str, Any], hour: str, limit: int) -> list[dict[str, Any]]:
    params: dict[str, Any] = {"usage": usage["key"], "hour": parse_moment(hour).isoformat(), "limit": min(limit, 1000)}
    events: list[dict[str, Any]] = []
    while len(events) < limit:
        page = await doors.ask(SERVICE, "GET", f"{path}/events", params=params)
        events += page["events"]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    return events[:limit]


# --- what is printed ---------------------------------------------------------------------------------------------------------------


def _print_invoice(tree: dict[str, Any]) -> None:
    currency = tree["currency"]
    title = f"Invoice {tree['number'] or tree['invoice_id']} ({tree['status']}) of subscription {tree['subscription_id']}"
    rows = []
    for line in tree["lines"]:
        why = line["words"]
        if correction := tree["corrections"].get(line["correction_id"]):
            why += f": {correction['reason']} ({correction['by']})"
        span = f"{line['period_start'][:10]} to {line['period_end'][:10]}"
        rows.append([line["description"], span, "" if line["quantity"] is None else f"{line['quantity']:,}",
                     display(line["amount_minor"], currency), why])  # fmt: skip
    rows.append(["Total", "", "", display(tree["total_minor"], currency), ""])
    print_table(title, ["line", "for", "quantity", "amount", "why"], rows)
    for usage in tree["usage"]:
        _print_usage(usage, currency)


def _print_usage(usage: dict[str, Any], currency: str) -> None:
    rows = []
    for day in usage["days"]:
        rows.append([day["start"][:10], f"{day['quantity']:,}", _money(day["amount_minor"], currency)])
        if day["difference"]:
            rows.append(["", f"! {day['difference']}", ""])
    rows.append(["Sum", f"{usage['counted']:,}", _money(usage["rated_minor"], currency)])
    title = f"{usage['meter_name']}, {usage['period_start'][:10]} to {usage['period_end'][:10]}: {usage['quantity']:,} billed"
    print_table(title, ["day (UTC)", "quantity", "added to the bill"], rows)
    if usage["difference"]:
        typer.echo(f"! {usage['difference']}")
    for row in usage["not_counted"] or ():
        typer.echo(f"Not counted: {row['events']:,} {row['outcome']} ({row['reason']}): {row['words']}")


def _money(minor: int | None, currency: str) -> str:
    return "?" if minor is None else display(minor, currency)


def _print_day(found: dict[str, Any]) -> None:
    rows = []
    for hour in found["day"]["hours"]:
        rows.append([hour["start"][11:16], "all", f"{hour['quantity']:,}", _money(hour["amount_minor"], found["invoice"]["currency"])])
        rows += [["", f"  {endpoint_name(one)}", f"{one['quantity']:,}", f"{one['events']:,} events"] for one in hour["endpoints"]]
        rows += [["", f"  not counted: {one['reason']}", "0", f"{one['events']:,} events"] for one in hour["not_counted"]]
        if hour["difference"]:
            rows.append(["", f"  ! {hour['difference']}", "", ""])
    day = found["day"]
    print_table(f"{found['usage']['meter_name']} on {day['day'][:10]}: {day['quantity']:,}", ["hour", "what", "quantity", "bill"], rows)
    _print_others(found)


def _print_others(found: dict[str, Any]) -> None:
    if others := found["invoice"]["other_meters"]:
        typer.echo(f"The same calls may count for other meters too: {', '.join(f'--meter {meter}' for meter in others)}")


def endpoint_name(one: dict[str, Any]) -> str:
    """Name what calls are: GET /orders 200, or where they come from."""
    return " ".join(filter(None, (one["method"], one["template"], str(one["status"] or "")))) or f"({one['origin']})"


def _print_events(found: dict[str, Any]) -> None:
    rows = [
        [event["at"][:23], event["id"], event["source"], endpoint_name({**event, "status": event["status"] or 0}),
         event["outcome"] + (f": {event['reason']}" if event["reason"] else ""), f"{event['counted']:,}"]
        for event in found["events"]
    ]  # fmt: skip
    print_table(f"Events of {found['usage']['meter_name']}", ["time (UTC)", "id", "source", "what", "outcome", "counted"], rows)
    _print_others(found)
