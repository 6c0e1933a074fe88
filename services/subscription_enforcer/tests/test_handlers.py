"""Events go in through a broker in memory; what should be is read back from Postgres."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.clock import BusinessClock
from billing_common.events import Event, InvalidEventError, SubscriptionCreated, SubscriptionDeleted
from billing_common.testing import OneConnectionPool, memory_kafka
from subscription_enforcer.handlers import router

Publish = Callable[[Event], Awaitable[None]]


@pytest.fixture
async def publish(connection: asyncpg.Connection, clock: BusinessClock) -> AsyncIterator[Publish]:
    async with memory_kafka(router, pool=OneConnectionPool(connection), clock=clock) as publish:
        yield publish


async def desired(connection: asyncpg.Connection) -> tuple[Any, ...]:
    row = await connection.fetchrow("select desired, desired_reason, revision, pending from access where subscription_id = 's-1'")
    assert row is not None
    return tuple(row)


async def test_a_new_subscription_should_be_granted(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(SubscriptionCreated(**samples.state().model_dump()))
    assert await desired(connection) == ("granted", "subscribed", 1, True)


async def test_an_event_delivered_twice_is_taken_once(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.state("unpaid", 2))
    before = await connection.fetchval("select desired_at from access")
    await publish(samples.state("unpaid", 2))
    assert await connection.fetchval("select desired_at from access") == before
    assert await connection.fetchval("select count(*) from inbox") == 1


async def test_an_event_that_was_claimed_before_is_refused(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    event = samples.state()
    claimed = f"subscription_enforcer.{event.topic}"
    await connection.execute("insert into inbox(event_id, consumer) values ($1, $2)", event.event_id, claimed)
    await publish(event)
    assert await connection.fetchval("select count(*) from access") == 0


async def test_an_older_revision_changes_nothing(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(SubscriptionDeleted(**samples.state("canceled", 9).model_dump()))
    await publish(samples.state("active", 8))
    assert await desired(connection) == ("revoked", "canceled", 9, True)


async def test_a_cancellation_may_come_before_the_subscription(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.cancellation())
    assert await desired(connection) == (None, "", 0, False)
    await publish(SubscriptionCreated(**samples.state().model_dump()))
    assert await desired(connection) == ("suspended", "cancellation", 1, True)


async def test_a_cancellation_at_the_period_end_leaves_access_alone(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.state())
    await publish(samples.cancellation("period_end"))
    assert await desired(connection) == ("granted", "subscribed", 1, True)


async def test_a_hard_stop_suspends(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.state())
    await publish(samples.threshold())
    assert await desired(connection) == ("suspended", "quota", 1, False)  # nothing was applied yet: no key to stop


RAISED: dict[str, tuple[dict[str, Any], str]] = {
    "more calls": ({"source": "ingest", "quota": {"calls": 10}}, "granted"),
    "as many calls": ({"source": "ingest", "quota": {"calls": 9}}, "suspended"),
    "calls beyond are paid for": ({"source": "ingest", "quota": {"calls": 9, "beyond": "overage"}}, "granted"),
    "the gateway stops them itself": ({"source": "stream", "quota": {"calls": 9}}, "granted"),
}


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("news", ["the catalogue first", "the subscription first"])
async def test_a_stop_ends_where_a_new_version_allows_more(
    publish: Publish, connection: asyncpg.Connection, samples: Any, name: str, news: str
) -> None:
    plan, access = RAISED[name]
    await publish(samples.catalogue(source="ingest"))
    await publish(samples.state(revision=1))
    await publish(samples.threshold(product_id="standard", limit=9))
    assert (await desired(connection))[0] == "suspended"
    events = [samples.catalogue(version=2, **plan), samples.state(revision=2, catalogue_version=2)]
    for event in events if news == "the catalogue first" else reversed(events):
        await publish(event)
    assert (await desired(connection))[0] == access
    await publish(samples.threshold(product_id="standard", limit=10))
    assert (await desired(connection))[0] == ("suspended" if plan["source"] == "ingest" and "beyond" not in plan["quota"] else access)


async def test_a_new_decision_ends_hold_and_approval(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.catalogue())
    await publish(samples.state("unpaid", 1))
    await connection.execute("update access set held = true, approved_by = 'operator', tries = 7")
    await publish(samples.state("unpaid", 2))
    assert tuple(await connection.fetchrow("select held, approved_by, tries from access") or ()) == (True, "operator", 0)
    await publish(samples.state("active", 3))
    assert tuple(await connection.fetchrow("select held, approved_by from access") or ()) == (False, None)


async def test_an_unpaid_customer_is_suspended_when_his_plan_is_known_to_have_no_grace(
    publish: Publish, connection: asyncpg.Connection, samples: Any
) -> None:
    await publish(samples.state("unpaid", 1))
    assert await desired(connection) == ("granted", "subscribed", 1, True)
    await publish(samples.catalogue())
    assert await desired(connection) == ("suspended", "payment_failed", 1, False)


async def test_the_grace_of_the_plan_that_was_bought_counts(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    await publish(samples.catalogue(grace_days=7))
    await publish(samples.catalogue(version=2))
    await publish(samples.state("unpaid", 1))
    assert await desired(connection) == ("granted", "subscribed", 1, True)
    assert await connection.fetchval("select reconsider_at - unpaid_since from access") == timedelta(days=7)


async def test_an_event_with_a_dangerous_id_leaves_no_trace(publish: Publish, connection: asyncpg.Connection, samples: Any) -> None:
    with pytest.raises(InvalidEventError):
        await publish(samples.state(user_id="../users"))
    assert await connection.fetchval("select count(*) from inbox") == 0
    assert await connection.fetchval("select count(*) from access") == 0
