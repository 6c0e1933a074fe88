"""Days around a hand-over from one source to another are held against the count of their own source, or against none."""

from copy import deepcopy
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from billing_common.events import SubscriptionUpdated
from usage_collector import day_figures
from usage_collector.apim_gateway import CallCount
from usage_collector.collecting import Collector
from usage_collector.day_sources import DaySources

from .conftest import CATALOGUE, JANUARY, START, FixedClock, Publish, call, catalogue_applied, collect, state

DAY = START.replace(hour=0, minute=0)
NEXT, THIRD, FOURTH = (DAY + timedelta(days=n) for n in (1, 2, 3))


def handed_over(first: str, second: str) -> dict[str, Any]:
    document: dict[str, Any] = deepcopy(CATALOGUE)
    for product, source in zip(document["products"][:2], (first, second), strict=True):
        product["source"] = source
    document["products"][1]["price"]["usage"].pop()
    del document["meters"]["traffic"]
    del document["meters"]["calls"]["weights"]
    return document


@pytest.mark.parametrize(
    ("changed_at", "compared"),
    [
        (NEXT, {DAY: (10, 10, "stream"), NEXT: (7, 7, "reports"), THIRD: (7, 7, "reports")}),
        (NEXT + timedelta(hours=9), {DAY: (10, 10, "stream"), THIRD: (7, 7, "reports")}),
    ],
)
async def test_a_day_before_a_hand_over_has_lost_nothing(
    pool: asyncpg.Pool,
    publish: Publish,
    collector: Collector,
    clock: FixedClock,
    changed_at: datetime,
    compared: dict[datetime, tuple[int, int, str]],
) -> None:
    await publish(catalogue_applied(handed_over("stream", "reports")))
    await publish(state())
    await publish(state(SubscriptionUpdated, revision=2, product_id="hybrid", occurred_at=changed_at))
    clock.instant = FOURTH
    await collect(collector, clock, [call(f"a{n}", START) for n in range(10)])
    await collect(
        collector,
        clock,
        [
            call("next", changed_at, origin="reports", source="apim/reports", status=None, quantity=7),
            call("third", THIRD, origin="reports", source="apim/reports", status=None, quantity=7),
        ],
    )

    async def ask(since: datetime, until: datetime, sid: str | None = None) -> dict[tuple[str, date], CallCount]:
        return {("sub-1", DAY.date()): CallCount(10, 8), ("sub-1", NEXT.date()): CallCount(9, 7), ("sub-1", THIRD.date()): CallCount(9, 7)}

    for until in (NEXT, FOURTH):  # asked for one day it says the same of it as asked for all
        answer = await day_figures.figures(
            pool, collector.directory, ["sub-1"], DAY, until, gateway=ask, reports_until=clock.now(), kept_from=JANUARY
        )
        found = {day.day: day.gateway for day in answer.days if day.gateway is not None and day.day < until}
        told = {day: (gateway.calls, gateway.received, gateway.source) for day, gateway in found.items()}
        assert told == {day: figures for day, figures in compared.items() if day < until}


def test_a_day_has_the_source_of_its_segments() -> None:
    noon = NEXT + timedelta(hours=12)
    sources = DaySources(
        [
            ("both", DAY, noon, "stream"),
            ("both", noon, THIRD, "reports"),
            ("both", THIRD, None, "ingest"),
            ("one", noon, THIRD, "stream"),
            ("unknown", DAY, None, None),
        ],
        DAY,
        FOURTH,
    )
    assert [sources.of("both", day) for day in (DAY, NEXT, THIRD, FOURTH)] == ["stream", None, None, None]
    assert [sources.of("one", day) for day in (DAY, NEXT, FOURTH)] == ["stream"] * 3, "calls before and after it are compared as well"
    assert [sources.of(name, DAY) for name in ("unknown", "nobody")] == [None, None]
    assert [sources.any_by_gateway(name) for name in ("both", "one", "unknown", "nobody")] == [True, True, False, False]
