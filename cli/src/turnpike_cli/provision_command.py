"""`turnpike provision`: makes what compose and Kubernetes need before the services start. Any number of times, with the same result."""

import asyncio
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedded_servers import provision_database
from turnpike_cli import provisioning
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import SERVICE_NAMES
from turnpike_cli.service_secrets import WEBHOOK_SECRETS, ServiceSecrets

if TYPE_CHECKING:
    from turnpike_cli.provision_settings import ProvisionSettings


class Step(StrEnum):
    SECRETS = "secrets"
    DATABASE = "database"
    TOPICS = "topics"
    WEBHOOK = "webhook"


NEEDS = {
    Step.SECRETS: ("database_admin_url",),
    Step.DATABASE: ("database_admin_url",),
    Step.TOPICS: ("kafka_bootstrap_servers",),
    Step.WEBHOOK: ("stripe_api_key", "webhook_url"),
}


def register(app: typer.Typer) -> None:
    app.command()(provision)


def provision(
    folder: Annotated[Path, typer.Argument(help="Where each service's secrets stand as files: <folder>/<service>/<SETTING>.")],
    only: Annotated[list[Step] | None, typer.Option(help="A step; may be repeated. All of them when absent.")] = None,
) -> None:
    """Make secrets, database roles and schemas, Kafka topics and the webhook endpoint at Stripe, from TURNPIKE_* in the environment.

    `docs/how-to/deploy.md` names the variables.
    """
    from billing_common.settings import load_settings
    from turnpike_cli.provision_settings import ProvisionSettings  # imports pydantic: only where it is needed

    settings = load_settings(ProvisionSettings)
    steps = [step for step in Step if only is None or step in only]
    missing = [f"TURNPIKE_{name.upper()}" for step in steps for name in NEEDS[step] if not getattr(settings, name)]
    if missing:
        raise CommandError(f"Not set: {', '.join(dict.fromkeys(missing))}. Set them, or leave their steps out with --only.")
    known = ServiceSecrets(folder, os.environ)
    actions = {Step.SECRETS: _write_secrets, Step.DATABASE: _make_database, Step.TOPICS: _make_topics, Step.WEBHOOK: _make_webhook}
    for step in steps:
        typer.echo(actions[step](settings, known))


def _write_secrets(settings: "ProvisionSettings", known: ServiceSecrets) -> str:
    assert settings.database_admin_url is not None
    shared = {"STRIPE_API_KEY": settings.stripe_api_key, "APIM_STATIC_TOKEN": settings.apim_static_token}
    shared["KAFKA_SASL_PASSWORD"] = settings.kafka_sasl_password
    known.fill(
        admin_url=settings.database_admin_url.get_secret_value(),
        database=settings.database_name,
        shared={name: value.get_secret_value() for name, value in shared.items() if value},
    )
    if settings.apim_ca_file is not None:
        known.put_ca(settings.apim_ca_file.read_bytes())
    return f"secrets of {len(SERVICE_NAMES)} services are written"


def _make_database(settings: "ProvisionSettings", known: ServiceSecrets) -> str:
    import asyncpg

    assert settings.database_admin_url is not None
    passwords = known.passwords()
    if without := [service for service in SERVICE_NAMES if not passwords.get(service)]:
        raise CommandError(f"No database address with a password is known for {', '.join(without)}; run the step `secrets` first.")
    try:
        asyncio.run(provision_database(settings.database_admin_url.get_secret_value(), passwords, database=settings.database_name))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"Postgres: {error or type(error).__name__}. Check TURNPIKE_DATABASE_ADMIN_URL; it is a superuser's.") from error
    return f"{len(passwords)} roles and schemas are there"


def _make_topics(settings: "ProvisionSettings", _known: ServiceSecrets) -> str:
    from aiokafka.errors import KafkaError

    from billing_common import kafka, topics

    async def make() -> list[str]:  # the TLS context in the arguments and the client belong to one loop
        return await topics.provision(
            kafka.arguments(settings), partitions=settings.topic_partitions, replication_factor=settings.topic_replication_factor
        )

    try:
        made = asyncio.run(make())
    except (OSError, KafkaError, topics.TopicError) as error:
        raise CommandError(f"Kafka at {settings.kafka_bootstrap_servers}: {error}. Check TURNPIKE_KAFKA_*.") from error
    return f"{len(made)} topics made, {len(topics.all_topics()) - len(made)} were there"


def _make_webhook(settings: "ProvisionSettings", known: ServiceSecrets) -> str:
    """Stripe shows the signing secret only once: an endpoint whose secret is not in the folder is made anew."""
    assert settings.stripe_api_key is not None
    assert settings.webhook_url is not None
    key, base, url = settings.stripe_api_key.get_secret_value(), settings.stripe_api_base, settings.webhook_url
    if known.get("webhook_ingress", WEBHOOK_SECRETS) and provisioning.has_webhook(key, url, api_base=base):
        return f"Stripe sends to {url} already"
    known.put("webhook_ingress", WEBHOOK_SECRETS, provisioning.make_webhook(key, url, api_base=base))
    return f"Stripe sends to {url} from now on"
