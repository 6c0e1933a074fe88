"""What `turnpike doctor` finds: one finding per question, each with its remedy. Works on the running stack and on real systems."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from embedded_servers import ServerError
from embedded_servers.kafka import installed_java
from embedded_servers.postgres_binaries import find_postgres
from turnpike_cli import doctor_apim, doctor_kafka, doctor_postgres, doctor_stripe
from turnpike_cli.environment import NEEDS_APIM, NEEDS_STRIPE
from turnpike_cli.errors import CommandError
from turnpike_cli.findings import Finding, failed, fine
from turnpike_cli.parts import BY_NAME, PARTS, SERVICE_NAMES
from turnpike_cli.stack import Stack

SETTINGS_REMEDY = "see the settings table in README.md"

Target = Literal["stack", "environment"]


@dataclass(frozen=True)
class Patient:
    """What is looked at: each service's settings, and the stack when it is our own."""

    settings: Mapping[str, Mapping[str, str]]
    stack: Stack | None


def find_patient(stack: Stack, target: Target | None) -> Patient:
    """Return the stack when it runs, else what the environment names; `target` decides where both would do."""
    named = {name: _prefixed(name) for name in SERVICE_NAMES}
    if target is None:
        target = "stack" if stack.running() or not any(named.values()) else "environment"
    if target == "environment":
        if not any(named.values()):
            raise CommandError("No setting of a service is in the environment, e.g. CHECKOUT_DATABASE_URL; docs/how-to names them all.")
        return Patient(named, None)
    if not stack.running():
        raise CommandError("The stack does not run and no setting of a service is in the environment; run `turnpike up`.")
    wiring = stack.wiring
    return Patient({name: wiring.settings(BY_NAME[name]) for name in SERVICE_NAMES}, stack)


def _prefixed(service: str) -> dict[str, str]:
    prefix = service.upper() + "_"
    return {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}


async def examine(patient: Patient) -> list[Finding]:
    """Ask everything; a system that does not answer is a finding, not an error."""
    findings = machine() if patient.stack else []
    findings += settings(patient)
    findings += await doctor_postgres.examine(patient.settings)
    findings += await doctor_kafka.examine(patient.settings)
    findings += await doctor_stripe.examine({name: patient.settings[name] for name in sorted(NEEDS_STRIPE)})
    findings += await doctor_apim.examine({name: patient.settings[name] for name in sorted(NEEDS_APIM)})
    if patient.stack:
        findings += processes_of(patient.stack)
    return findings


def machine() -> list[Finding]:
    findings = [fine("machine", f"Python {platform.python_version()} ({sys.executable})")]
    try:
        java = installed_java()
        findings.append(fine("machine", f"Java {java.major} ({java.path})"))
        findings.append(fine("machine", f"Postgres binaries in {find_postgres()}"))
    except ServerError as error:
        findings.append(failed("machine", str(error), "run `make setup`"))
    return findings


def settings(patient: Patient) -> list[Finding]:
    """Read each service's settings the way the service does, so that what would stop it is known before it is started."""
    findings = []
    for name in SERVICE_NAMES:
        given = patient.settings[name]
        problems = _problems(name, given)
        findings += [
            failed("settings", f"{name.upper()}_{field} {text}", "see the settings table in README.md") for field, text in problems
        ]
        if not problems:
            findings.append(fine("settings", f"{name}: {len(given)} set, all required ones among them"))
        if given.get("ENVIRONMENT") == "production" and given.get("STRIPE_API_KEY", "").startswith("sk_test_"):
            remedy = "use the live key in production"
            findings.append(failed("settings", f"{name.upper()}_STRIPE_API_KEY is a test key in production", remedy))
    return findings


def _problems(service: str, given: Mapping[str, str]) -> list[tuple[str, str]]:
    known = _settings_class(service)
    try:
        known.model_validate({name.lower(): value for name, value in given.items() if name.lower() in known.model_fields})
    except ValidationError as error:
        found = []
        for entry in error.errors(include_input=False, include_url=False):
            field = "_".join(str(part) for part in entry["loc"]).upper()
            found.append((field, "is not set" if entry["type"] == "missing" else f"is wrong: {entry['msg']}"))
        return found
    return []


def _settings_class(service: str) -> type[BaseSettings]:
    import importlib  # a service's package need not be installed where only the command is

    try:
        found: type[BaseSettings] = importlib.import_module(f"{service}.settings").Settings
    except ModuleNotFoundError:
        from billing_common.settings import ServiceSettings

        found = ServiceSettings
    return found


def processes_of(stack: Stack) -> list[Finding]:
    findings = []
    for part in PARTS:
        health = stack.health(part.name)
        if health.state == "ready":
            findings.append(fine("process", f"{part.name} is ready"))
        else:
            remedy = "run `turnpike up`" if health.state in {"stopped", "died"} else f"see `turnpike logs {part.name}`"
            findings.append(failed("process", f"{part.name}: {health.state} {health.detail}".strip(), remedy))
    return findings
