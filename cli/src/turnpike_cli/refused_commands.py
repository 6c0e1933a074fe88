"""`turnpike usage retry-refused`: meter events that Stripe refused for good are sent again once their cause is corrected."""

import asyncio
from typing import Annotated, Any

import typer

from turnpike_cli.doors import Doors
from turnpike_cli.output import print_json
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder


def register(app: typer.Typer) -> None:
    app.command()(retry_refused)


def retry_refused(
    *,
    subscription: Annotated[str | None, typer.Option("--subscription", help="Only this subscription's; all when absent.")] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Send what Stripe refused once more, after its cause was corrected. What it refuses again is refused again."""
    answer = asyncio.run(_ask(Stack(data), subscription))
    if as_json:
        print_json(answer)
    elif answer["retried"]:
        typer.echo(f"{answer['retried']:,} refused meter events are sent again; `turnpike reconcile` says what became of them")
    else:
        typer.echo(
            "Stripe has refused nothing" + (f" of subscription {subscription}" if subscription else "") + ": there is nothing to send again"
        )


async def _ask(stack: Stack, subscription: str | None) -> dict[str, Any]:
    async with Doors(stack) as doors:
        body = {"retry_rejected": True, **({"subscription_id": subscription} if subscription else {})}
        answer: dict[str, Any] = await doors.ask("stripe_reporter", "POST", "/v1/report", body=body)
    return answer
