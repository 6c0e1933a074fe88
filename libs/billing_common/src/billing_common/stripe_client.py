"""One way to make a Stripe client: retries on, telemetry off, bounded time. Import it only where Stripe is spoken to."""

import stripe

from billing_common.settings import StripeSettings

API_VERSION = "2026-10-28.endive"
NETWORK_RETRIES = 3  # StripeClient's own default is none


def create_client(settings: StripeSettings) -> tuple[stripe.StripeClient, stripe.HTTPClient]:
    """Return the client and its transport, both bound to the running event loop. Close with `await transport.close_async()`."""
    stripe.enable_telemetry = False
    transport = stripe.HTTPXClient(timeout=settings.stripe_timeout_seconds)
    return client_of(settings, settings.stripe_api_key.get_secret_value(), transport), transport


def client_of(settings: StripeSettings, key: str, transport: stripe.HTTPClient) -> stripe.StripeClient:
    """Return a client for another key, such as the token of a session of the v2 meter event stream, on the same transport."""
    addresses: dict[str, str] = {}
    if settings.stripe_api_base:
        addresses["api"] = settings.stripe_api_base.rstrip("/")
    if events_base := settings.stripe_meter_events_base or settings.stripe_api_base:
        addresses["meter_events"] = events_base.rstrip("/")
    return stripe.StripeClient(
        key,
        base_addresses=addresses,  # type: ignore[arg-type]  # a TypedDict whose keys are all optional
        max_network_retries=NETWORK_RETRIES,
        http_client=transport,
        stripe_version=API_VERSION,
    )
