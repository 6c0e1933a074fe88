"""What is spent of spend caps: shares of one are announced from the bill so far. A cap tells; it stops neither calls nor charges."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog

from billing_common import rating
from billing_common.bill_so_far import bill_so_far
from billing_common.db import Connection
from billing_common.events import UsageThresholdReached
from usage_collector import plans, standing_store
from usage_collector.directory import Directory

log = structlog.get_logger(__name__)
OF_CAP = (Decimal("0.5"), Decimal("0.8"), Decimal(1))
TOLD_MAX = 2**63 - 1  # neither Postgres nor readers of JSON take more; a bill beyond is a mistake, and keeps no other total waiting


@dataclass(frozen=True)
class _Running:
    """The segments of a subscription up to the end of a period; the last one's plan is in force, and has the cap."""

    segments: Sequence[Any]
    period: rating.Period
    cap_minor: int

    @property
    def within(self) -> list[Any]:
        """The segments that begin in the period: each ends with it at the latest."""
        return [segment for segment in self.segments if segment["started_at"] >= self.period.start]


async def reached(connection: Connection, directory: Directory, rows: Sequence[Any], *, now: datetime) -> list[UsageThresholdReached]:
    """Return the shares of spend caps at or below the bills that the windows in `rows` belong to; plans without a cap cost nothing here."""
    asked: dict[tuple[str, datetime], datetime] = {}  # subscription id, segment start -> end of the period
    for row in rows:
        plan, place = (row["product_id"], row["catalogue_version"]), (row["subscription_id"], row["segment_start"])
        rules = await directory.rules_of(connection, plan)
        if rules is not None and rules.has_spend_cap and place not in asked:
            sold = await directory.catalogue_of(connection, plan)
            if sold is not None:
                asked[place] = rating.period_at(sold[1], started_at=row["started_at"] or place[1], at=place[1]).end
    if not asked:
        return []
    known = await standing_store.segments_of(connection, sorted({subscription_id for subscription_id, _ in asked}))
    ends = sorted({(subscription_id, end) for (subscription_id, _), end in asked.items()})
    running = [
        one
        for subscription_id, end in ends
        if (one := await _running(connection, directory, known.get(subscription_id, []), end)) is not None
    ]
    used = await standing_store.used_in(connection, [segment["id"] for one in running for segment in one.within])
    return [event for one in running for event in await _events(connection, directory, one, used, now)]


async def _running(connection: Connection, directory: Directory, segments: Sequence[Any], end: datetime) -> _Running | None:
    """Return None where the plan in force has no cap."""
    begun = [segment for segment in segments if segment["started_at"] < end]
    if not begun:
        return None
    last = begun[-1]
    sold = await directory.catalogue_of(connection, (last["product_id"], last["catalogue_version"]))
    cap = plans.spend_cap_minor(sold, last["currency"]) if sold else None
    if sold is None or cap is None:
        return None
    return _Running(begun, rating.period_at(sold[1], started_at=last["began"], at=last["started_at"]), cap)


async def _events(
    connection: Connection, directory: Directory, one: _Running, used: dict[int, dict[str, int]], now: datetime
) -> list[UsageThresholdReached]:
    last = one.segments[-1]
    usage = [(row["started_at"], meter_id, quantity) for row in one.within for meter_id, quantity in used.get(row["id"], {}).items()]
    stays = standing_store.stays_of(one.segments)
    on_plans = await plans.on_plans(connection, directory, stays, usage, began=last["began"], period=one.period)
    if on_plans is None:
        return []
    try:
        bill = bill_so_far(on_plans, period=one.period, currency=last["currency"], now=now)
    except rating.RatingError as error:  # of one subscription: the totals of all others still have to be told
        log.warning("spend cap not looked at", subscription_id=last["subscription_id"], reason=str(error))
        return []
    since, told = max(last["began"], one.period.start), min(bill.total_minor, TOLD_MAX)
    return [
        UsageThresholdReached(
            cause_id=f"{last['subscription_id']}:{last['product_id']}:spend_cap:{since.isoformat()}:{share.normalize():f}:{one.cap_minor}",
            occurred_at=now, subscription_id=last["subscription_id"], account_id=last["account_id"], meter_id="",
            period_start=since, period_end=one.period.end, threshold=share, quantity=told,
            product_id=last["product_id"], kind="spend_cap", limit=one.cap_minor, currency=bill.present.currency,
        )
        for share in OF_CAP
        if bill.total_minor >= share * one.cap_minor
    ]  # fmt: skip
