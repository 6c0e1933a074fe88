"""Where a subscription stands in its running period: usage, the bill so far, where it is heading, what is left of its quota."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from billing_common import rating
from billing_common.catalogue import Catalogue, Product
from billing_common.db import Connection
from billing_common.projection import Projection, project
from usage_collector import standing_store, window_store
from usage_collector.directory import Directory
from usage_collector.limits import limits_of
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
    """`bill` is null where the catalogue version is not known here; `projected` also while it is too early to tell."""

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


async def standing(connection: Connection, directory: Directory, subscription_id: str, *, now: datetime) -> PeriodStanding | None:
    """Return None when nothing is known of the subscription."""
    found = await standing_store.running(connection, subscription_id, now)
    if found is None:
        return None
    sold = await directory.catalogue_of(connection, (found.product_id, found.catalogue_version))
    at = min(now, found.segment_end) if found.segment_end else now
    period = rating.period_at(sold[1], started_at=found.started_at, at=found.segment_start if found.ended else at) if sold else None
    since = max(found.segment_start, period.start) if period else found.segment_start
    totals = await standing_store.totals_since(connection, subscription_id, found.segment_start, since)
    bill, projection, quotas = None, None, []
    if sold is not None and period is not None:
        totals = dict.fromkeys(sold[1].meter_ids(), 0) | totals
        bill, projection = _rated(*sold, found, totals, period=period, now=at)
        quotas = await _quotas(connection, sold[1], found, now=at)
    end = found.segment_end or (period.end if period else now)
    return PeriodStanding(
        subscription_id=subscription_id, account_id=found.account_id, product_id=found.product_id,
        catalogue_version=found.catalogue_version, period_start=max(since, found.started_at), period_end=end,
        segment_start=found.segment_start, totals=totals, quotas=quotas, bill=bill, projected=projection,
    )  # fmt: skip


def _rated(
    catalogue: Catalogue, product: Product, found: Running, totals: dict[str, int], *, period: rating.Period, now: datetime
) -> tuple[Bill, Projected | None]:
    usage = {meter: quantity for meter, quantity in totals.items() if meter in product.meter_ids()}
    began = found.segment_start if found.segment_start > max(period.start, found.started_at) else found.started_at
    facts = rating.Facts(started_at=began, trial_end=rating.trial_end(product, found.started_at), currency=found.currency)
    rated = rating.rate(catalogue, product, period=period, usage=usage, facts=facts)
    ahead = project(catalogue, product, usage, period=period, facts=facts, now=now)
    return _bill(rated), _projected(ahead) if ahead else None


def _bill(rated: rating.Rated) -> Bill:
    quote: dict[str, Any] = rating.as_quote(rated)
    return Bill(currency=rated.currency, total_minor=rated.total_minor, lines=quote["lines"])


def _projected(ahead: Projection) -> Projected:
    basis = Basis(since=ahead.since, until=ahead.until, period_end=ahead.end, usage=dict(ahead.usage))
    return Projected(**_bill(ahead.rated).model_dump(), basis=basis)


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
