"""`turnpike usage late`: usage that came after its period was closed, and a person's word on what is kept of it."""

import asyncio
from typing import Annotated, Any, Literal

import typer

from turnpike_cli.clock_commands import parse_moment
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

Decision = Literal["bill", "waive"]
WORDS = {"bill": "billed", "waive": "waived", "keep": "kept", None: "new"}


def register(app: typer.Typer) -> None:
    app.command()(late)


def late(
    *,
    subscription: Annotated[str | None, typer.Option("--subscription", help="Only this subscription's.")] = None,
    segment: Annotated[str | None, typer.Option("--segment", help="With --decide: start of the closed period, as listed.")] = None,
    decide: Annotated[Decision | None, typer.Option("--decide", help="Bill or waive what is kept of that period.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="With --decide: who answers for it.")] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """List usage that came after its period was closed, with what became of it; or decide what becomes of it."""
    decision = None
    if decide is not None:
        if subscription is None or segment is None or by is None:
            raise CommandError("--decide needs --subscription and --segment, which `turnpike usage late` lists, and --by")
        start = parse_moment(segment).isoformat()
        decision = {"subscription_id": subscription, "segment_start": start, "disposition": decide, "by": by}
    found = asyncio.run(decide_and_list(Stack(data), "usage_collector", "/v1/late", subscription, decision))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("no usage came after its period was closed")
    else:
        head = ["subscription", "period from", "to", "is", "billed", "waived", "held events"]
        print_table("Late usage", head, [_row(one) for one in found])


async def decide_and_list(stack: Stack, service: str, path: str, subscription: str | None, decision: dict[str, str] | None) -> Any:
    """Tell a service what a person decided, if anything, and return its list as it is then."""
    async with Doors(stack) as doors:
        if decision is not None:
            await doors.ask(service, "POST", f"{path}/decisions", body=decision)
        return await doors.ask(service, "GET", path, params={"subscription_id": subscription} if subscription else {})


def _row(one: dict[str, Any]) -> list[str]:
    decided = f" by {one['decided_by']}" if one["decided_by"] else ""
    sums = [", ".join(f"{sums['quantity']:,} {meter}" for meter, sums in one[kind].items()) for kind in ("billed", "waived")]
    words = WORDS[one["disposition"]] + decided
    return [one["subscription_id"], one["segment_start"], one["segment_end"], words, *sums, str(one["held_events"])]
