"""Where a subscription stands in its running period: usage, the bill so far, where it is heading, what is left of its quota."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from billing_common import rating
from billing_common.bill_so_far import bill_so_far
from billing_common.catalogue import Product
from billing_common.db import Connection
from usage_collector import plans, standing_store, window_store
from usage_collector.directory import Directory
from usage_collector.limits import limits_of
from usage_collector.plans import Used
from usage_collector.standing_store import Running
from usage_collector.thresholds import span_of


class QuotaStanding(BaseModel):
    """How much of a quota or of an included amount is used. `stops`: calls beyond it are refused."""

    meter_id: str
    limit: int
    used: int
    remaining: int
    window_start: datetime
    window_end: datetime | None
    stops: bool


class Bill(BaseModel):
    currency: str
    total_minor: int
    lines: list[dict[str, Any]]


class Basis(BaseModel):
    """The pace that was stretched: usage from `since` to `until`, to the end of the period."""

    method: str = "pace"
    since: datetime
    until: datetime
    period_end: datetime
    usage: dict[str, int] = Field(description="meter id -> usage at the period's end")


class Projected(Bill):
    basis: Basis


class PeriodStanding(BaseModel):
    """Of the whole billing period, plans that were left in it included.

    `bill` is null where a catalogue version is not known here; `projected` also while it is too early to tell.
    """

    subscription_id: str
    account_id: str
    product_id: str
    catalogue_version: int
    period_start: datetime
    period_end: datetime
    segment_start: datetime
    totals: dict[str, int]
    quotas: list[QuotaStanding]
    bill: Bill | None
    projected: Projected | None
    spend_cap_minor: int | None = Field(default=None, description="in the bill's currency; its shares are announced, nothing stops there")


async def standing(connection: Connection, directory: Directory, subscription_id: str, *, now: datetime) -> PeriodStanding | None:
    """Return None when nothing is known of the subscription."""
    found = await standing_store.running(connection, subscription_id, now)
    if found is None:
        return None
    sold = await directory.catalogue_of(connection, (found.product_id, found.catalogue_version))
    at = min(now, found.segment_end) if found.segment_end else now
    period = rating.period_at(sold[1], started_at=found.started_at, at=found.segment_start if found.ended else at) if sold else None
    since = max(found.started_at, period.start) if period else found.segment_start
    until = period.end if period else at
    usage = await standing_store.usage_since(connection, subscription_id, since, until)
    totals: dict[str, int] = {}
    for _, meter_id, quantity in usage:
        totals[meter_id] = totals.get(meter_id, 0) + quantity
    bill, projection, quotas = None, None, []
    if sold is not None and period is not None:
        totals = dict.fromkeys(sold[1].meter_ids(), 0) | totals
        bill, projection = await _rated(connection, directory, found, usage, period=period, now=at)
        quotas = await _quotas(connection, sold[1], found, now=at)
    end = found.segment_end or (period.end if period else now)
    return PeriodStanding(
        subscription_id=subscription_id, account_id=found.account_id, product_id=found.product_id,
        catalogue_version=found.catalogue_version, period_start=since, period_end=end,
        segment_start=found.segment_start, totals=totals, quotas=quotas, bill=bill, projected=projection,
        spend_cap_minor=plans.spend_cap_minor(sold, found.currency) if sold else None,
    )  # fmt: skip


async def _rated(
    connection: Connection, directory: Directory, found: Running, usage: Sequence[Used], *, period: rating.Period, now: datetime
) -> tuple[Bill | None, Projected | None]:
    """Rate the plans of the period; nothing where a catalogue version is not known here."""
    plans_by_now = await standing_store.plans(connection, found.subscription_id, found.segment_start)
    stays = await plans.on_plans(connection, directory, plans_by_now, usage, began=found.started_at, period=period)
    if stays is None:
        return None, None
    bill = bill_so_far(stays, period=period, currency=found.currency, now=now)
    lines = _lines(*(one.rated for one in bill.past))
    so_far = Bill(currency=bill.present.currency, total_minor=bill.total_minor, lines=lines + _lines(bill.present))
    ahead = bill.projection
    if ahead is None or bill.ahead_minor is None:
        return so_far, None
    basis = Basis(since=ahead.since, until=ahead.until, period_end=ahead.end, usage=dict(ahead.usage))
    return so_far, Projected(currency=so_far.currency, total_minor=bill.ahead_minor, lines=lines + _lines(ahead.rated), basis=basis)


def _lines(*rated: rating.Rated) -> list[dict[str, Any]]:
    quotes: list[dict[str, Any]] = [rating.as_quote(one) for one in rated]
    return [line for quote in quotes for line in quote["lines"]]


async def _quotas(connection: Connection, product: Product, found: Running, *, now: datetime) -> list[QuotaStanding]:
    row = {"subscription_id": found.subscription_id, "hour": now, "segment_start": found.segment_start, "started_at": found.started_at}
    spans = {span_of(limit, row): limit for limit in limits_of(product)}
    totals = await window_store.totals_of(connection, list(spans)) if spans else {}
    return [
        QuotaStanding(
            meter_id=limit.meter_id,
            limit=limit.amount,
            used=totals.get(span, 0),
            remaining=max(0, limit.amount - totals.get(span, 0)),
            window_start=span.since,
            window_end=span.until or found.segment_end,
            stops=product.quota is not None and product.quota.meter == limit.meter_id and product.quota.beyond == "stop",
        )
        for span, limit in spans.items()
    ]
