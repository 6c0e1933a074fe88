"""The third source: buckets that grow are counted by their growth, once."""

from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from usage_collector import publishing
from usage_collector.apim_gateway import report_filter
from usage_collector.collecting import Collector
from usage_collector.report_polling import ReportPolling

from .conftest import CATALOGUE, FEBRUARY, START, FixedClock, Publish, call, catalogue_applied, collect, outcomes, state, windows

HOUR = START.replace(minute=0)
LAG = timedelta(minutes=45)


class Reports:
    """Answers as API Management would: calls by bucket and sid."""

    def __init__(self) -> None:
        self.calls: dict[datetime, dict[str, int]] = {}
        self.asked: list[datetime] = []

    async def ask(self, since: datetime, until: datetime) -> dict[str, int]:
        assert until - since == timedelta(hours=1)
        self.asked.append(since)
        return self.calls.get(since, {})


@pytest.fixture
async def reports(publish: Publish) -> Reports:
    document: dict[str, Any] = deepcopy(CATALOGUE)
    document["products"][0]["source"] = "reports"
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
