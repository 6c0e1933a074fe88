"""Rows go in through the binary COPY and come back through the driver: what it reads is what was observed."""

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import pytest

from usage_collector import store
from usage_collector.event_rows import COLUMNS, Judged, copy_of
from usage_collector.metering import Verdict
from usage_collector.observing import Observation

AT = datetime(2026, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)
PLAIN = Observation(UUID(int=2), AT.date(), AT, "stream", "apim", "call-1", "sid-1", 1, 200, "GET", "/orders/{id}")
FULL = Observation(
    UUID(int=2**128 - 1), AT.date(), AT.replace(microsecond=0), "ingest", "/söurce", "ид-😀", "", 10**12, 599, "POST", "/a\tb\\N",
    "tokens", {"responseBytes": 10**12, "model": "0" * 32},
)  # fmt: skip
BARE = Observation(UUID(int=1), AT.date(), AT, "correction", "s", "e", "sid", -5)
ROWS: list[Judged] = [
    (PLAIN, Verdict("counted", None, 2**62, (("calls", 1), ("traffic", 9)))),
    (FULL, Verdict("rejected", "quantity_too_large", 7)),
    (BARE, Verdict("held", "unknown_subscription")),
]


def as_stored(judged: Judged) -> dict[str, object]:
    one, verdict = judged
    meter_id, counted = verdict.amounts[0] if verdict.amounts else (None, 0)
    seen = {name: getattr(one, name) for name in COLUMNS if hasattr(one, name)}
    said = {"segment_id": verdict.segment_id, "outcome": verdict.outcome, "reason": verdict.reason}
    properties = msgspec.json.encode(one.properties).decode() if one.properties else None
    return seen | said | {"meter_id": meter_id, "counted": counted, "properties": properties}


@pytest.fixture
async def copied(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    async with pool.acquire() as connection:
        await store.add_partition(connection, AT.date())
        await connection.copy_to_table("usage_event", source=copy_of(ROWS), columns=COLUMNS, format="binary")
        rows: list[asyncpg.Record] = await connection.fetch(f"select {', '.join(COLUMNS)} from usage_event order by ctid")
    return rows


async def test_every_value_comes_back_as_it_was_observed(copied: list[asyncpg.Record]) -> None:
    found = {row["id"]: dict(row) for row in copied}
    assert found == {one.id: as_stored((one, verdict)) for one, verdict in ROWS}


async def test_rows_are_written_in_order_of_their_ids_whatever_the_order_of_arrival(copied: list[asyncpg.Record]) -> None:
    assert [row["id"] for row in copied] == [BARE.id, PLAIN.id, FULL.id]
