"""Whatever a request says, the answer is not 500: all internal doors, as the service itself tells of them."""

from collections.abc import Callable
from datetime import timedelta

import asyncpg
import httpx
import pytest

from billing_common.hostile import OF_ALL_SERVICES, badly_answered
from billing_common.internal_auth import InternalAuth
from stripe_reporter.app import create_service
from stripe_reporter.collector_gateway import CollectorGateway
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

from .conftest import FixedClock
from .test_explanation import MARCH, Publish, catalogue_applied, invoice, rated_lines, subscribed, windows


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away", request=request)


COLLECTORS: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "away": away,
    "knowing nothing": lambda _request: httpx.Response(404, json={"detail": "unknown"}),
    "refusing": lambda _request: httpx.Response(422, json={"detail": "`after` is not one that an earlier page named"}),
}


@pytest.mark.parametrize("collector", COLLECTORS)
async def test_no_request_makes_a_door_fail(
    collector: str, settings: Settings, pool: asyncpg.Pool, publish: Publish, clock: FixedClock, gateway: StripeGateway
) -> None:
    await publish(catalogue_applied())
    await publish(subscribed("standard"))
    for window in windows("standard", {MARCH: 60_000}):
        await publish(window)
    await publish(invoice(rated_lines("standard", 60_000)))
    service = create_service(settings)
    auth = InternalAuth(settings.token_keys, caller="test", scopes=["reports:read", "reports:write"])
    async with httpx.AsyncClient(transport=httpx.MockTransport(COLLECTORS[collector]), base_url="http://collector") as client:
        shared = {"pool": pool, "clock": clock, "stripe": gateway, "collector": CollectorGateway(client, auth)}
        shared |= {"token_keys": settings.token_keys, "summary_lag": timedelta(seconds=1)}
        for name, value in shared.items():
            setattr(service.internal.state, name, value)
        known = {"subscription_id": "s-1", "subscriptions": ["s-1"], "invoice": "in_1", "after": "", "hour": MARCH.isoformat()}
        found = await badly_answered(service.internal, auth, known, without=OF_ALL_SERVICES)
    assert found == [], "\n".join(found)
