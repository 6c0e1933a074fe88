"""What must be there before the services start: roles and schemas, topics, and the webhook endpoint at Stripe."""

import asyncio
import hashlib
from importlib.util import find_spec
from pathlib import Path

from embedded_servers import provision_database
from turnpike_cli.environment import DATABASE, Wiring
from turnpike_cli.errors import CommandError

SOURCES = ("billing_common.events", "billing_common.topics", "embedded_servers.provision", "turnpike_cli.parts")
WEBHOOK_EVENTS_ALL = "*"


def fingerprint() -> str:
    """Return what changes when roles, schemas or topics may: the sources that say which there are."""
    total = hashlib.sha256()
    for module in SOURCES:
        spec = find_spec(module)  # found, not imported: a second that a warm start does not need
        if spec is not None and spec.origin is not None:
            total.update(Path(spec.origin).read_bytes())
    return total.hexdigest()[:16]


def provision(wiring: Wiring) -> None:
    """Make database, roles, schemas and topics; a second time nothing changes."""
    from billing_common import topics  # imports Kafka's client: only where it is needed, for the start of the command

    async def both() -> None:
        await asyncio.gather(
            provision_database(wiring.superuser_dsn, wiring.secrets.database_passwords, database=DATABASE),
            topics.provision({"bootstrap_servers": wiring.kafka}),
        )

    asyncio.run(both())


def register_webhook(wiring: Wiring) -> str:
    """Make Stripe send to our address and return the signing secret; an endpoint of ours at an old address is removed."""
    import stripe  # half a second to import, and needed only once

    stripe.enable_telemetry = False
    client = stripe.StripeClient(wiring.secrets.stripe_api_key, base_addresses={"api": wiring.url("sandbox_stripe")}, max_network_retries=3)
    try:
        for endpoint in client.v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter():
            if endpoint.description == "turnpike":
                client.v1.webhook_endpoints.delete(endpoint.id)
        made = client.v1.webhook_endpoints.create(
            {"url": wiring.webhook_url, "enabled_events": [WEBHOOK_EVENTS_ALL], "description": "turnpike"}  # type: ignore[list-item]
        )
    except stripe.StripeError as error:
        raise CommandError(
            f"Stripe refuses the webhook endpoint ({error.user_message or type(error).__name__}); see `turnpike logs sandbox_stripe`."
        ) from error
    if not made.secret:
        raise CommandError("Stripe returned no signing secret for the webhook endpoint; see `turnpike logs sandbox_stripe`.")
    return made.secret
