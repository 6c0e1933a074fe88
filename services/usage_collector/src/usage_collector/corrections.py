"""Corrections: usage that a person adds, takes away or deletes, and where it goes. One transaction each, made once however often asked."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg
import structlog

from billing_common.db import Connection
from billing_common.events import UsageCorrected, derive_id
from billing_common.outbox import announce
from usage_collector import correction_store, event_store, metrics, rollup_store, store, window_store
from usage_collector.collecting import Collector
from usage_collector.correction_store import Correction, Found, Place
from usage_collector.metering import Verdict
from usage_collector.observing import Observation

log = structlog.get_logger(__name__)
SOURCE = "turnpike/corrections"
REPORT_IN = timedelta(days=34)  # of the 35 that Stripe takes, so that the report of the hour still arrives in time
Amounts = dict[str, int]


class CorrectionRefusedError(Exception):
    """The correction makes no sense or cannot be made; the message says why and what to do instead."""

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Adjustment:
    """Add a signed quantity to a meter at an instant."""

    subscription_id: str
    meter_id: str
    quantity: int
    at: datetime
    reason: str
    author: str
    correction_id: UUID | None = None

    @property
    def id(self) -> UUID:
        """As given, else derived from all that is said: the same words twice are one adjustment."""
        words = (self.subscription_id, self.meter_id, str(self.quantity), self.at.astimezone(UTC).isoformat(), self.reason, self.author)
        return self.correction_id or derive_id("adjustment", *words)


@dataclass(frozen=True)
class Deletion:
    """Take one event out of what was counted."""

    subscription_id: str
    source: str
    external_id: str
    day: date
    reason: str
    author: str

    @property
    def event_id(self) -> UUID:
        return derive_id(self.source, self.external_id, self.day.isoformat())

    @property
    def id(self) -> UUID:
        return derive_id("deletion", str(self.event_id))


@dataclass(frozen=True)
class Made:
    """A correction and what it changed; `state` is `known` when it had been made before and `tried` when nothing was written."""

    correction: Correction
    place: Place
    state: Literal["made", "known", "tried"]
    hour_before: Amounts = field(default_factory=dict)
    totals_before: Amounts = field(default_factory=dict)
    totals_after: Amounts = field(default_factory=dict)


async def adjust(collector: Collector, wanted: Adjustment, *, now: datetime, dry_run: bool = False) -> Made:
    """Add to the window of an open segment, or to what moves the invoice of a closed one. Raises CorrectionRefusedError."""
    if wanted.at > now:
        raise CorrectionRefusedError(f"`at` lies in the future: it is {now:%Y-%m-%d %H:%M:%S} UTC")
    if not dry_run:
        await _make_room(collector, wanted)
    async with collector.pool.acquire() as connection, connection.transaction():
        account = await _lock(connection, wanted.subscription_id)
        if known := await correction_store.find(connection, wanted.id):
            return await _known(connection, known)
        place = await correction_store.place_of(connection, wanted.subscription_id, wanted.at)
        if place is None:
            raise CorrectionRefusedError(await correction_store.outside(connection, wanted.subscription_id, wanted.at))
        await _check_meter(collector, connection, place, wanted.meter_id)
        amounts = {wanted.meter_id: wanted.quantity}
        correction = Correction(
            correction_id=wanted.id, kind="adjustment", subscription_id=wanted.subscription_id, segment_id=place.segment_id, at=wanted.at,
            amounts=amounts, after_close=place.closed, reason=wanted.reason, author=wanted.author, made_at=now,
        )  # fmt: skip
        made = await _weigh(connection, correction, place, reported=account.reported, now=now, dry_run=dry_run)
        if not dry_run:
            if not place.closed:
                try:
                    await event_store.add_events(connection, [_as_event(wanted, place)])
                except asyncpg.CheckViolationError:
                    raise CorrectionRefusedError("an hour holds at most 999,999,999,999,999: Stripe takes no more") from None
            await write(connection, made, account.account_id)
    _log(made)
    return made


async def _make_room(collector: Collector, wanted: Adjustment) -> None:
    """Make the partition of the day of an adjustment that will stand among the events of an open segment, and of no other day."""
    async with collector.pool.acquire() as connection:
        place = await correction_store.place_of(connection, wanted.subscription_id, wanted.at)
    if place is not None and not place.closed:
        await collector.ensure_partitions({wanted.at.astimezone(UTC).date()})


async def delete(collector: Collector, wanted: Deletion, *, now: datetime, dry_run: bool = False) -> Made:
    """Take an event out of its windows, or out of the invoice when its segment is closed. Raises CorrectionRefusedError."""
    async with collector.pool.acquire() as connection, connection.transaction():
        account = await _lock(connection, wanted.subscription_id)
        if known := await correction_store.find(connection, wanted.id):
            return await _known(connection, known)
        found = await correction_store.find_event(connection, wanted.day, wanted.event_id, wanted.subscription_id)
        place = await correction_store.place(connection, _countable(wanted, found).segment_id)
        assert found is not None
        assert place is not None  # a counted event stands in a segment
        await _refuse_state(collector, connection, place, found)
        correction = Correction(
            correction_id=wanted.id, kind="deletion", subscription_id=wanted.subscription_id, segment_id=place.segment_id, at=found.at,
            amounts={meter: -amount for meter, amount in found.amounts.items()}, after_close=place.closed, source=wanted.source,
            external_id=wanted.external_id, reason=wanted.reason, author=wanted.author, made_at=now,
        )  # fmt: skip
        made = await _weigh(connection, correction, place, reported=account.reported, now=now, dry_run=dry_run)
        if not dry_run:
            if not place.closed:
                await correction_store.take_out(connection, wanted.day, wanted.event_id, place.segment_id, correction)
            await write(connection, made, account.account_id)
    _log(made)
    return made


async def _lock(connection: Connection, subscription_id: str) -> correction_store.Account:
    """Keep segments as they are, and other corrections of this subscription waiting: two could each take what is there once."""
    await store.lock_shared(connection)
    account = await correction_store.lock_subscription(connection, subscription_id)
    if account is None:
        raise CorrectionRefusedError("no usage is known of this subscription: check its id", status=404)
    return account


async def _known(connection: Connection, correction: Correction) -> Made:
    place = await correction_store.place(connection, correction.segment_id)
    place = place or await correction_store.place_of(connection, correction.subscription_id, correction.at)  # its segment has moved since
    if place is None:
        raise CorrectionRefusedError("this correction was made before: see `turnpike usage adjustments`", status=409)
    return Made(correction, place, "known")


async def _check_meter(collector: Collector, connection: Connection, place: Place, meter_id: str) -> None:
    rules = await collector.directory.rules_of(connection, place.plan)
    if rules is None:
        raise CorrectionRefusedError("the catalogue of this subscription is not known here yet: try again in a minute", status=409)
    if meter_id not in rules.meters:
        raise CorrectionRefusedError(f'the product "{place.product_id}" has no meter "{meter_id}"; it has {", ".join(rules.meters)}')


def _countable(wanted: Deletion, found: Found | None) -> Found:
    """Return the event if it was counted, or say what became of it."""
    if wanted.source == SOURCE:
        raise CorrectionRefusedError("this is an adjustment: make the opposite one instead (`turnpike usage adjust`)")
    if found is None:
        text = (
            f"no event {wanted.external_id} of {wanted.source} on {wanted.day} belongs to this subscription: check source, id and UTC day"
        )
        raise CorrectionRefusedError(text, status=404)
    if found.outcome != "counted" or found.segment_id is None:
        why = f" ({found.reason})" if found.reason else ""
        raise CorrectionRefusedError(f"this event counts nothing: it is {found.outcome}{why}, so there is nothing to delete", status=409)
    return found


async def _refuse_state(collector: Collector, connection: Connection, place: Place, found: Found) -> None:
    """An event of a meter with one number for the period stands for others too: without it, another may carry its value."""
    rules = await collector.directory.rules_of(connection, place.plan)
    if with_state := sorted(found.amounts.keys() & (rules.with_state if rules else {}).keys()):
        text = f"this event counts for {', '.join(with_state)}, where other events may say the same"
        raise CorrectionRefusedError(f"{text}: take the difference away instead (`turnpike usage adjust`)", status=409)


async def _weigh(connection: Connection, correction: Correction, place: Place, *, reported: bool, now: datetime, dry_run: bool) -> Made:
    """Refuse what would leave less than nothing; say what the segment adds up to before and after."""
    if not place.closed and reported and correction.hour < now - REPORT_IN:
        text = (
            "Stripe takes usage of the past 35 days only. What counts is the sum of the period: adjust at a later time of the same period"
        )
        raise CorrectionRefusedError(f"{text} (`turnpike usage adjust ... --at`)")
    hour = await correction_store.hour_quantities(connection, place.segment_id, correction.hour)
    for meter_id, amount in correction.amounts.items():
        if hour.get(meter_id, 0) + amount < 0:
            text = f"the hour from {correction.hour:%Y-%m-%d %H:%M} UTC holds {hour.get(meter_id, 0):,} of {meter_id}"
            raise CorrectionRefusedError(
                f"{text}: no more can be taken from it. `turnpike usage show --by hour` lists what each hour holds"
            )
    windows = (await window_store.segment_totals(connection, [place.segment_id]))[place.segment_id]
    before = correction_store.added(windows, await correction_store.after_close(connection, place.segment_id))
    after = correction_store.added(before, correction.amounts)
    if place.closed and any(after[meter_id] < 0 for meter_id in correction.amounts):
        raise CorrectionRefusedError("usage that came late for this period is being billed right now: try again in a minute", status=409)
    return Made(correction, place, "tried" if dry_run else "made", hour, before, after)


def _as_event(wanted: Adjustment, place: Place) -> tuple[Observation, Verdict]:
    """An adjustment of an open segment stands among its events, so that it moves with them when the segment does."""
    at = wanted.at.astimezone(UTC)
    seen = Observation(
        id=wanted.id, day=at.date(), at=at, origin="correction", source=SOURCE, external_id=str(wanted.id), sid=wanted.subscription_id,
        quantity=wanted.quantity, stated_meter=wanted.meter_id,
    )  # fmt: skip
    return seen, Verdict("counted", None, place.segment_id, ((wanted.meter_id, wanted.quantity),))


async def write(connection: Connection, made: Made, account_id: str) -> None:
    """Keep a correction and announce it."""
    correction, place = made.correction, made.place
    await rollup_store.mark_all(connection, [correction.at])
    await correction_store.add(connection, correction)
    totals = {"totals_before": made.totals_before, "totals_after": made.totals_after} if place.closed else {}
    event = UsageCorrected(
        cause_id=str(correction.correction_id), occurred_at=correction.made_at, subscription_id=correction.subscription_id,
        account_id=account_id, correction_id=correction.correction_id, kind=correction.kind, amounts=correction.amounts, at=correction.at,
        product_id=place.product_id, catalogue_version=place.catalogue_version, segment_start=place.started_at,
        segment_end=place.ended_at, after_close=place.closed, **totals,
    )  # fmt: skip
    await announce(connection, event)


def _log(made: Made) -> None:
    if made.state == "made":
        metrics.CORRECTIONS.labels(made.correction.kind, "invoice" if made.place.closed else "window").inc()
        log.info("usage corrected", correction_id=str(made.correction.correction_id), subscription_id=made.correction.subscription_id,
                 kind=made.correction.kind, after_close=made.place.closed)  # fmt: skip
