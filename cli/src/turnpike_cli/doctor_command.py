"""`turnpike doctor`: asks every system the product needs, and names the remedy for what is wrong."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from turnpike_cli.errors import CommandError
from turnpike_cli.output import print_json
from turnpike_cli.stack import Stack
from turnpike_cli.stack_commands import AsJson, DataFolder

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    target: Annotated[
        str | None, typer.Option(help="`stack` or `environment` (settings such as CHECKOUT_DATABASE_URL); what fits when absent.")
    ] = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, reachability, versions and permissions of Kafka, Postgres, Stripe and API Management; exit code 1 on failures."""
    from turnpike_cli import doctor as examination  # imports clients of everything: two seconds that no other command should take

    if target not in {None, "stack", "environment"}:
        raise CommandError("--target is `stack` or `environment`.")
    patient = examination.find_patient(Stack(data), target)  # type: ignore[arg-type]  # checked above
    findings = asyncio.run(examination.examine(patient))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.secho(f"{finding.verdict:<8}", fg=COLOURS[finding.verdict], nl=False)
            typer.echo(f" {finding.area:<15} {finding.text}")
            if finding.remedy:
                typer.echo(f"{'':<24} -> {finding.remedy}")
    failures = sum(finding.verdict == "failed" for finding in findings)
    if failures:
        raise typer.Exit(1)
