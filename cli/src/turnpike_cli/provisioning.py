"""What must be there before the services start: roles and schemas, topics, and the webhook endpoint at Stripe."""

import asyncio
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from embedded_servers import provision_database
from turnpike_cli.environment import DATABASE, Wiring
from turnpike_cli.errors import CommandError

if TYPE_CHECKING:
    import stripe

SOURCES = ("billing_common.events", "billing_common.topics", "embedded_servers.provision", "turnpike_cli.parts")
WEBHOOK_EVENTS_ALL = "*"
DESCRIPTION = "turnpike"  # how our endpoint is found again


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
    """Make the sandbox send to our address and return the signing secret."""
    return make_webhook(wiring.secrets.stripe_api_key, wiring.webhook_url, api_base=wiring.url("sandbox_stripe"))


def make_webhook(api_key: str, url: str, *, api_base: str | None) -> str:
    """Make Stripe send to `url` and return the signing secret; an endpoint of ours at an old address is removed."""
    import stripe  # half a second to import, and needed only once

    try:
        client = _stripe_client(api_key, api_base)
        old = _our_endpoints(client)
        made = client.v1.webhook_endpoints.create(
            {"url": url, "enabled_events": [WEBHOOK_EVENTS_ALL], "description": DESCRIPTION}  # type: ignore[list-item]
        )
        for endpoint_id in old:
            client.v1.webhook_endpoints.delete(endpoint_id)
    except stripe.StripeError as error:
        raise CommandError(
            f"Stripe refuses the webhook endpoint ({error.user_message or type(error).__name__}); see `turnpike logs sandbox_stripe`."
            if api_base
            else f"Stripe refuses the webhook endpoint ({error.user_message or type(error).__name__}): "
            "the key needs write access to Webhook Endpoints, and the address must be public https."
        ) from error
    if not made.secret:
        raise CommandError("Stripe returned no signing secret for the webhook endpoint; delete the endpoint there and try again.")
    return made.secret


def has_webhook(api_key: str, url: str, *, api_base: str | None) -> bool:
    """Tell whether Stripe sends to `url` already."""
    import stripe

    try:
        return url in _our_endpoints(_stripe_client(api_key, api_base)).values()
    except stripe.StripeError as error:
        raise CommandError(f"Stripe does not tell its webhook endpoints ({error.user_message or type(error).__name__}).") from error


def _stripe_client(api_key: str, api_base: str | None) -> "stripe.StripeClient":
    import stripe

    stripe.enable_telemetry = False
    return stripe.StripeClient(api_key, base_addresses={"api": api_base} if api_base else {}, max_network_retries=3)


def _our_endpoints(client: "stripe.StripeClient") -> dict[str, str]:
    endpoints = client.v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter()
    return {endpoint.id: endpoint.url for endpoint in endpoints if endpoint.description == DESCRIPTION}
