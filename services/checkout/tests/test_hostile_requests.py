"""Whatever a request says, the answer is not 500: all internal doors, as the service itself tells of them."""

import asyncpg

from billing_common.clock import BusinessClock
from billing_common.hostile import OF_ALL_SERVICES, badly_answered
from billing_common.internal_auth import InternalAuth
from checkout.app import create_service
from checkout.carrying import Outside
from checkout.selling import Seller
from checkout.settings import Settings
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeGateway

SCOPES = ("catalogue:read", "catalogue:write", "quotes:read", "checkout:write", "usage:write")


async def test_no_request_makes_a_door_fail(
    applied: Version, settings: Settings, pool: asyncpg.Pool, clock: BusinessClock, outside: Outside, gateway: StripeGateway
) -> None:
    assert applied.version == 1
    service = create_service(settings)
    shared = {"pool": pool, "clock": clock, "outside": outside, "seller": Seller(pool, gateway, None), "usage_door": None}
    for name, value in {**shared, "token_keys": settings.token_keys}.items():
        setattr(service.internal.state, name, value)
    known = {"product": "payg", "product_id": "payg", "currency": "usd", "when": "now", "plan": "0" * 16, "usage": {"calls": 1}}
    auth = InternalAuth(settings.token_keys, caller="test", scopes=SCOPES)
    found = await badly_answered(service.internal, auth, known, without=OF_ALL_SERVICES)
    assert found == [], "\n".join(found)
