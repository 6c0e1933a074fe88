"""Usage that came after its segment was closed: billed as money, waived or kept for a person, as the plan says. Once each."""

from collections.abc import Sequence
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
from usage_collector.late_store import Disposition, Ended
from usage_collector.metering import STRIPE_TAKES, Rules
from usage_collector.observing import Observation

log = structlog.get_logger(__name__)
SEGMENTS_MAX = 50
PAGE = 2000
BY_POLICY: dict[str, Disposition] = {"next_invoice": "bill", "waive": "waive", "hold": "keep"}
BILLED, WAIVED, PARKED = "late_billed", "late_waived", "too_old_to_bill"


async def settle_late(collector: Collector, *, now: datetime) -> int:
    """Look at some of what came late; returns at how many events."""
    done = 0
    for segment_id, subscription_id in await late_store.pending(collector.pool, SEGMENTS_MAX):
        done += await _settle_segment(collector, segment_id, subscription_id, now)
    return done


async def _settle_segment(collector: Collector, segment_id: int, subscription_id: str, now: datetime) -> int:
    """Settle one page of one segment in one transaction: events, sums, state of meters, and the correction that moves the invoice."""
    async with collector.pool.acquire() as connection, connection.transaction():
        await store.lock_shared(connection)
        account = await correction_store.lock_subscription(connection, subscription_id)
        is_pending, decided = await late_store.lock(connection, segment_id)
        place = await correction_store.place(connection, segment_id)
        rules = await collector.directory.rules_of(connection, place.plan) if place else None
        if not is_pending or account is None or place is None or rules is None:
            return 0
        disposition = decided or _by_plan(rules, account)
        sids = await subscription_store.keys_of(connection, [subscription_id])
        page = await late_store.page(connection, segment_id, sids, PAGE) if disposition != "keep" else []
        ended = await _judge(connection, page, place, rules, bill=disposition == "bill", now=now)
        if ended:
            billed = await _write(connection, ended, place)
            await thresholds.announce_late(connection, collector.directory, segment_id, billed, now=now)
            if (correction := _correction(ended, place, subscription_id, now)) is not None:
                await _announce(connection, correction, place, account)
        if len(page) < PAGE:
            await late_store.looked_at(connection, segment_id, disposition)
    for one in ended:
        metrics.LATE.labels(one.reason if one.reason in {BILLED, WAIVED, PARKED} else one.outcome).inc()
    if ended or disposition == "keep":
        log.info("late usage looked at", subscription_id=subscription_id, disposition=disposition, events=len(ended))
    return len(ended)


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
    billed = _sums([one for one in ended if one.reason == BILLED])
    await late_store.add_up(connection, place.segment_id, "billed", billed)
    await late_store.add_up(connection, place.segment_id, "waived", _sums([one for one in ended if one.reason == WAIVED]))
    return billed


def _correction(ended: Sequence[Ended], place: Place, subscription_id: str, now: datetime) -> Correction | None:
    """Return what moves the invoice; None when nothing that is billed counts."""
    billed = [one for one in ended if one.reason == BILLED]
    amounts: dict[str, int] = {}
    for one in billed:
        for meter_id, amount in one.amounts:
            amounts[meter_id] = amounts.get(meter_id, 0) + amount
    amounts = {meter_id: amount for meter_id, amount in amounts.items() if amount}
    if not amounts:
        return None
    return Correction(
        correction_id=derive_id("late", str(place.segment_id), str(late_store.first_id(billed))), kind="late",
        subscription_id=subscription_id, segment_id=place.segment_id, at=max(one.seen.at for one in billed), amounts=amounts,
        after_close=True, reason="came after its period was closed", author="turnpike", made_at=now,
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
