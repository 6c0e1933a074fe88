"""Hours are added up whatever their size, late events cost only their own keys, and the sums always agree with the windows."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.db import Connection
from usage_collector import forgetting, rolling, rollup_store, store
from usage_collector.collecting import Collector

from .conftest import START, FixedClock, Publish, call, catalogue_applied, collect, empty, make_collector, state

HOUR = START.replace(minute=0)
LATER = timedelta(hours=9)


@pytest.fixture
async def ready(publish: Publish) -> None:
    await publish(catalogue_applied())
    for sub in ("sub-1", "sub-2"):
        await publish(state(sub=sub))


async def sums(pool: asyncpg.Pool, sub: str = "sub-1", *, hours: int = 3) -> list[dict[str, Any]]:
    async with pool.acquire() as connection:
        found = await rollup_store.split(connection, [sub], HOUR, HOUR + timedelta(hours=hours), ["hour", "outcome"])
    assert found.complete_until is None
    return found.rows


async def test_an_hour_may_take_longer_than_other_statements(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await collect(collector, clock, [call("a", START)])
    monkeypatch.setattr(
        rollup_store, "ADD_HOUR_OF_KEYS", rollup_store.ADD_HOUR_OF_KEYS.replace("as seen", "as seen cross join pg_sleep(0.3)")
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("set local statement_timeout = '100ms'")
        assert await rollup_store.roll_up(connection, HOUR)
    assert await pool.fetchval("select sum(events) from usage_rollup") == 1


async def test_an_hour_that_takes_too_long_does_not_keep_the_others_waiting(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await collect(collector, clock, [call("a", START)])
    await collect(collector, clock, [call("b", START + timedelta(hours=1))])
    real = rollup_store.roll_up

    async def slow_for_the_first(connection: Connection, hour: Any) -> bool:
        if hour == HOUR:
            await connection.execute("set local statement_timeout = '20ms'")
            await connection.execute("select pg_sleep(5)")
        return await real(connection, hour)

    monkeypatch.setattr(rollup_store, "roll_up", slow_for_the_first)
    assert await rolling.roll_up_due(pool, now=clock.now() + LATER) == 1
    assert [row["hour"] for row in await pool.fetch("select distinct hour from usage_rollup")] == [HOUR + timedelta(hours=1)]
    assert await rollup_store.count_due(pool, before=clock.now() + LATER) == 1
    monkeypatch.undo()
    assert await rolling.roll_up_due(pool, now=clock.now() + LATER) == 1


async def test_a_late_event_has_only_its_own_key_added_up_again(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_store, "FEW", 0)
    await collect(collector, clock, [call("a", START), call("b", START, sub="sub-2")])
    assert [row["sids"] for row in await pool.fetch("select sids from changed_hour")] == [None]
    await rolling.roll_up_due(pool, now=clock.now() + LATER)
    rolled = "select xmin::text from usage_rollup where sid = $1 and hour = $2"
    before = await pool.fetchval(rolled, "sub-2", HOUR)
    await collect(
        collector, clock, [call("late", START), *(call(f"now-{n}", START + timedelta(hours=1), sub=f"sub-{n}") for n in range(3))]
    )
    marks = {row["hour"]: row["sids"] for row in await pool.fetch("select hour, sids from changed_hour")}
    assert marks == {HOUR: ["sub-1"], HOUR + timedelta(hours=1): None}
    assert sum(row["distinct"] for row in await sums(pool, hours=1)) == 2
    monkeypatch.setattr(rollup_store, "OF_KEYS", "this is never asked: no event of sub-2 has changed")
    assert sum(row["distinct"] for row in await sums(pool, "sub-2", hours=1)) == 1
    monkeypatch.undo()
    await rolling.roll_up_due(pool, now=clock.now() + LATER)
    assert await pool.fetchval(rolled, "sub-2", HOUR) == before
    assert sum(row["distinct"] for row in await sums(pool, hours=1)) == 2


@pytest.mark.parametrize("limits", [{}, {"FEW": 0}, {"FEW": 0, "NAMED_MAX": 0}, {"ROLLED_APART": 0}])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.lists(st.tuples(st.sampled_from(["event", "failed"]), st.integers(1, 2), st.integers(0, 5), st.integers(0, 3)), max_size=3),
        max_size=8,
    )
)  # each a batch of (kind, subscription, name, half hour); an empty one: roll up
async def test_the_split_always_adds_up_to_the_windows(
    pool: asyncpg.Pool,
    publish: Publish,
    clock: FixedClock,
    limits: dict[str, int],
    steps: list[list[tuple[str, int, int, int]]],
) -> None:
    await empty(pool)
    collector = make_collector(pool)
    await publish(catalogue_applied())
    for number in (1, 2):
        await publish(state(sub=f"sub-{number}"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(rollup_store, name, value)
        for place, batch in enumerate(steps):
            await collect(collector, clock, [_call(*one) for one in sorted(set(batch))])
            if not batch:
                await rolling.roll_up_due(pool, now=clock.now() + timedelta(hours=place))
        for number in (1, 2):
            found = await sums(pool, f"sub-{number}")
            assert {row["hour"]: row["quantity"] for row in found if row["outcome"] == "counted"} == await _windows(pool, f"sub-{number}")
            assert sum(row["distinct"] for row in found) == len({one for batch in steps for one in batch if one[1] == number})


def _call(kind: str, number: int, name: int, place: int) -> Any:
    at = START + timedelta(minutes=30 * place)
    return call(f"{kind}-{number}-{name}-{place}", at, sub=f"sub-{number}", status=200 if kind == "event" else 500)


async def _windows(pool: asyncpg.Pool, sub: str) -> dict[Any, int]:
    rows: Iterable[Any] = await pool.fetch(
        "select hour, quantity from usage_window w join segment s on s.id = w.segment_id where quantity > 0 and subscription_id = $1", sub
    )
    return {row["hour"]: row["quantity"] for row in rows}


async def test_what_is_too_old_is_deleted_in_pages(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "PAGE", 2)
    days = [START.date() + timedelta(days=n) for n in range(2)]
    for name, day in [*((f"old-{n}", days[0]) for n in range(5)), ("new", days[1])]:
        await pool.execute("insert into duplicate_count (sid, day, origin, events) values ($1, $2, 'stream', 1)", name, day)
    async with pool.acquire() as connection:
        await store.forget_before(connection, days[1])
    assert [row["sid"] for row in await pool.fetch("select sid from duplicate_count")] == ["new"]


async def test_the_further_meters_of_a_forgotten_day_go_with_it(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock
) -> None:
    await publish(catalogue_applied())
    await publish(state(product_id="hybrid"))
    for at in (START, START + timedelta(days=1)):
        clock.instant = at + timedelta(hours=1)
        await collect(collector, clock, [call(f"at {at}", at, properties={"responseBytes": 300})])
    rows = "select tableoid::regclass::text as place from usage_event_meter order by 1"
    assert [row["place"] for row in await pool.fetch(rows)] == ["usage_event_meter_20270110", "usage_event_meter_20270111"]
    async with pool.acquire() as connection:
        assert await store.forget_before(connection, START.date() + timedelta(days=1)) == 1
    assert [row["place"] for row in await pool.fetch(rows)] == ["usage_event_meter_20270111"]
