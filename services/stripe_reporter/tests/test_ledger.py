"""Two replicas at the same moment: a window is planned by one, a lane is leased by one. Stripe's answers are written for many at once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.db import Connection
from stripe_reporter import ledger
from stripe_reporter.domain import Answer, Kind
from stripe_reporter.sender import wall_now

from .conftest import HOUR

Claim = Callable[[Connection], Awaitable[int]]


@pytest.fixture
async def due(publish: Any, facts: Any, clock: Any) -> datetime:
    await publish(facts.catalogue())
    await publish(facts.subscription())
    await publish(facts.usage(5))
    clock.instant += timedelta(hours=1)
    now: datetime = clock.now()
    return now


async def both_at_once(pool: asyncpg.Pool, first: Claim, second: Claim) -> tuple[int, int]:
    """Let the second try while the first has not committed yet."""
    async with pool.acquire() as one, pool.acquire() as other:
        async with one.transaction():
            won = await first(one)
            waiting = asyncio.create_task(second(other))
            await asyncio.sleep(0.05)
        return won, await waiting


async def test_a_window_is_planned_once(due: datetime, pool: asyncpg.Pool) -> None:
    async def plan(connection: Connection) -> int:
        return await ledger.plan(connection, now=due, wall=wall_now())

    assert await both_at_once(pool, plan, plan) == (1, 0)
    assert await pool.fetchval("select count(*) from ledger") == 1


async def test_a_lane_is_leased_to_one_until_the_lease_ends_or_is_given_back(due: datetime, pool: asyncpg.Pool) -> None:
    wall = wall_now()

    def claim(owner: str, at: datetime = wall) -> Claim:
        async def lanes(connection: Connection) -> int:
            return len(await ledger.claim_lanes(connection, owner=owner, wall=at, until=at + timedelta(seconds=60), limit=9))

        return lanes

    async with pool.acquire() as connection:
        await ledger.plan(connection, now=due, wall=wall)
    assert await both_at_once(pool, claim("one"), claim("other")) == (1, 0)
    async with pool.acquire() as connection:
        assert await claim("other", wall + timedelta(seconds=59))(connection) == 0
        assert await claim("other", wall + timedelta(seconds=61))(connection) == 1
        lane = ledger.Lane("cus_1", "calls", 0)
        async with connection.transaction():  # the first comes back late: the lane is no longer its own
            await ledger.release_lane(connection, lane, owner="one", failures=0, retry_at=wall)
        assert await pool.fetchval("select lease_owner from lane") == "other"
        async with connection.transaction():
            await ledger.release_lane(connection, lane, owner="other", failures=0, retry_at=wall)
        assert await claim("one", wall + timedelta(seconds=62))(connection) == 1


async def test_a_lane_without_open_rows_is_left_alone(due: datetime, pool: asyncpg.Pool, sender: Any) -> None:
    await sender.round()
    assert await pool.fetchval("select open from lane") is False


async def test_what_stripe_took_is_written_for_many_rows_at_once_and_for_each_only_once(
    due: datetime, pool: asyncpg.Pool, publish: Any, facts: Any
) -> None:
    async with pool.acquire() as connection:
        await ledger.plan(connection, now=due, wall=wall_now())
        await publish(facts.usage(9, revision=2))
        await publish(facts.usage(20, hour=HOUR - timedelta(hours=1)))
        await ledger.plan(connection, now=due + timedelta(hours=1), wall=wall_now())
        rows = await ledger.open_rows(connection, ledger.Lane("cus_1", "calls", 0))
        assert sorted(row.quantity for row in rows) == [4, 5, 20]
        answer = Answer(Kind.ACKNOWLEDGED, request_id="req_1")
        (first,) = await ledger.acknowledge(connection, [(rows[0], answer)], wall=wall_now(), now=due)
        assert (first.quantity, first.cause_id) == (rows[0].quantity, str(rows[0].identifier))
        reported = await ledger.acknowledge(connection, [(row, answer) for row in rows], wall=wall_now(), now=due)
    assert sorted((one.hour, one.quantity) for one in reported) == [(HOUR - timedelta(hours=1), 20), (HOUR, 9)]
    assert await pool.fetch("select acknowledged from usage_window order by hour") == [(20,), (9,)]
    assert {row["request_id"] for row in await pool.fetch("select request_id from ledger")} == {"req_1"}
