"""What the HTTP door refused: sums that stay bounded and survive an outage of Postgres."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from usage_collector import refusal_store
from usage_collector.refusals import KEPT_MAX, Refusals, rejected

from .conftest import START

SPAN = (START - timedelta(days=1), START + timedelta(days=1))


async def test_refusals_are_added_up_by_sender_subscription_reason_and_day(pool: asyncpg.Pool) -> None:
    refusals = Refusals()
    for name in "abc":
        refusals.add("s1", "sub-1", "invalid_quantity", name, now=START)
    await refusals.flush(pool)
    refusals.add("s1", "sub-1", "invalid_quantity", "d", now=START + timedelta(minutes=1))
    refusals.add("s1", "", "invalid_event", None, now=START)
    await refusals.flush(pool)
    assert await refusals.flush(pool) == 0
    found = (await rejected(pool, None, *SPAN, limit=10))["at_the_door"]
    assert [(one["sender_id"], one["subscription_id"], one["reason"], one["events"], one["last_event_id"]) for one in found] == [
        ("s1", "sub-1", "invalid_quantity", 4, "d"),
        ("s1", "", "invalid_event", 1, None),
    ]
    assert len((await rejected(pool, "sub-1", *SPAN, limit=10))["at_the_door"]) == 1


async def test_a_flood_stays_bounded_and_survives_an_outage(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals()
    for n in range(KEPT_MAX + 500):
        refusals.add("s1", f"made-up-{n}", "foreign_subscription", "x", now=START)

    async def fails(*_arguments: Any) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patched:
        patched.setattr(refusal_store, "add", fails)
        with pytest.raises(ConnectionRefusedError):
            await refusals.flush(pool)
    assert await refusals.flush(pool) == KEPT_MAX + 1
    assert await pool.fetchval("select sum(events) from ingest_refusal") == KEPT_MAX + 500
    monkeypatch.setattr(refusal_store, "ROWS_MAX", 100)
    refusals.add("s1", "later", "foreign_subscription", "x", now=START + timedelta(seconds=1))
    await refusals.flush(pool)
    assert await pool.fetchval("select count(*) from ingest_refusal") <= 100
