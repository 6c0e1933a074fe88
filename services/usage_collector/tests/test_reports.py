"""The third source: buckets that grow are counted by their growth, once."""

from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from billing_common.events import SubscriptionUpdated
from usage_collector import publishing, report_store
from usage_collector.apim_gateway import report_filter
from usage_collector.collecting import Collector
from usage_collector.report_polling import ReportPolling, growth, parts_of
from usage_collector.settings import Settings

from .conftest import CATALOGUE, FEBRUARY, START, FixedClock, Publish, call, catalogue_applied, collect, outcomes, state, windows

HOUR = START.replace(minute=0)
LAG = timedelta(minutes=45)


class Reports:
    """Answers as API Management would: calls by bucket and sid."""

    def __init__(self) -> None:
        self.calls: dict[datetime, dict[str, int]] = {}
        self.parts: dict[datetime, int] = {}
        self.asked: list[datetime] = []

    async def ask(self, since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        assert (until - since == timedelta(hours=1)) == (sid is None)
        self.asked.append(since)
        of_hour = self.calls.get(since.replace(minute=0), {})
        return of_hour if sid is None else {sid: self.parts.get(since, of_hour.get(sid, 0))}


@pytest.fixture
async def reports(publish: Publish) -> Reports:
    document: dict[str, Any] = deepcopy(CATALOGUE)
    for product in document["products"][:2]:
        product["source"] = "reports"
    document["products"][1]["price"]["usage"].pop()
    del document["meters"]["traffic"]
    del document["meters"]["calls"]["weights"]  # reports tell nothing that a weight could look at
    await publish(catalogue_applied(document))
    await publish(state())
    return Reports()


@pytest.fixture
async def polling(pool: asyncpg.Pool, collector: Collector, reports: Reports, clock: FixedClock) -> ReportPolling:
    return ReportPolling(pool, collector, reports.ask, clock=clock, interval=timedelta(minutes=5), overlap=timedelta(hours=3), lag=LAG)


async def test_a_bucket_that_grows_is_counted_by_its_growth(
    pool: asyncpg.Pool, polling: ReportPolling, reports: Reports, clock: FixedClock
) -> None:
    for calls, new in ((7, 7), (7, 0), (5, 0), (12, 5)):
        reports.calls = {HOUR: {"sub-1": calls, "not-ours": 9}}
        assert await polling.read_round(now=clock.now()) == new
    assert await windows(pool) == {("sub-1", "calls", START, HOUR): (12, 2)}
    assert set(await outcomes(pool)) == {f"sub-1:{HOUR.isoformat()}:{calls}" for calls in (7, 12)}


async def test_hours_that_were_missed_are_read_later(
    pool: asyncpg.Pool, polling: ReportPolling, reports: Reports, clock: FixedClock
) -> None:
    await polling.read_round(now=clock.now())
    later = START + timedelta(days=1)
    reports.calls = {HOUR + timedelta(hours=10): {"sub-1": 4}}
    assert await polling.is_behind(now=later)
    clock.instant = later
    await polling.read_round(now=later)
    assert not await polling.is_behind(now=later)
    assert await windows(pool) == {("sub-1", "calls", START, HOUR + timedelta(hours=10)): (4, 1)}
    assert min(reports.asked) >= HOUR, "hours without a segment are not asked for"


async def test_the_gateways_own_calls_do_not_count_beside_the_reports(
    pool: asyncpg.Pool, polling: ReportPolling, collector: Collector, clock: FixedClock
) -> None:
    await collect(collector, clock, [call("a", START)])
    assert await outcomes(pool) == {"a": "filtered: other_source"}


async def test_a_segment_waits_until_its_reports_are_complete(pool: asyncpg.Pool, polling: ReportPolling, clock: FixedClock) -> None:
    due = await publishing.due_segments(pool, now=FEBRUARY, wall=START, grace=timedelta(0))
    assert await polling.split(due, now=FEBRUARY) == ([], FEBRUARY + LAG, 1)
    await pool.execute("insert into report_progress(read_until) values ($1)", FEBRUARY + LAG)
    assert await polling.split(due, now=FEBRUARY + LAG) == (due, None, 0)


def test_the_filter_leaves_the_next_bucket_out() -> None:
    assert report_filter(HOUR, HOUR + timedelta(hours=1)) == (
        "timestamp ge datetime'2027-01-10T12:00:00.000Z' and timestamp le datetime'2027-01-10T12:59:59.999Z'"
    )


async def test_an_hour_in_which_the_plan_changed_is_asked_for_in_parts(
    pool: asyncpg.Pool, polling: ReportPolling, reports: Reports, clock: FixedClock, publish: Publish
) -> None:
    reports.calls = {HOUR: {"sub-1": 6}}
    await polling.read_round(now=clock.now())
    changed_at = START + timedelta(minutes=10)
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=changed_at))
    reports.calls = {HOUR: {"sub-1": 9}}
    reports.parts = {START: 5, changed_at: 4}
    for new in (9, 0):
        assert await polling.read_round(now=clock.now()) == new
    found = await windows(pool)
    assert found[("sub-1", "calls", START, HOUR)] == (5, 1), "what was counted before the change was known is taken back and read again"
    assert found[("sub-1", "calls", changed_at, HOUR)] == (4, 1)
    assert (await outcomes(pool))[f"sub-1:{HOUR.isoformat()}:6"] == "filtered: read_again"


def handed_over(first: str, second: str) -> dict[str, Any]:
    """Return a catalogue whose products payg and hybrid are counted by different sources."""
    document: dict[str, Any] = deepcopy(CATALOGUE)
    for product, source in zip(document["products"][:2], (first, second), strict=True):
        product["source"] = source
    document["products"][1]["price"]["usage"].pop()
    del document["meters"]["traffic"]
    del document["meters"]["calls"]["weights"]
    return document


@pytest.mark.parametrize("sources", [("stream", "reports"), ("reports", "stream")])
async def test_an_hour_that_one_source_hands_over_to_another_is_billed_once(
    pool: asyncpg.Pool, collector: Collector, clock: FixedClock, publish: Publish, sources: tuple[str, str]
) -> None:
    """10 calls before the change and 7 from it on: two of them in its very second and the one before."""
    await publish(catalogue_applied(handed_over(*sources)))
    await publish(state())
    changed_at = START + timedelta(minutes=15)
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=changed_at))
    before = [call(f"before-{n}", changed_at - timedelta(milliseconds=1 + 60_000 * n)) for n in range(10)]
    calls = [*before, *(call(f"after-{n}", changed_at + timedelta(minutes=n)) for n in range(7))]
    await collect(collector, clock, calls)

    async def ask(since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        found = sum(since <= one.at < until for one in calls)
        return {"sub-1": found} if found else {}

    polling = ReportPolling(pool, collector, ask, clock=clock, interval=timedelta(minutes=5), overlap=timedelta(hours=3), lag=LAG)
    for _ in range(3):
        await polling.read_round(now=clock.now())
    billed = {started_at: quantity for (_, _, started_at, _), (quantity, _) in (await windows(pool)).items()}
    assert billed == {START: 10, changed_at: 7}


def test_a_segment_without_a_second_in_the_hour_has_no_part_of_it() -> None:
    assert parts_of(HOUR, [(START, START)]) == []


@pytest.mark.parametrize(
    ("calls", "counted", "grown"),
    [((5, 4), (0, 0), [5, 4]), ((5, 4), (6, 0), [0, 3]), ((5, 4), (9, 0), [0, 0]), ((2, 9), (3, 4), [0, 4]), ((0,), (7,), [0])],
)
def test_the_parts_of_an_hour_never_grow_beyond_the_hour(calls: list[int], counted: list[int], grown: list[int]) -> None:
    assert growth(calls, counted) == grown


async def test_the_calls_of_a_segment_that_becomes_known_late_are_looked_for(
    pool: asyncpg.Pool, polling: ReportPolling, reports: Reports, clock: FixedClock, publish: Publish
) -> None:
    reports.calls = {HOUR: {"sub-1": 1, "sub-9": 7}}
    clock.instant = START + timedelta(days=2)
    while await polling.is_behind(now=clock.now()):
        await polling.read_round(now=clock.now())
    await publish(state(sub="sub-9"))
    assert await polling.is_behind(now=clock.now())
    await polling.read_round(now=clock.now())
    assert (await windows(pool))["sub-9", "calls", START, HOUR] == (7, 1)


async def test_going_back_is_not_undone_by_a_round_that_is_under_way(pool: asyncpg.Pool, polling: ReportPolling) -> None:
    await report_store.begin(pool, FEBRUARY)
    async with pool.acquire() as connection:
        await report_store.read_again_from(connection, START)
    await report_store.advance(pool, before=FEBRUARY, to=FEBRUARY + LAG)
    assert await report_store.read_until(pool) == START


def test_an_overlap_that_is_shorter_than_the_lag_is_refused() -> None:
    required = {"database_url": "postgresql://x", "kafka_bootstrap_servers": "k:9092", "internal_token_keys": "k" * 32}
    with pytest.raises(ValidationError, match="REPORTS_OVERLAP"):
        Settings.model_validate({**required, "reports_overlap": timedelta(hours=1), "reports_lag": timedelta(hours=1)})
