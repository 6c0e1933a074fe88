"""Running totals and closings in the outbox; what the internal doors show."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from billing_common.events import SubscriptionUpdated, UsageCollected, UsageSegmentClosed
from billing_common.testing import events_in_outbox
from usage_collector import publishing, routes, routes_held
from usage_collector.collecting import Collector
from usage_collector.directory import Directory
from usage_collector.positions import Positions

from .conftest import FEBRUARY, MARCH, START, FixedClock, Publish, call, catalogue_applied, collect, door_to, state

HOUR = START.replace(minute=0)


@pytest.fixture
async def ready(publish: Publish, collector: Collector, clock: FixedClock) -> None:
    await publish(catalogue_applied())
    await publish(state())
    await collect(collector, clock, [call(str(n), START + timedelta(minutes=20 * n)) for n in range(4)])


async def told(pool: asyncpg.Pool) -> list[UsageCollected]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, UsageCollected)


async def closings(pool: asyncpg.Pool) -> list[UsageSegmentClosed]:
    async with pool.acquire() as connection:
        return await events_in_outbox(connection, UsageSegmentClosed)


async def test_a_window_is_told_as_a_running_total_with_a_growing_revision(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    assert await publishing.publish_all_windows(pool, Directory(), now=clock.now()) == 2
    assert await publishing.publish_all_windows(pool, Directory(), now=clock.now()) == 0
    await collect(collector, clock, [call("more", START)])
    assert await publishing.publish_all_windows(pool, Directory(), now=clock.now()) == 1
    events = await told(pool)
    assert sorted((e.revision, e.hour, e.timestamp, e.quantity) for e in events) == [
        (1, HOUR, START, 2),
        (1, HOUR + timedelta(hours=1), HOUR + timedelta(hours=1), 2),
        (2, HOUR, START, 3),
    ]
    assert len({e.event_id for e in events}) == 3
    assert {(e.subscription_id, e.account_id, e.product_id, e.catalogue_version) for e in events} == {("sub-1", "acct-sub-1", "payg", 1)}


async def test_a_total_that_could_not_be_written_to_the_outbox_is_told_later(pool: asyncpg.Pool, ready: None, clock: FixedClock) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await publishing.publish_windows(connection, now=clock.now())
        await transaction.rollback()  # killed before the commit
    assert await told(pool) == []
    assert await publishing.publish_all_windows(pool, Directory(), now=clock.now()) == 2


async def test_a_segment_is_closed_after_its_end_and_grace_with_its_last_totals(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    wall, grace = START, timedelta(seconds=2)
    clock.instant = FEBRUARY - timedelta(seconds=1)
    assert await publishing.due_segments(pool, now=clock.now(), wall=wall, grace=grace) == []
    clock.instant = FEBRUARY
    assert await publishing.due_segments(pool, now=clock.now(), wall=wall, grace=grace) == []
    (due,) = await publishing.due_segments(pool, now=clock.now(), wall=wall + grace, grace=grace)
    assert await publishing.close_segments(pool, collector.directory, [due.id], now=clock.now()) == 1
    assert await publishing.close_segments(pool, collector.directory, [due.id], now=clock.now()) == 0
    (closed,) = await closings(pool)
    assert (closed.segment_start, closed.segment_end, closed.reason, closed.totals) == (START, FEBRUARY, "period_end", {"calls": 4})
    assert (closed.product_id, closed.catalogue_version) == ("payg", 1)
    assert sum(event.quantity for event in await told(pool)) == 4


async def test_a_call_for_a_closed_segment_is_held_as_late(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock
) -> None:
    clock.instant = FEBRUARY
    (due,) = await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))
    await publishing.close_segments(pool, collector.directory, [due.id], now=clock.now())
    await collect(collector, clock, [call("late", START)])
    row = await pool.fetchrow("select outcome::text, reason, segment_id from usage_event where external_id = 'late'")
    assert tuple(row) == ("held", "late", due.id)
    assert await pool.fetchval("select sum(quantity) from usage_window") == 4


async def test_a_segment_waits_for_its_catalogue_and_for_held_events(pool: asyncpg.Pool, publish: Publish, clock: FixedClock) -> None:
    await publish(state())
    clock.instant = FEBRUARY
    assert await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0)) == []
    await publish(catalogue_applied())
    await pool.execute("update subscription set unsettled = true")
    assert await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0)) == []
    await pool.execute("update subscription set unsettled = false")
    assert len(await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))) == 1


@pytest.fixture
async def door(pool: asyncpg.Pool, clock: FixedClock, collector: Collector) -> AsyncIterator[httpx.AsyncClient]:
    scopes = ("usage:read", "senders:write", "senders:read")
    async with door_to(routes.router, *scopes, pool=pool, clock=clock, positions=Positions([]), collector=collector) as client:
        yield client


SPAN = {"from": HOUR.isoformat(), "to": (HOUR + timedelta(hours=2)).isoformat()}


async def test_usage_is_shown_by_hour_and_by_day(ready: None, door: httpx.AsyncClient) -> None:
    by_hour = (await door.get("/v1/usage/sub-1", params=SPAN)).json()
    assert [(row["start"], row["quantity"]) for row in by_hour["usage"]] == [("2027-01-10T12:00:00Z", 2), ("2027-01-10T13:00:00Z", 2)]
    by_day = (await door.get("/v1/usage/sub-1", params={**SPAN, "by": "day"})).json()
    assert [(row["start"], row["quantity"]) for row in by_day["usage"]] == [("2027-01-10T00:00:00Z", 4)]
    assert by_day["totals"] == {"calls": 4}
    assert by_day["freshness"].keys() == {"as_of", "staleness_seconds", "unread_records"}


async def test_totals_of_a_period_that_begins_within_an_hour_hold_that_period_and_no_other(
    door: httpx.AsyncClient, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    renewal = START + timedelta(minutes=20)
    await publish(catalogue_applied())
    await publish(state(current_period_end=renewal))
    await publish(state(SubscriptionUpdated, revision=2, current_period_start=renewal, current_period_end=FEBRUARY))
    calls = [call(str(n), START + timedelta(minutes=5 * n)) for n in range(6)]  # four before the renewal, two after it
    await collect(collector, clock, calls)
    first, second = ((START, renewal), (renewal, FEBRUARY))

    async def totals(since: datetime, until: datetime, *ids: str) -> Any:
        entries = [{"subscription_id": name, "from": since.isoformat(), "to": until.isoformat()} for name in ids]
        return (await door.post("/v1/usage-totals", json={"entries": entries})).json()

    assert await totals(*first, "sub-1", "sub-9") == {"totals": {"sub-1": {"payg": {"calls": 4}}}}
    assert await totals(*second, "sub-1") == {"totals": {"sub-1": {"payg": {"calls": 2}}}}
    assert await totals(FEBRUARY, MARCH, "sub-1") == {"totals": {"sub-1": {}}}
    assert "asked for once" in (await totals(*first, "sub-1", "sub-1"))["detail"]


async def test_reconciliation_shows_every_outcome_and_finds_a_window_that_is_wrong(
    pool: asyncpg.Pool, ready: None, door: httpx.AsyncClient, collector: Collector, clock: FixedClock
) -> None:
    again = [call("0", START), call("failed", START, status=503), call("early", START - timedelta(minutes=10))]
    await collect(collector, clock, again)
    question = {"subscription_id": "sub-1", **SPAN}
    answer = (await door.get("/v1/reconciliation", params=question)).json()
    assert answer["events"] == {"received": 6, "counted": 4, "filtered": 1, "rejected": 0, "held": 1, "duplicates": 1}
    assert answer["reasons"] == {"filtered": {"failed": 1}, "rejected": {}, "held": {"before_start": 1}}
    meters = {"calls": {"counted": 4, "windows": 4, "late_billed": 0, "late_waived": 0}}
    assert (answer["sources"], answer["meters"], answer["balanced"]) == ({"stream": 6}, meters, True)
    await pool.execute("update usage_window set quantity = quantity + 1 where hour = $1", HOUR)
    assert (await door.get("/v1/reconciliation", params=question)).json()["balanced"] is False


async def test_rejected_events_are_listed_with_their_reason(
    ready: None, door: httpx.AsyncClient, collector: Collector, clock: FixedClock
) -> None:
    wrong = [call("meter", START, stated_meter="nonsense"), call("old", START - timedelta(days=60)), call("theirs", START, sub="sub-9")]
    await collect(collector, clock, wrong[:2])
    answer = (await door.get("/v1/rejected")).json()
    assert [(one["id"], one["reason"], one["sid"]) for one in answer["events"]] == [
        ("meter", "unknown_meter", "sub-1"),
        ("old", "too_old", "sub-1"),
    ]
    assert (await door.get("/v1/rejected", params={"subscription_id": "sub-2"})).json()["events"] == []
    assert len((await door.get("/v1/rejected", params={"subscription_id": "sub-1", "limit": 1})).json()["events"]) == 1
    assert (await door.get("/v1/rejected", params={"limit": 0})).status_code == 422


async def test_events_that_wait_are_listed_by_whom_they_name_and_why(
    ready: None, pool: asyncpg.Pool, collector: Collector, clock: FixedClock
) -> None:
    before = START - timedelta(hours=1)
    strangers = [call("a", START, sub="sub-9"), call("b", HOUR, sub="sub-9"), call("c", START, sub="sub-9_2"), call("d", before)]
    await collect(collector, clock, strangers)
    async with door_to(routes_held.router, "usage:read", pool=pool) as door:
        found, asked, first = [(await door.get("/v1/held", params=p)).json() for p in ({}, {"subscription_id": "sub-9"}, {"limit": 1})]
    assert [(one["sid"], one["reason"], one["events"]) for one in found] == [
        ("sub-1", "before_start", 1),
        ("sub-9", "unknown_subscription", 2),
        ("sub-9_2", "unknown_subscription", 1),
    ]
    assert [datetime.fromisoformat(found[1][name]) for name in ("first_at", "last_at")] == [HOUR, START]
    assert [one["sid"] for one in asked] == ["sub-9", "sub-9_2"]
    assert first == found[:1]


async def test_doors_refuse_strangers_and_nonsense(ready: None, door: httpx.AsyncClient) -> None:
    assert (await door.get("/v1/usage/sub-9", params=SPAN)).status_code == 404
    assert (await door.get("/v1/usage/sub-1", params={"from": SPAN["to"], "to": SPAN["from"]})).status_code == 422
    assert (await door.get("/v1/usage/sub-1", params={**SPAN, "from": "2027-01-10T12:00:00"})).status_code == 422
    assert (await door.get("/v1/usage/sub-1", params=SPAN, headers={"authorization": ""})).status_code == 401


async def test_a_senders_key_is_shown_once(pool: asyncpg.Pool, door: httpx.AsyncClient) -> None:
    for ours in ("apim", "apim/reports", "turnpike", "turnpike/corrections"):
        refused = await door.post("/v1/senders", json={"name": "G", "source": ours})
        assert (refused.status_code, "Turnpike's own" in refused.text) == (422, True)
    made = await door.post("/v1/senders", json={"name": "G", "source": "/gw", "subscriptions": ["sub-1"], "meters": ["calls", "cals"]})
    assert (made.status_code, made.json()["meters"]) == (201, ["calls", "cals"])
    assert any("no meter of the catalogue is called" in note and "cals" in note for note in made.json()["notes"])
    listed = (await door.get("/v1/senders")).json()["senders"]
    assert [(one["id"], one["source_prefix"], one["meters"]) for one in listed] == [(made.json()["id"], "/gw", ["calls", "cals"])]
    assert made.json()["key"] not in str(listed)
    assert (await door.delete(f"/v1/senders/{made.json()['id']}")).status_code == 204
    assert (await door.delete(f"/v1/senders/{made.json()['id']}")).status_code == 404
    assert (await door.get("/v1/senders")).json() == {"senders": []}
    for wrong in ({"source": "/"}, {"source": "/gw", "meters": []}, {"source": "/gw", "meters": [""]}):
        assert (await door.post("/v1/senders", json={"name": "G", **wrong})).status_code == 422
