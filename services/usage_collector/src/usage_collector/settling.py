"""Held events are judged again when their subscription, segment or catalogue becomes known: page by page, a transaction each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import asyncpg
import structlog

from billing_common.db import Connection
from usage_collector import correction_store, held_store, metrics, rollup_store, store, subscription_store
from usage_collector.collecting import FULL, Collector
from usage_collector.event_rows import Judged
from usage_collector.failing import Failing
from usage_collector.held_store import HeldPlace
from usage_collector.metering import Verdict, billable_since, judge
from usage_collector.observing import Observation

log = structlog.get_logger(__name__)
SUBSCRIPTIONS_MAX = 50
PAGE = 2000


@dataclass
class Pass:
    """One look at all held events of some subscriptions. It lives in memory only: who begins anew finds what is still held."""

    versions: dict[str, int]  # of the subscriptions; one that changes on the way is left to another pass
    place: HeldPlace = field(default_factory=HeldPlace)
    corrections: list[Observation] = field(default_factory=list)  # judged last: they take from what the other events have brought

    def keep(self, versions: Mapping[str, int]) -> list[str]:
        """Go on with those that are as they were."""
        self.versions = {key: version for key, version in self.versions.items() if versions.get(key) == version}
        return list(self.versions)


async def settle_some(collector: Collector, now: datetime | None = None, failing: Failing[str] | None = None) -> int:
    """Judge the held events of some changed subscriptions again; returns at how many subscriptions it looked."""
    failing = failing or Failing("settle")
    versions = (await begin(collector, failing.resting())).versions
    looked_at = list(versions)

    async def judge_all(subscriptions: Sequence[str]) -> int:
        begun = Pass({key: versions[key] for key in subscriptions})
        while not await judge_page(collector, begun, now):
            pass
        return len(begun.versions)

    if looked_at:
        settled = await failing.together(looked_at, judge_all)
        log.info("held events judged again", subscriptions=settled, left=len(looked_at) - settled)
    return len(looked_at)


async def begin(collector: Collector, leave_out: Sequence[str] = ()) -> Pass:
    async with collector.pool.acquire() as connection, connection.transaction():
        return Pass(await subscription_store.pick_unsettled(connection, SUBSCRIPTIONS_MAX, leave_out))


async def judge_page(collector: Collector, begun: Pass, now: datetime | None) -> bool:
    """Judge one page; with the last one the subscriptions are settled. Returns whether it was the last."""
    async with collector.pool.acquire() as connection, connection.transaction():
        await store.lock_shared(connection)
        await collector.directory.refresh(connection)
        subscriptions = begun.keep(await subscription_store.lock_unsettled(connection, list(begun.versions)))
        sids = await subscription_store.keys_of(connection, subscriptions)
        holders = await collector.directory.find(connection, sids)
        rows, following = await held_store.held_page(connection, sids, begun.place, PAGE)
        page, is_last = [held_store.observation(row) for row in rows], following is None
        corrections = [one for one in (*begun.corrections, *page) if one.origin == "correction" and one.sid in holders]
        judging = [one for one in page if one.origin != "correction"] + (corrections if is_last else [])
        rules, since = collector.directory.rules, billable_since(now)
        settled = await _settle(connection, [(one, judge(one, holders.get(one.sid), rules, since=since)) for one in judging])
        if is_last:
            await correction_store.hold_below_zero(connection, subscriptions)
            await subscription_store.mark_settled(connection, subscriptions)
    metrics.SETTLED.inc(settled)
    if following is not None:
        begun.place, begun.corrections = following, corrections
    return is_last


async def _settle(connection: Connection, judged: Sequence[Judged]) -> int:
    if not judged:
        return 0
    await rollup_store.mark(connection, [one for one, _ in judged])
    groups: dict[tuple[str, date, int], list[Judged]] = {}
    for pair in judged:
        groups.setdefault((pair[0].sid, pair[0].day, pair[0].at.hour), []).append(pair)
    return await _settle_groups(connection, list(groups.values()))


async def _settle_groups(connection: Connection, groups: Sequence[Sequence[Judged]]) -> int:
    """Settle what fits into its windows; an hour of a key that does not is refused, and keeps nobody else waiting."""
    try:
        async with connection.transaction():
            return await held_store.settle(connection, [pair for group in groups for pair in group])
    except asyncpg.CheckViolationError:
        if len(groups) > 1:
            half = len(groups) // 2
            return await _settle_groups(connection, groups[:half]) + await _settle_groups(connection, groups[half:])
    log.warning("events refused", events=len(groups[0]), reason=FULL)
    return await held_store.settle(connection, [(one, Verdict("rejected", FULL)) for one, _ in groups[0]])
