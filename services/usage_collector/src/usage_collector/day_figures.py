"""What reconciliation compares, for many subscriptions and days at once: the gateway's own count, events by outcome, windows."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import structlog
from pydantic import BaseModel, Field

from billing_common.db import Connection
from usage_collector import day_store, late, rollup_store
from usage_collector.apim_gateway import CallCount
from usage_collector.day_sources import DaySources
from usage_collector.directory import Directory
from usage_collector.rollup_store import NOWHERE, Dimension, Split, hour_of

log = structlog.get_logger(__name__)
DAY = timedelta(days=1)
SIDS_ASKED_APART = 3  # more: one question a day answers for all
AskGateway = Callable[[datetime, datetime, str | None], Awaitable[dict[tuple[str, date], CallCount]]]


class GatewayDay(BaseModel):
    """The gateway's count of a day up to `until`, beyond which its reports may still grow, and the events of the same time."""

    calls: int
    received: int
    source: str = Field(description="what counts for the product: with reports both are successful calls, else all calls")
    until: datetime


class Bin(BaseModel):
    origin: str
    outcome: str
    reason: str
    events: int
    quantity: int | None = Field(default=None, description="what held events say; null where it is not known")


class MeterDay(BaseModel):
    """One meter of one product: added up from the events, of which so much are corrections, and from the windows."""

    product_id: str
    meter_id: str
    counted: int | None = Field(description="null: its events are no longer kept")
    corrections: int
    windows: int
    unpublished: bool
    left_out: int = Field(default=0, description="what windows hold of hours that are left out: it is not in `counted`")


class DayFigures(BaseModel):
    """One subscription on one UTC day.

    `gateway` null: not through API Management, or it did not answer, or a plan that another source counts began or ended on that day.
    """

    subscription_id: str
    day: datetime
    gateway: GatewayDay | None = None
    bins: list[Bin] = Field(default_factory=list)
    duplicates: int = 0
    meters: list[MeterDay] = Field(default_factory=list)


class DaysAnswer(BaseModel):
    """`complete_until`: events from then on could not be added up in time; `gateway_error`: what API Management answered."""

    days: list[DayFigures]
    kept_from: datetime = Field(
        description="start of the first day whose events are all still there: of earlier days only windows are told"
    )
    complete_until: datetime | None
    left_out: list[datetime] = Field(description="hours whose events are not added up yet, where only those that are were asked for")
    gateway_error: str | None


class _Days:
    """Collects figures by subscription and day."""

    def __init__(self, kept_from: datetime) -> None:
        self.found: dict[tuple[str, datetime], DayFigures] = {}
        self._kept_from = kept_from
        self._meters: dict[tuple[str, datetime, str, str], MeterDay] = {}

    def of(self, subscription_id: str, day: datetime) -> DayFigures:
        day = day.astimezone(UTC)
        return self.found.setdefault((subscription_id, day), DayFigures(subscription_id=subscription_id, day=day))

    def meter(self, subscription_id: str, day: datetime, product_id: str, meter_id: str) -> MeterDay:
        key = subscription_id, day.astimezone(UTC), product_id, meter_id
        if key not in self._meters:
            counted = None if day < self._kept_from else 0
            fresh = MeterDay(product_id=product_id, meter_id=meter_id, counted=counted, corrections=0, windows=0, unpublished=False)
            self._meters[key] = fresh
            self.of(subscription_id, day).meters.append(fresh)
        return self._meters[key]


@dataclass(frozen=True)
class _Scope:
    """What is asked about: keys (sid -> subscription id), plans by (subscription id, segment start) and their ends, a range of full hours.

    `rolled_up`: only hours whose events are added up already.
    """

    keys: Mapping[str, str]
    plans: Mapping[tuple[str, datetime], tuple[str, int]]
    ends: Mapping[tuple[str, datetime], datetime | None]
    since: datetime
    until: datetime
    rolled_up: bool


async def figures(
    pool: asyncpg.Pool,
    directory: Directory,
    subscription_ids: Sequence[str],
    since: datetime,
    until: datetime,
    *,
    gateway: AskGateway | None,
    reports_until: datetime,
    kept_from: datetime,
    rolled_up: bool = False,
) -> DaysAnswer:
    """Return the figures of a range of full hours; the gateway is asked after its reports are thought to be complete.

    Events of days before `kept_from` are about to be dropped, or are already. With `rolled_up` hours whose events are not added up yet
    are left out, and the gateway's count of their days: to add them up is to read the events of everybody.
    """
    error = None
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        kept_from = max(kept_from, await day_store.kept_from(connection) or kept_from)
        days = _Days(kept_from)
        segments = await day_store.segments(connection, subscription_ids, since, until)
        plans = {(row["subscription_id"], row["started_at"]): (row["product_id"], row["catalogue_version"]) for row in segments}
        ends = {(row["subscription_id"], row["started_at"]): row["ended_at"] for row in segments}
        scope = _Scope(await day_store.keys(connection, subscription_ids), plans, ends, since, until, rolled_up)
        await _add_refused(connection, days, scope)
        kept = replace(scope, since=max(since, kept_from))
        events = await _add_events(connection, days, kept) if kept.since < until else Split([], None)
        for row in await day_store.windows(connection, subscription_ids, since, until, events.left_out):
            meter = days.meter(row["subscription_id"], row["day"], row["product_id"], row["meter_id"])
            meter.windows, meter.unpublished, meter.left_out = row["quantity"], row["dirty"], row["left_out"]
        for row in await day_store.duplicates(connection, list(scope.keys), kept.since, until):
            days.of(scope.keys[row["sid"]], datetime.combine(row["day"], datetime.min.time(), UTC)).duplicates += row["events"]
    if gateway is not None:
        try:
            await _add_gateway(pool, directory, days, replace(kept, until=hour_of(min(until, reports_until))), gateway)
        except Exception as failure:  # noqa: BLE001 - whatever the SDK raises: the second opinion is missing, nothing else
            error = type(failure).__name__
            log.warning("the gateway's own count could not be read", error=error)
    found = sorted(days.found.values(), key=_order)
    return DaysAnswer(days=found, kept_from=kept_from, complete_until=events.complete_until, left_out=events.left_out, gateway_error=error)


def _order(found: DayFigures) -> tuple[str, datetime]:
    return found.subscription_id, found.day


async def _add_events(connection: Connection, days: _Days, scope: _Scope) -> Split:
    dimensions: list[Dimension] = ["key", "day", "origin", "outcome", "segment"]
    split = await rollup_store.add_up(connection, list(scope.keys), scope.since, scope.until, dimensions, rolled_up=scope.rolled_up)
    bins: dict[tuple[str, datetime, str, str, str], int] = {}
    for row in split.rows:
        subscription_id, day = scope.keys[row["sid"]], row["day"]
        if row["origin"] != "correction":
            key = subscription_id, day, row["origin"], row["outcome"], row["reason"]
            bins[key] = bins.get(key, 0) + row["distinct"]
        plan = scope.plans.get((subscription_id, row["segment_start"] or NOWHERE))
        if row["outcome"] == "counted" and row["reason"] != late.BILLED and plan is not None:  # what came late stands in no window
            meter = days.meter(subscription_id, day, plan[0], row["meter_id"])
            meter.counted = (meter.counted or 0) + row["quantity"]
            meter.corrections += row["quantity"] if row["origin"] == "correction" else 0
    held = await _held(connection, scope)
    for key, events in sorted(bins.items()):
        subscription_id, day, origin, outcome, reason = key
        if events:
            found = Bin(origin=origin, outcome=outcome, reason=reason, events=events, quantity=held.get(key))
            days.of(subscription_id, day).bins.append(found)
    return split


async def _add_refused(connection: Connection, days: _Days, scope: _Scope) -> None:
    """Add the events whose time was not taken: they are kept by when they came, so also those of days long gone."""
    for row in await day_store.refused(connection, list(scope.keys), scope.since, scope.until):
        found = Bin(origin=row["origin"], outcome="rejected", reason=row["reason"], events=row["events"])
        days.of(scope.keys[row["sid"]], row["day"]).bins.append(found)


async def _held(connection: Connection, scope: _Scope) -> dict[tuple[str, datetime, str, str, str], int]:
    """Return what held events say, by the names of their bin."""
    found: dict[tuple[str, datetime, str, str, str], int] = {}
    for row in await day_store.held(connection, list(scope.keys), scope.since, scope.until):
        key = scope.keys[row["sid"]], datetime.combine(row["day"], datetime.min.time(), UTC), row["origin"], "held", row["reason"]
        found[key] = found.get(key, 0) + row["quantity"]
    return found


async def _add_gateway(pool: asyncpg.Pool, directory: Directory, days: _Days, scope: _Scope, ask: AskGateway) -> None:
    """Add the gateway's count, and how many events of the same time have arrived, for products whose calls run through it."""
    if scope.since >= scope.until:
        return
    async with pool.acquire() as connection:
        sources = await _sources(connection, directory, scope)
        received, left_out = await _received(connection, scope, sources)
    sids = [sid for sid, subscription_id in scope.keys.items() if sources.any_by_gateway(subscription_id)]
    calls: dict[tuple[str, datetime], int] = {}
    for (sid, day), count in (await _counts(ask, sids, scope.since, scope.until)).items():
        if sid not in sids:
            continue
        key = scope.keys[sid], datetime.combine(day, datetime.min.time(), UTC)
        if (source := sources.of(*key)) is not None:
            calls[key] = calls.get(key, 0) + (count.success if source == "reports" else count.total)
    for key in (key for key in {*calls, *received} if key[1] not in left_out):
        end, source = min(key[1] + DAY, scope.until), sources.of(*key) or ""
        days.of(*key).gateway = GatewayDay(calls=calls.get(key, 0), received=received.get(key, 0), source=source, until=end)


async def _sources(connection: Connection, directory: Directory, scope: _Scope) -> DaySources:
    stretches = []
    for (subscription_id, started_at), plan in scope.plans.items():
        rules = await directory.rules_of(connection, plan)
        stretches.append((subscription_id, started_at, scope.ends[subscription_id, started_at], rules.source if rules else None))
    return DaySources(stretches, scope.since, scope.until)


async def _counts(ask: AskGateway, sids: Sequence[str], since: datetime, until: datetime) -> dict[tuple[str, date], CallCount]:
    if len(sids) > SIDS_ASKED_APART:
        return await ask(since, until, None)
    found: dict[tuple[str, date], CallCount] = {}
    for sid in sids:
        found |= await ask(since, until, sid)
    return found


async def _received(connection: Connection, scope: _Scope, sources: DaySources) -> tuple[dict[tuple[str, datetime], int], set[datetime]]:
    """Return the events that the gateway's count is compared with, and the days of which some are left out."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        split = await rollup_store.add_up(
            connection, list(scope.keys), scope.since, scope.until, ["key", "day", "origin"], rolled_up=scope.rolled_up
        )
        refused: Iterable[Any] = await day_store.refused(connection, list(scope.keys), scope.since, scope.until)
    found: dict[tuple[str, datetime], int] = {}
    for row in split.rows:
        key = scope.keys[row["sid"]], row["day"].astimezone(UTC)
        if sources.of(*key) == row["origin"]:
            found[key] = found.get(key, 0) + (row["quantity"] if row["origin"] == "reports" else row["distinct"])
    for row in refused:
        key = scope.keys[row["sid"]], row["day"].astimezone(UTC)
        if sources.of(*key) == row["origin"] == "stream":
            found[key] = found.get(key, 0) + row["events"]
    return found, {hour.replace(hour=0) for hour in split.left_out}
