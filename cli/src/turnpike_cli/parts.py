"""The parts of the stack: their names, the ports they want and the order in which they depend on each other."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["server", "sandbox", "service"]


@dataclass(frozen=True)
class Part:
    """One process. `ports` maps the name of each port to the number it would like to have."""

    name: str
    kind: Kind
    ports: dict[str, int]
    door: str = "internal"  # the port with health, metrics and status
    title: str = ""


KAFKA = Part("kafka", "server", {"client": 4900, "controller": 4901}, door="client", title="Kafka")
POSTGRES = Part("postgres", "server", {"sql": 4800}, door="sql", title="Postgres")
SANDBOX_STRIPE = Part("sandbox_stripe", "sandbox", {"http": 4300}, door="http", title="sandbox Stripe: API and pages")
SANDBOX_APIM = Part(
    "sandbox_apim",
    "sandbox",
    {"portal": 4100, "gateway": 4200, "arm": 4250},
    door="gateway",
    title="sandbox API Management: developer portal, gateway, management API",
)
SERVICES = (
    Part("delegation_gateway", "service", {"http": 4400, "internal": 4701}, title="Turnpike's pages"),
    Part("checkout", "service", {"internal": 4702}, title="quotes, checkout, catalogue"),
    Part("webhook_ingress", "service", {"http": 4600, "internal": 4703}, title="Stripe's webhooks"),
    Part("usage_collector", "service", {"http": 4500, "internal": 4704}, title="usage over HTTP"),
    Part("stripe_reporter", "service", {"internal": 4705}, title="usage to Stripe"),
    Part("subscription_enforcer", "service", {"internal": 4706}, title="access at API Management"),
)
PARTS = (KAFKA, POSTGRES, SANDBOX_STRIPE, SANDBOX_APIM, *SERVICES)  # stopped in the reverse of this order
BY_NAME = {part.name: part for part in PARTS}
SERVICE_NAMES = tuple(part.name for part in SERVICES)
