"""Whatever a request says, the answer is not 500: all internal doors, as the service itself tells of them."""

from datetime import timedelta

import asyncpg
from pydantic import SecretStr

from billing_common.hostile import OF_ALL_SERVICES, badly_answered
from billing_common.internal_auth import InternalAuth
from usage_collector.app import create_service
from usage_collector.collecting import Collector
from usage_collector.positions import Positions
from usage_collector.settings import Settings

from .conftest import KEYS, START, FixedClock, Publish, call, catalogue_applied, collect, state

SCOPES = ("usage:read", "usage:write", "senders:read", "senders:write")


async def test_no_request_makes_a_door_fail(pool: asyncpg.Pool, collector: Collector, clock: FixedClock, publish: Publish) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call("a", START)])
    settings = Settings(
        database_url=SecretStr("postgresql://unused"), kafka_bootstrap_servers="127.0.0.1:1", internal_token_keys=SecretStr(KEYS[0])
    )
    service = create_service(settings)
    shared = {"pool": pool, "collector": collector, "clock": clock, "token_keys": KEYS, "positions": Positions([]), "gateway_calls": None}
    shared |= {"reports_lag": timedelta(hours=1), "usage_retention": settings.usage_retention}
    for name, value in shared.items():
        setattr(service.internal.state, name, value)
    known = {
        "subscription_id": "sub-1",
        "subscriptions": ["sub-1"],
        "meter": "calls",
        "hour": START.isoformat(),
        "at": START.isoformat(),
        "after": "",
    }
    auth = InternalAuth(KEYS, caller="test", scopes=SCOPES)
    found = await badly_answered(service.internal, auth, known, without=OF_ALL_SERVICES)
    assert found == [], "\n".join(found)
