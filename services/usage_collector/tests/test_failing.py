"""One subscription, segment or hour that fails unforeseen keeps no others waiting; it is tried again, and nothing of it is lost."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from billing_common.events import UsageCollected, UsageSegmentClosed, UsageThresholdReached
from billing_common.testing import events_in_outbox
from usage_collector import failing, late, metrics, publishing, rolling, rollup_store, settling, spending, thresholds
from usage_collector.background import Background
from usage_collector.collecting import Collector
from usage_collector.failing import Failing

from .conftest import CATALOGUE, FEBRUARY, START, FixedClock, Publish, call, catalogue_applied, collect, state, windows

HOUR = START.replace(minute=0)
SUBS = ("sub-1", "sub-2", "sub-3")
DOCUMENT: dict[str, Any] = deepcopy(CATALOGUE)
DOCUMENT["products"][0] |= {"model": "Freemium"}
DOCUMENT["products"][0]["price"]["usage"][0]["included"] = 2
Break = Callable[[Any, str, Callable[..., bool]], None]


class UnforeseenError(Exception):
    """What nobody has thought of."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Return what makes an asynchronous function raise for some arguments, until the patches are undone."""

    def apply(module: Any, name: str, is_bad: Callable[..., bool]) -> None:
        real = getattr(module, name)

        async def raising(*given: Any, **named: Any) -> Any:
            if is_bad(*given):
                raise UnforeseenError
            return await real(*given, **named)

        monkeypatch.setattr(module, name, raising)

    return apply


@pytest.fixture
async def ready(publish: Publish) -> None:
    await publish(catalogue_applied(DOCUMENT))
    for sub in SUBS:
        await publish(state(sub=sub))


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def set_time(monkeypatch: pytest.MonkeyPatch, at: float) -> None:
    monkeypatch.setattr(failing, "time", SimpleNamespace(monotonic=lambda: at))


def failing_now(task: str) -> float:
    return next(sample.value for sample in metrics.FAILING.collect()[0].samples if sample.labels == {"task": task})


async def subs_of(pool: asyncpg.Pool, kind: Any) -> list[str]:
    async with pool.acquire() as connection:
        return sorted({event.subscription_id for event in await events_in_outbox(connection, kind)})


async def call_once(collector: Collector, clock: FixedClock, name: str, **more: Any) -> None:
    await collect(collector, clock, [call(f"{sub} {name}", START, sub=sub, **more) for sub in SUBS])


async def close_all(pool: asyncpg.Pool, collector: Collector, clock: FixedClock) -> None:
    clock.instant = FEBRUARY + timedelta(minutes=1)
    due = await publishing.due_segments(pool, now=clock.now(), wall=START, grace=timedelta(0))
    assert await publishing.close_segments(pool, collector.directory, [one.id for one in due], now=clock.now()) == len(SUBS)


async def test_thresholds_that_cannot_be_looked_at_hold_no_totals_and_no_others(
    pool: asyncpg.Pool,
    ready: None,
    collector: Collector,
    clock: FixedClock,
    broken: Break,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[Any],
) -> None:
    await call_once(collector, clock, "a")
    broken(spending, "reached", lambda _connection, _directory, rows: any(row["subscription_id"] == "sub-1" for row in rows))
    for _ in range(2):
        await publishing.publish_all_windows(pool, collector.directory, now=clock.now())
        await pool.execute("update usage_window set dirty = true")
    assert await subs_of(pool, UsageCollected) == list(SUBS)
    assert await subs_of(pool, UsageThresholdReached) == ["sub-2", "sub-3"]
    assert [entry["subscription_id"] for entry in logged if "thresholds" in entry["event"]] == ["sub-1"], "it is said once"
    await close_all(pool, collector, clock)
    still = Failing[str]("thresholds")
    assert await thresholds.announce_again(pool, collector.directory, still, now=clock.now()) == 0
    assert failing_now("thresholds") == 1
    monkeypatch.undo()
    assert await thresholds.announce_again(pool, collector.directory, still, now=clock.now()) == 0, "it rests"
    assert await thresholds.announce_again(pool, collector.directory, Failing("thresholds"), now=clock.now()) == 1
    assert await subs_of(pool, UsageThresholdReached) == list(SUBS)
    assert await pool.fetchval("select count(*) from threshold_again") == 0


async def test_late_usage_of_one_segment_holds_no_others(
    pool: asyncpg.Pool,
    ready: None,
    collector: Collector,
    clock: FixedClock,
    broken: Break,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[Any],
) -> None:
    await close_all(pool, collector, clock)
    await call_once(collector, clock, "late")
    broken(late, "settle_page", lambda _collector, look: look.subscription_id == "sub-1")
    still = Failing[int]("settle_late")
    for _ in range(2):
        await late.settle_late(collector, now=clock.now(), failing=still)
    became = "select sid, outcome::text || ':' || reason from usage_event order by 1"
    assert list(map(tuple, await pool.fetch(became))) == [
        ("sub-1", "held:late"), ("sub-2", "counted:late_billed"), ("sub-3", "counted:late_billed")
    ]  # fmt: skip
    assert failing_now("settle_late") == 1
    assert [entry["task"] for entry in logged if "the others go on" in entry["event"]] == ["settle_late"]
    monkeypatch.undo()
    set_time(monkeypatch, time.monotonic() + failing.PAUSE_MAX_SECONDS)
    await late.settle_late(collector, now=clock.now(), failing=still)
    assert {row[1] for row in await pool.fetch(became)} == {"counted:late_billed"}
    assert failing_now("settle_late") == 0


async def test_hours_that_cannot_be_added_up_hold_no_others_however_many(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling, "HOURS_MAX", 1)
    clock.instant = START + timedelta(hours=5)
    await collect(collector, clock, [call(str(n), START + timedelta(hours=n)) for n in range(3)])
    broken(rollup_store, "roll_up", lambda _connection, hour: hour < HOUR + timedelta(hours=2))
    assert await rolling.roll_up_due(pool, now=clock.now() + timedelta(hours=9)) == 1
    assert failing_now("roll_up") == 2
    monkeypatch.undo()
    assert await rolling.roll_up_due(pool, now=clock.now() + timedelta(hours=9)) == 2


async def test_held_events_of_one_subscription_hold_no_others(
    pool: asyncpg.Pool, publish: Publish, collector: Collector, clock: FixedClock, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(catalogue_applied(DOCUMENT))
    await call_once(collector, clock, "early")
    for sub in SUBS:
        await publish(state(sub=sub))
    broken(settling, "judge_page", lambda _collector, begun, _now: "sub-1" in begun.versions)
    still, rounds = Failing[str]("settle"), 0
    while await settling.settle_some(collector, clock.now(), still):
        rounds += 1
        assert rounds < 5
    assert rounds == 1, "what failed is left alone for a while"
    assert sorted(sub for sub, *_ in await windows(pool)) == ["sub-2", "sub-3"]
    monkeypatch.undo()
    assert await settling.settle_some(collector, clock.now()) == 1
    assert sorted(sub for sub, *_ in await windows(pool)) == list(SUBS)


async def test_a_segment_that_cannot_be_closed_holds_no_others(
    pool: asyncpg.Pool, ready: None, collector: Collector, clock: FixedClock, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.instant = FEBRUARY + timedelta(minutes=1)
    bad = await pool.fetchval("select id from segment where subscription_id = 'sub-1'")
    broken(publishing, "_closings", lambda _connection, _directory, segments, _now: any(segment.id == bad for segment in segments))

    class Read:
        async def ends(self) -> dict[Any, int]:
            return {}

        async def wait_until_read(self, _ends: Any, *, limit_seconds: float) -> bool:
            return limit_seconds > 0

    service: Any = SimpleNamespace(pool=pool, clock=clock, activity=0)
    read: Any = Read()
    background = Background(service, SimpleNamespace(straggler_grace_seconds=0), collector, read, None)  # type: ignore[arg-type]
    assert await background.close_due() == 2
    assert await subs_of(pool, UsageSegmentClosed) == ["sub-2", "sub-3"]
    monkeypatch.undo()
    assert await background.close_due() == 0, "it rests"
    set_time(monkeypatch, time.monotonic() + failing.PAUSE_MAX_SECONDS)
    assert await background.close_due() == 1
    assert await subs_of(pool, UsageSegmentClosed) == list(SUBS)


@pytest.mark.parametrize("error", [ConnectionResetError(), asyncpg.AdminShutdownError(), asyncpg.InterfaceError("closed"), OSError()])
async def test_what_concerns_everybody_is_raised(error: Exception) -> None:
    one = Failing[str]("settle")

    async def fails(_keys: Any) -> int:
        raise error

    with pytest.raises(type(error)), one.one("sub-1"):
        raise error
    with pytest.raises(type(error)):
        await one.together(["sub-1"], fails)
    assert one.resting() == []


@pytest.mark.parametrize("error", [TimeoutError(), asyncpg.QueryCanceledError(), UnforeseenError()])
def test_what_fails_rests_longer_each_time_and_is_forgotten_when_nobody_tries_it_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 1000.0
    set_time(monkeypatch, at)
    one = Failing[str]("settle")
    for pause in (1, 4, 16, 64, 256, 300, 300):
        with one.one("sub-1"):
            raise error
        set_time(monkeypatch, at + pause - 0.5)
        assert one.resting() == ["sub-1"]
        at += pause
        set_time(monkeypatch, at)
        assert one.resting() == []
        assert failing_now("settle") == 1
    set_time(monkeypatch, at + failing.FORGOTTEN_SECONDS)
    assert one.resting() == []
    assert failing_now("settle") == 0
