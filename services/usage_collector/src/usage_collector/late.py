"""Usage that came after its segment was closed: billed as money, waived or kept for a person, as the plan says. Once each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from billing_common.db import Connection
from billing_common.events import derive_id
from usage_collector import (
    correction_store,
    corrections,
    late_store,
    mark_store,
    metrics,
    store,
    subscription_store,
    thresholds,
    window_store,
)
from usage_collector.collecting import Collector
from usage_collector.correction_store import Account, Correction, Place
from usage_collector.corrections import Made
from usage_collector.failing import Failing
from usage_collector.held_store import HeldPlace
from usage_collector.late_store import Burst, Disposition, Ended
from usage_collector.metering import STRIPE_TAKES, Rules
from usage_collector.observing import Observation

log = structlog.get_logger(__name__)
SEGMENTS_MAX = 50
PAGE = 2000
BY_POLICY: dict[str, Disposition] = {"next_invoice": "bill", "waive": "waive", "hold": "keep"}
BILLED, WAIVED, PARKED = "late_billed", "late_waived", "too_old_to_bill"


@dataclass
class Look:
    """One look at all late events of a segment, in pages of one transaction each. It lives in memory only: a crash begins it anew."""

    segment_id: int
    subscription_id: str
    place: HeldPlace | None = field(default_factory=HeldPlace)  # None: all was seen
    noted: int | None = None
    events: int = 0


async def settle_late(collector: Collector, *, now: datetime, failing: Failing[int] | None = None) -> int:
    """Look once at all that came late; returns at how many events. What comes meanwhile is left to the next look."""
    failing = failing or Failing("settle_late")
    resting = set(failing.resting())
    done = after = 0
    while segments := await late_store.pending(collector.pool, after, SEGMENTS_MAX):
        for segment_id, subscription_id in segments:
            after = segment_id
            if segment_id in resting:
                continue
            look = Look(segment_id, subscription_id)
            with failing.one(segment_id):
                while look.place is not None:
                    await settle_page(collector, look, now=now)
            done += look.events
    return done


async def settle_page(collector: Collector, look: Look, *, now: datetime) -> None:
    """Settle one page in one transaction: events, sums, state of meters; with the last page the one correction that moves the invoice."""
    async with collector.pool.acquire() as connection, connection.transaction():
        await store.lock_shared(connection)
        account = await correction_store.lock_subscription(connection, look.subscription_id)
        locked = await late_store.lock(connection, look.segment_id)
        place = await correction_store.place(connection, look.segment_id)
        rules = await collector.directory.rules_of(connection, place.plan) if place else None
        if locked is None or look.place is None or account is None or place is None or rules is None:
            look.place = None
            return
        disposition = locked[1] or _by_plan(rules, account)
        noted = locked[0] if look.noted is None else look.noted
        page: Sequence[Observation] = []
        following = None
        if disposition != "keep":
            sids = await subscription_store.keys_of(connection, [look.subscription_id])
            page, following = await late_store.page(connection, look.segment_id, sids, look.place, PAGE)
        ended = await _judge(connection, page, place, rules, bill=disposition == "bill", now=now)
        if ended:
            billed = await _write(connection, ended, place)
            await thresholds.announce_late(connection, collector.directory, look.segment_id, billed, now=now)
        if following is None:
            if (burst := await late_store.take_unannounced(connection, look.segment_id)) is not None:
                await _announce(connection, _correction(burst, place, look.subscription_id, now), place, account)
            await late_store.looked_at(connection, look.segment_id, disposition, noted=noted)
    look.place, look.noted, look.events = following, noted, look.events + len(ended)
    _tell(look, disposition, ended)


def _tell(look: Look, disposition: Disposition, ended: Sequence[Ended]) -> None:
    for one in ended:
        metrics.LATE.labels(one.reason if one.reason in {BILLED, WAIVED, PARKED} else one.outcome).inc()
    if look.place is None and (look.events or disposition == "keep"):
        log.info("late usage looked at", subscription_id=look.subscription_id, disposition=disposition, events=look.events)


def _by_plan(rules: Rules, account: Account) -> Disposition:
    return BY_POLICY[rules.late_usage] if account.reported else "waive"  # a free plan has no invoice


async def _judge(
    connection: Connection, page: Sequence[Observation], place: Place, rules: Rules, *, bill: bool, now: datetime
) -> list[Ended]:
    """Say what becomes of each event: what would have counted is billed or waived, the rest is what it would have been in time."""
    ended, counting = [], []
    for seen in page:
        outcome, reason, amounts = rules.judge(seen)
        if outcome != "counted":
            ended.append(Ended(seen, outcome, reason))
        elif bill and seen.at < now - STRIPE_TAKES:
            ended.append(Ended(seen, "held", PARKED))
        else:
            counting.append((seen, amounts, rules.marks(seen, place.started_at, amounts)))
    marked = [(seen, marks) for seen, _, marks in counting if marks]
    growth = await mark_store.grow_late(connection, place.segment_id, marked) if marked else {}
    for seen, amounts, _ in counting:
        grown = tuple((meter_id, growth.get((seen.id, meter_id), amount)) for meter_id, amount in amounts)
        ended.append(Ended(seen, "counted", BILLED, grown) if bill else Ended(seen, "filtered", WAIVED, grown))
    return ended


async def _write(connection: Connection, ended: Sequence[Ended], place: Place) -> late_store.Sums:
    """Write what became of events; returns what is billed."""
    bare = [Ended(one.seen, one.outcome, one.reason) if one.reason == WAIVED else one for one in ended]  # waived: counts nothing
    await late_store.end(connection, bare)
    if of_invoice := [one for one in ended if one.reason == BILLED]:
        await late_store.keep_unannounced(connection, place.segment_id, _burst(of_invoice))
    billed = _sums(of_invoice)
    await late_store.add_up(connection, place.segment_id, "billed", billed)
    await late_store.add_up(connection, place.segment_id, "waived", _sums([one for one in ended if one.reason == WAIVED]))
    return billed


def _burst(billed: Sequence[Ended]) -> Burst:
    amounts: dict[str, int] = {}
    for one in billed:
        for meter_id, amount in one.amounts:
            amounts[meter_id] = amounts.get(meter_id, 0) + amount
    return Burst(amounts, min(one.seen.id for one in billed), max(one.seen.at for one in billed))


def _correction(burst: Burst, place: Place, subscription_id: str, now: datetime) -> Correction:
    """Return what moves the invoice; its id is derived from its events, each of which is in one burst only."""
    return Correction(
        correction_id=derive_id("late", str(place.segment_id), str(burst.first_id)), kind="late", subscription_id=subscription_id,
        segment_id=place.segment_id, at=burst.last_at, amounts=dict(burst.amounts), after_close=True,
        reason="came after its period was closed", author="turnpike", made_at=now,
    )  # fmt: skip


async def _announce(connection: Connection, correction: Correction, place: Place, account: Account) -> None:
    windows = (await window_store.segment_totals(connection, [place.segment_id]))[place.segment_id]
    before = correction_store.added(windows, await correction_store.after_close(connection, place.segment_id))
    made = Made(correction, place, "made", {}, before, correction_store.added(before, correction.amounts))
    await corrections.write(connection, made, account.account_id)


def _sums(ended: Sequence[Ended]) -> late_store.Sums:
    sums: dict[tuple[str, datetime], tuple[int, int]] = {}
    for one in ended:
        hour = one.seen.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        for meter_id, amount in one.amounts:
            quantity, events = sums.get((meter_id, hour), (0, 0))
            sums[meter_id, hour] = (quantity + amount, events + 1)
    return sums
