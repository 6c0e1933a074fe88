"""`turnpike setup`, `up`, `down`, `status`, `logs`."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from embedded_servers import places
from turnpike_cli.environment import AZURE_SUBSCRIPTION, RESOURCE_GROUP, SERVICE_NAME
from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json, print_table, progress
from turnpike_cli.parts import BY_NAME, PARTS
from turnpike_cli.stack import Stack

DataFolder = Annotated[Path | None, typer.Option("--data", help="Data folder; TURNPIKE_HOME or .turnpike in the checkout when absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FOLLOW_SECONDS = 0.2


def register(app: typer.Typer) -> None:
    app.command()(setup)
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)


def setup() -> None:
    """Install what is missing; the same as `make setup`."""
    base = getattr(sys, "_base_executable", sys.executable)  # the environment must not be the one to remake itself
    raise typer.Exit(subprocess.run([base, places.checkout() / "tools" / "setup.py"], check=False).returncode)


def up(data: DataFolder = None) -> None:
    """Start Kafka, Postgres, the sandbox and the six services; what runs already stays as it is."""
    say = progress()
    stack = Stack(data, say=say)
    try:
        started = stack.start()
    except KeyboardInterrupt:
        raise CommandError("Interrupted. What was started goes on: `turnpike up` starts the rest, `turnpike down` stops it.") from None
    say("everything runs" if started else "everything ran already")
    print_addresses(stack)


def print_addresses(stack: Stack) -> None:
    """Say where everything is."""
    addresses = stack.addresses()
    places_of_interest = [
        ("developer portal (sandbox)", addresses["sandbox_apim"]["portal"]),
        ("API gateway (sandbox)", addresses["sandbox_apim"]["gateway"]),
        ("Turnpike's pages", addresses["delegation_gateway"]["http"]),
        ("Stripe (sandbox)", addresses["sandbox_stripe"]["http"]),
        ("usage over HTTP", addresses["usage_collector"]["http"] + "/v1/events"),
        ("Stripe's webhooks", addresses["webhook_ingress"]["http"] + "/webhooks/stripe"),
        *((f"metrics of {name}", f"{stack.door(name)}/metrics") for name in addresses if BY_NAME[name].kind == "service"),
        ("Kafka", addresses["kafka"]["client"]),
        ("Postgres", addresses["postgres"]["sql"]),
        ("data and logs", str(stack.folder)),
    ]
    for title, address in places_of_interest:
        typer.echo(f"  {title:<36}{address}")


def down(data: DataFolder = None) -> None:
    """Stop everything; the data stays."""
    say = progress()
    ran = Stack(data, say=say).stop()
    say(f"{len(ran)} processes stopped" if ran else "nothing ran")


def status(data: DataFolder = None, as_json: AsJson = False) -> None:
    """Show each part's process, address and health; exit code 1 when one is not ready."""
    stack = Stack(data)
    document = describe(stack)
    if as_json:
        print_json(document)
    else:
        rows = [
            [p["name"], str(p["pid"] or ""), "\n".join(p["addresses"].values()), f"{p['health']} {p['detail']}"] for p in document["parts"]
        ]
        print_table("", ["part", "pid", "addresses", "health"], rows)
    if not document["ready"]:
        raise typer.Exit(1)


def describe(stack: Stack) -> dict[str, Any]:
    """Return what `status --json` prints: each part, and how an SDK reaches the sandbox."""
    addresses = stack.addresses()
    parts = []
    for part in PARTS:
        health = stack.health(part.name)
        identity = stack.state.processes.get(part.name)
        parts.append(
            {
                "name": part.name,
                "kind": part.kind,
                "title": part.title,
                "pid": identity.pid if identity is not None and health.state in {"ready", "starting"} else None,
                "addresses": addresses.get(part.name, {}),
                "health": health.state,
                "detail": health.detail,
                "log": str(stack.log_path(part.name)),
            }
        )
    document: dict[str, Any] = {"ready": all(part["health"] == "ready" for part in parts), "data": str(stack.folder), "parts": parts}
    if stack.state.ports:
        document["sandbox"] = sandbox_credentials(stack)
    return document


def sandbox_credentials(stack: Stack) -> dict[str, Any]:
    """Return the base addresses and test credentials that an SDK needs; they open nothing but this sandbox."""
    wiring = stack.wiring
    return {
        "stripe": {
            "api_base": wiring.url("sandbox_stripe"),
            "meter_events_base": wiring.url("sandbox_stripe"),
            "api_key": wiring.secrets.stripe_api_key,
            "webhook_secret": wiring.secrets.webhook_secret,
        },
        "apim": {
            "base_url": wiring.url("sandbox_apim", "arm", "https"),
            "ca_file": str(wiring.ca_file),
            "token": wiring.secrets.arm_token,
            "subscription_id": AZURE_SUBSCRIPTION,
            "resource_group": RESOURCE_GROUP,
            "service_name": SERVICE_NAME,
            "portal_url": wiring.url("sandbox_apim", "portal"),
            "gateway_url": wiring.url("sandbox_apim", "gateway"),
        },
    }


def logs(
    name: Annotated[str, typer.Argument(help="A part's name, as `turnpike status` shows it.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    data: DataFolder = None,
) -> None:
    """Print a part's log since its last start."""
    if name not in BY_NAME:
        raise CommandError(f"There is no part {name}; there are {', '.join(BY_NAME)}.")
    path = Stack(data).log_path(name)
    if not path.exists():
        raise CommandError(f"{name} has not been started yet; run `turnpike up`.")
    with path.open(errors="replace") as log:
        while True:
            for line in log:
                typer.echo(line, nl=False)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)
