"""`turnpike reconcile`: gateway = events = windows = ledger = Stripe's summaries = invoice lines, and what is the matter where not."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from billing_common.money import display
from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

SERVICE = "stripe_reporter"
DAYS_BACK = 62  # holds a whole month, wherever in the month we are
AT_ONCE = 20
DIFFERENT = 2
TIMEOUT_SECONDS = 120.0


def register(app: typer.Typer) -> None:
    app.command()(reconcile)


def reconcile(
    *,
    subscription: Annotated[str | None, typer.Option("--subscription", help="Only this subscription; all when absent.")] = None,
    period: Annotated[
        str | None, typer.Option(help="A month (2026-12), a day (2026-12-01) or two days (2026-12-01/2027-01-15); 62 days when absent.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Do what is provably safe; nothing is ever lowered.")] = False,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Compare all stations of usage. Ends with 0 when all agree and 2 when something needs attention."""
    found, done = asyncio.run(_reconcile(Stack(data), subscription, period, repair=repair))
    agrees = all(one["agrees"] and not one["problems"] for one in found)
    if as_json:
        print_json({"agrees": agrees, "subscriptions": found, "repaired": done})
    else:
        for one in done:
            for line in one["done"]:
                typer.echo(f"{one['subscription_id']}: {line}")
        _print(found)
    if not agrees:
        raise typer.Exit(DIFFERENT)


def span_of(period: str | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the range that a period names, in full UTC days."""
    if period is None:
        until = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return until - timedelta(days=DAYS_BACK), until
    try:
        start, end = _named(period)
    except OverflowError as error:
        raise CommandError(f"--period: {period} ends after the year 9999; name an earlier one.") from error
    if end <= start:
        raise CommandError(f"--period: {period} ends before it begins; write 2026-12-01/2027-01-15.")
    return start, end


def _named(period: str) -> tuple[datetime, datetime]:
    if re.fullmatch(r"\d{4}-\d{2}", period):
        start = parse_moment(f"{period}-01", "--period")
        return start, (start + timedelta(days=31)).replace(day=1)
    first, slash, last = period.partition("/")
    start = parse_moment(first, "--period")
    return start, parse_moment(last, "--period") if slash else start + timedelta(days=1)


async def _reconcile(
    stack: Stack, subscription: str | None, period: str | None, *, repair: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with Doors(stack) as doors:
        now = datetime.fromisoformat((await doors.status(SERVICE))["now"]).astimezone(UTC)
        start, end = span_of(period, now)
        span = {"from": start.isoformat(), "to": end.isoformat()}
        names = [subscription] if subscription else await _all(doors, span)
        found: list[dict[str, Any]] = []
        done: list[dict[str, Any]] = []
        for first in range(0, len(names), AT_ONCE):
            body = {"subscriptions": names[first : first + AT_ONCE], **span}
            if repair:
                done += await doors.ask(SERVICE, "POST", "/v1/reconciliations/repair", body=body, timeout_seconds=TIMEOUT_SECONDS)
            found += await doors.ask(SERVICE, "POST", "/v1/reconciliations", body=body, timeout_seconds=TIMEOUT_SECONDS)
    return found, done


async def _all(doors: Doors, span: dict[str, str]) -> list[str]:
    names: list[str] = []
    while page := await doors.ask(
        SERVICE, "GET", "/v1/reconciliations/subscriptions", params={**span, "after": names[-1] if names else "", "limit": 1000}
    ):
        names += page
    return names


def _print(found: list[dict[str, Any]]) -> None:
    rows = [row for one in found for row in _station_rows(one)]
    columns = ["subscription", "meter", "gateway", "events", "counted", "windows", "ledger", "Stripe", "billed", ""]
    print_table("Stations of usage", columns, rows)
    differences = [(one["subscription_id"], row) for one in found for row in one["differences"]]
    serious = [(name, row) for name, row in differences if row["needs_attention"]]
    if serious:
        shown = [_difference_row(name, row) for name, row in serious]
        print_table("Differences", ["subscription", "day", "between", "cause", "quantity", "money", "age", "what"], shown)
    for one in found:
        for problem in one["problems"]:
            typer.echo(f"! {one['subscription_id']}: {problem}: this station was not compared; try again")
    for moment in sorted({one["events_kept_from"] for one in found if one["events_kept_from"]}):
        typer.echo(f"Events of days before {moment[:10]} are no longer kept: what they add up to and the gateway's count are not compared.")
    calm: dict[str, int] = {}
    for _, row in differences:
        if not row["needs_attention"]:
            calm[row["cause"]] = calm.get(row["cause"], 0) + abs(row["quantity"])
    if calm:
        typer.echo("As it should be, or gone in a while: " + ", ".join(f"{count:,} {cause}" for cause, count in sorted(calm.items())))
    if not serious:
        typer.echo(f"{len(found)} subscriptions: all stations agree")


def _station_rows(one: dict[str, Any]) -> list[list[str]]:
    """Return one row for each meter; the gateway's count and the events stand beside the first."""
    received = None if one["events_kept_from"] else sum(one["events"].values())
    rows = []
    for number, meter in enumerate(one["meters"] or [None]):
        billed = sum(row["billed"] for row in one["invoices"] if meter and _same_meter(row, meter))
        rows.append([
            one["subscription_id"] if number == 0 else "",
            f"{meter['product_id']}/{meter['meter_id']}" if meter else "-",
            _count(one["gateway_calls"]) if number == 0 else "",
            _count(received) if number == 0 else "",
            *((_count(meter[name]) for name in ("counted", "windows", "acknowledged", "stripe")) if meter else [""] * 4),
            f"{billed:,}" if billed else "-",
            ("ok" if one["agrees"] and not one["problems"] else "DIFFERS") if number == 0 else "",
        ])  # fmt: skip
    return rows


def _same_meter(row: dict[str, Any], meter: dict[str, Any]) -> bool:
    return (row["product_id"], row["meter_id"]) == (meter["product_id"], meter["meter_id"])


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _difference_row(name: str, row: dict[str, Any]) -> list[str]:
    money = "-" if row["amount_minor"] is None or row["currency"] is None else display(row["amount_minor"], row["currency"])
    hours = row["age_seconds"] // 3600
    age = f"{hours // 24} d" if hours >= 48 else f"{hours} h"
    what = f"{row['product_id']}/{row['meter_id']}: {row['words']}" if row["meter_id"] else row["words"]
    return [name, row["day"][:10], row["station"], row["cause"].replace("_", " "), f"{row['quantity']:+,}", money, age, what]
