"""Looks at Stripe with each service's key: reachable, and may it read what the service works with."""

import asyncio
from collections.abc import Mapping

from turnpike_cli.findings import Finding, failed, fine, warning

AREA = "Stripe"
TIMEOUT_SECONDS = 10.0
RESOURCES = {  # service -> what it reads: (name as in the Dashboard's list of permissions, path)
    "checkout": (
        ("Customers", "/v1/customers"),
        ("Products", "/v1/products"),
        ("Prices", "/v1/prices"),
        ("Checkout Sessions", "/v1/checkout/sessions"),
        ("Subscriptions", "/v1/subscriptions"),
        ("Invoices", "/v1/invoices"),
        ("Billing Meters", "/v1/billing/meters"),
    ),
    "webhook_ingress": (
        ("Events", "/v1/events"),
        ("Subscriptions", "/v1/subscriptions"),
        ("Invoices", "/v1/invoices"),
        ("Checkout Sessions", "/v1/checkout/sessions"),
        ("Customers", "/v1/customers"),
    ),
    "stripe_reporter": (("Billing Meters", "/v1/billing/meters"), ("Invoices", "/v1/invoices")),
}


async def examine(settings: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    with_key = {name: given for name, given in settings.items() if given.get("STRIPE_API_KEY")}
    groups = await asyncio.gather(*(_examine_service(name, given) for name, given in with_key.items()))
    return [finding for group in groups for finding in group]


async def _examine_service(service: str, given: Mapping[str, str]) -> list[Finding]:
    import stripe  # half a second to import

    stripe.enable_telemetry = False
    transport = stripe.HTTPXClient(timeout=TIMEOUT_SECONDS)
    address = given.get("STRIPE_API_BASE")
    client = stripe.StripeClient(given["STRIPE_API_KEY"], base_addresses={"api": address} if address else {}, http_client=transport)
    where = address or "Stripe"
    try:
        wanted = RESOURCES[service]
        findings = [found for found in await asyncio.gather(*(_may_read(client, service, *entry) for entry in wanted)) if found]
    except (stripe.APIConnectionError, stripe.AuthenticationError) as error:
        if isinstance(error, stripe.AuthenticationError):
            return [failed(AREA, f"{service}: the key is refused", f"set {service.upper()}_STRIPE_API_KEY to a valid key")]
        return [failed(AREA, f"{service}: {where} does not answer", "check the network and STRIPE_API_BASE")]
    finally:
        await transport.close_async()  # type: ignore[no-untyped-call]  # the vendor's
    kind = "test" if "_test_" in given["STRIPE_API_KEY"] else "live"
    if given["STRIPE_API_KEY"].startswith("sk_") and kind == "live":
        findings.append(warning(AREA, f"{service}: it has the secret key", "make a restricted key (rk_) with just its permissions"))
    return findings or [fine(AREA, f"{service}: {where}, {kind} mode, may read {len(wanted)} of {len(wanted)} resources")]


async def _may_read(client: object, service: str, name: str, path: str) -> Finding | None:
    import stripe

    assert isinstance(client, stripe.StripeClient)
    try:
        await client.raw_request_async("get", path, limit=1)
    except stripe.PermissionError:
        return failed(AREA, f"{service}: the key may not read {name}", f"give the restricted key the permission {name}: Read")
    except stripe.RateLimitError:
        return warning(AREA, f"{service}: Stripe limits the rate of calls at {name}", "run the doctor again later")
    except (stripe.APIConnectionError, stripe.AuthenticationError):
        raise
    except stripe.StripeError as error:
        return failed(AREA, f"{service}: {name} answers {error.http_status}", "look at the request in Stripe's log")
    return None
