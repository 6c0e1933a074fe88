"""Writes docs/reference/settings.md from the Settings classes; `--check` fails when the file is not what the code says."""

import importlib
import sys
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from billing_common.settings import ApimSettings, KafkaSettings, ServiceSettings, StripeSettings
from billing_common.topics import SERVICES
from turnpike_cli.provision_settings import ProvisionSettings

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "reference" / "settings.md"
SANDBOXES = ("sandbox_stripe", "sandbox_apim")
INTRODUCTION = """# Settings

Written by `python tools/settings_reference.py` from the code. Every setting is an environment variable; a file of the same name in
`/run/secrets` (or the folder that `TURNPIKE_SECRETS_FOLDER` names) serves as well. A service that lacks a required one says so, with what
it is for, and ends with exit code 2. Durations are ISO 8601 (`PT15M`, `P35D`) or seconds.
"""


def shown(value: Any) -> str:
    """Return a default as one would write it into the environment."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, timedelta):
        hours, rest = divmod(value.seconds, 3600)
        minutes, seconds = divmod(rest, 60)
        days = f"{value.days}D" if value.days else ""
        clock = "".join(f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if number)
        return f"`P{days}{'T' + clock if clock else ''}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None or value == "":
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"


def row(name: str, field: FieldInfo) -> str:
    default = "**required**" if field.is_required() else shown(field.default)
    limits = ", ".join(
        f"{word} {getattr(entry, name)}"
        for entry in field.metadata
        for name, word in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(entry, name) and not isinstance(getattr(entry, name), timedelta)
    )
    choices = getattr(field.annotation, "__args__", ())
    allowed = " \\| ".join(f"`{choice}`" for choice in choices if isinstance(choice, str))
    text = "; ".join(filter(None, (field.description or "", allowed, limits)))
    return f"| `{name}` | {default} | {text} |"


def table(kind: type[BaseSettings], prefix: str, names: list[str]) -> str:
    rows = [row(f"{prefix}{name}".upper(), kind.model_fields[name]) for name in names]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def own(kind: type[BaseSettings]) -> list[str]:
    return [name for name in kind.__annotations__ if name in kind.model_fields]


def reference() -> str:
    """Return the page: what services share first, then each program's own."""
    parts = [INTRODUCTION]
    parts.append("## Every service\nPut the service's prefix in front: `CHECKOUT_DATABASE_URL`.\n")
    parts.append(table(ServiceSettings, "", list(ServiceSettings.model_fields)) + "\n")
    parts.append("## Services that call Stripe\n`CHECKOUT_`, `WEBHOOK_INGRESS_`, `STRIPE_REPORTER_`.\n")
    parts.append(table(StripeSettings, "", list(StripeSettings.model_fields)) + "\n")
    parts.append(
        "## Services that call API Management\n`DELEGATION_GATEWAY_`, `CHECKOUT_`, `SUBSCRIPTION_ENFORCER_`, `USAGE_COLLECTOR_` "
        "(only for reports: there none is required).\n"
    )
    parts.append(table(ApimSettings, "", list(ApimSettings.model_fields)) + "\n")
    for program in (*SERVICES, *SANDBOXES):
        kind = importlib.import_module(f"{program}.settings").Settings
        names = own(kind)
        prefix = str(kind.model_config["env_prefix"])
        parts.append(f"## {program}\n" + (table(kind, prefix, names) if names else "None of its own.") + "\n")
    names = list(KafkaSettings.model_fields) + [name for name in own(ProvisionSettings) if name not in KafkaSettings.model_fields]
    parts.append(
        "## turnpike provision\nEach step needs its own: `secrets` and `database` the address of the database, `topics` Kafka, "
        "`webhook` the key and the address.\n"
        "A secret setting of a service in the environment, e.g. `CHECKOUT_STRIPE_API_KEY`, is taken as it is.\n"
    )
    parts.append(table(ProvisionSettings, "TURNPIKE_", names) + "\n")
    parts.append(
        "## turnpike, for services in containers\n| variable | meaning |\n|---|---|\n"
        "| `TURNPIKE_DOORS` | `checkout=http://checkout:8001,...`: internal doors to use instead of the stack in the data folder |\n"
        "| `TURNPIKE_INTERNAL_TOKEN_KEYS` | the keys of `INTERNAL_TOKEN_KEYS` |\n"
        "| `TURNPIKE_INTERNAL_TOKEN_KEYS_FILE` | or a file that holds them |\n"
        "| `TURNPIKE_HOME` | the data folder; `.turnpike` in the checkout when absent |\n"
    )
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text = reference()
    if "--check" in arguments:
        if not FILE.exists() or FILE.read_text() != text:
            print(f"{FILE.relative_to(ROOT)} is not what the code says: run python tools/settings_reference.py")
            return 1
        return 0
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
