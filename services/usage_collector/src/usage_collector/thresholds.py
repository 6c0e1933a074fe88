"""Quotas, included amounts, tiers and spend caps: each of their thresholds is announced once per period and subscription."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import structlog

from billing_common import quotas
from billing_common.db import Connection
from billing_common.events import UsageThresholdReached
from billing_common.outbox import announce_many
from usage_collector import spending, threshold_store, window_store
from usage_collector.directory import Directory
from usage_collector.failing import Failing, concerns_all
from usage_collector.limits import Limit, Reached, Tiers
from usage_collector.window_store import Span

log = structlog.get_logger(__name__)


def span_of(limit: Limit | Tiers, row: Any) -> Span:
    """Return the period that a window belongs to."""
    subscription_id, segment_start = row["subscription_id"], row["segment_start"].astimezone(UTC)
    if isinstance(limit, Tiers) or limit.quota is None:
        return Span(subscription_id, limit.meter_id, segment_start, None)
    began = row["started_at"] or segment_start
    window = quotas.window_at(limit.product, limit.quota, started_at=began, at=max(row["hour"], segment_start))
    return Span(subscription_id, limit.meter_id, window.start, window.end)


@dataclass(frozen=True)
class _Asked:
    """A limit, or the tiers, of a plan, and the period in which it is held against a total."""

    span: Span
    product_id: str
    limit: Limit | Tiers
    account_id: str


async def announce_reached(connection: Connection, directory: Directory, rows: Sequence[Any], *, now: datetime) -> int:
    """Announce what the windows in `rows` have made their subscriptions reach; returns how many thresholds."""
    asked = await _asked(connection, directory, rows, now)
    spans = list(dict.fromkeys(one.span for one in asked))
    totals = await window_store.totals_of(connection, spans) if spans else {}
    candidates = [event for one in asked if one.span in totals for event in _reached(one, totals[one.span], now)]
    candidates += await spending.reached(connection, directory, rows, now=now)
    fresh = await _only_new(connection, candidates)
    if fresh:
        await announce_many(connection, fresh)
    return len(fresh)


async def announce_each(connection: Connection, directory: Directory, rows: Sequence[Any], *, now: datetime) -> int:
    """Announce the same where a subscription that fails must keep no others waiting: its windows are kept to be looked at again."""
    try:
        async with connection.transaction():
            return await announce_reached(connection, directory, rows, now=now)
    except Exception as error:  # unforeseen by its nature
        if concerns_all(error):
            raise
    told, own = 0, dict[str, list[Any]]()
    for row in rows:
        own.setdefault(row["subscription_id"], []).append(row)
    for subscription_id, windows in own.items():
        try:
            async with connection.transaction():
                told += await announce_reached(connection, directory, windows, now=now)
        except Exception as error:
            if concerns_all(error):
                raise
            if await threshold_store.keep_for_again(connection, windows):
                log.exception("thresholds could not be looked at: they will be again", subscription_id=subscription_id)
    return told


async def announce_again(pool: asyncpg.Pool, directory: Directory, failing: Failing[str], *, now: datetime) -> int:
    """Look at what could not be looked at before, each subscription in a transaction of its own."""
    told, resting = 0, set(failing.resting())
    for subscription_id in await threshold_store.subscriptions_again(pool):
        if subscription_id not in resting:
            with failing.one(subscription_id):
                async with pool.acquire() as connection, connection.transaction():
                    rows = await threshold_store.take_again(connection, subscription_id)
                    told += await announce_reached(connection, directory, rows, now=now)
    return told


async def _asked(connection: Connection, directory: Directory, rows: Sequence[Any], now: datetime) -> list[_Asked]:
    """Return what a window may have reached: limits of the plan that it was counted under, and quotas of those that followed.

    A quota counts all that was used in its period. Each version of each plan has limits of its own: a quota is held against what was used
    until another plan took its place, so that a late call reaches the quota of now, and calls of now never that of before.
    """
    found: dict[tuple[str, str, datetime, tuple[str, int], type], _Asked] = {}
    following = await window_store.segments_after(connection, rows, now)
    for row in rows:
        own = (row["segment_start"], (row["product_id"], row["catalogue_version"]))
        for began, plan in (own, *following.get((row["subscription_id"], row["segment_start"]), ())):
            rules = await directory.rules_of(connection, plan)
            for limit in rules.announced if rules else ():
                span = span_of(limit, row)
                if limit.meter_id != row["meter_id"] or (began != own[0] and (span.until is None or began >= span.until)):
                    continue
                kept = span if span.until is None else replace(span, through=began)
                found[span.subscription_id, span.meter_id, span.since, plan, type(limit)] = _Asked(kept, plan[0], limit, row["account_id"])
    return list(found.values())


async def announce_late(
    connection: Connection, directory: Directory, segment_id: int, places: Iterable[tuple[str, datetime]], *, now: datetime
) -> int:
    """Announce what usage that came late and is billed, by meter and hour, has made its own period reach."""
    segment = await window_store.segment_of(connection, segment_id)
    rows = [{**segment, "meter_id": meter_id, "hour": hour} for meter_id, hour in places]
    return await announce_reached(connection, directory, rows, now=now)


async def _only_new(connection: Connection, candidates: Iterable[UsageThresholdReached]) -> list[UsageThresholdReached]:
    by_key = {threshold_store.key_of(event): event for event in candidates}
    added = await threshold_store.add_thresholds(connection, list(by_key.values())) if by_key else []
    return [by_key[key] for key in sorted(added)]


def _reached(asked: _Asked, quantity: int, now: datetime) -> list[UsageThresholdReached]:
    span = asked.span
    return [
        UsageThresholdReached(
            cause_id=_cause_id(asked, reached),
            occurred_at=now,
            subscription_id=span.subscription_id,
            account_id=asked.account_id,
            meter_id=span.meter_id,
            period_start=span.since,
            period_end=span.until,
            threshold=reached.threshold,
            quantity=quantity,
            hard_stop=reached.hard_stop,
            product_id=asked.product_id,
            kind=reached.kind,
            limit=reached.limit,
        )
        for reached in asked.limit.reached(quantity)
    ]


def _cause_id(asked: _Asked, reached: Reached) -> str:
    span, kind = asked.span, "" if reached.kind == "allowance" else f"{reached.kind}:"
    of = f"{kind}{reached.threshold.normalize():f}:{reached.limit}"
    return f"{span.subscription_id}:{asked.product_id}:{span.meter_id}:{span.since.isoformat()}:{of}"
