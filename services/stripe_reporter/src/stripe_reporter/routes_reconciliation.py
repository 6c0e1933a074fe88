"""Requests in, on the internal port: all stations side by side, what differs and why, and safe repairs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from stripe_reporter import reconciliation_store, repairing
from stripe_reporter.reconciliation import Clocks
from stripe_reporter.reconciling import RANGE_MAX, SUBSCRIPTIONS_MAX, Reconciled, Stations, reconcile
from stripe_reporter.sender import wall_now

router = APIRouter(prefix="/v1/reconciliations")
DAY = timedelta(days=1)
Id = Annotated[str, Field(min_length=1, max_length=256)]


class RangeRequest(BaseModel):
    """`from` and `to` are widened to full UTC days: what Stripe's summaries are compared by."""

    model_config = ConfigDict(extra="forbid")

    subscriptions: list[Id] = Field(min_length=1, max_length=SUBSCRIPTIONS_MAX)
    since: Moment = Field(alias="from")
    to: Moment


class DifferenceRow(BaseModel):
    """Two stations that disagree. `quantity`: the later one less the earlier one; of events where `meter_id` is empty."""

    station: str
    cause: str
    explained: bool
    needs_attention: bool = Field(description="false: as it should be, or gone by itself in a while")
    day: datetime
    product_id: str
    meter_id: str
    quantity: int
    amount_minor: int | None = Field(description="what the quantity costs beside the usage of its month; null: nobody can say")
    currency: str | None
    age_seconds: int
    words: str


class MeterRow(BaseModel):
    """One meter of one product in the whole range, station by station; `stripe` null: not billed, or no answer."""

    product_id: str
    meter_id: str
    counted: int | None
    windows: int
    told: int
    acknowledged: int
    in_flight: int
    unsent: int
    rejected: int
    stripe: int | None


class InvoiceRow(BaseModel):
    invoice: str
    product_id: str
    meter_id: str
    period_start: datetime
    billed: int
    counted: int
    amount_minor: int
    rated_minor: int | None


class SubscriptionAnswer(BaseModel):
    """`gateway_calls` null: not counted there. `agrees`: nothing needs attention."""

    subscription_id: str
    agrees: bool
    gateway_calls: int | None
    gateway_received: int | None
    events: dict[str, int]
    duplicates: int
    meters: list[MeterRow]
    invoices: list[InvoiceRow]
    differences: list[DifferenceRow]
    problems: list[str] = Field(description="stations that did not answer")
    events_kept_from: datetime | None = Field(
        default=None, description="events of days before are no longer kept, so they are not compared; null: all of the range are"
    )


class RepairAnswer(BaseModel):
    subscription_id: str
    done: list[str]


class OpenDifference(DifferenceRow):
    subscription_id: str
    first_seen_at: datetime


class OpenAnswer(BaseModel):
    last_run_at: datetime | None = Field(description="wall time at which the last hourly run ended")
    differences: list[OpenDifference]


def stations_of(request: Request) -> Stations:
    state = request.app.state
    clocks = Clocks(state.clock.now(), wall_now(), state.summary_lag)
    return Stations(state.pool, state.collector, state.stripe, clocks)


def full_days(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Widen a range to full UTC days."""
    first = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    last = (until.astimezone(UTC) - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    return first, last


def _range(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    try:
        first, last = full_days(since, until)
        fits = first < last <= first + RANGE_MAX
    except OverflowError:
        fits = False
    if not fits:
        raise HTTPException(422, f"`to` must lie after `from`, by at most {RANGE_MAX.days} days")
    return first, last


def known_only(found: list[Reconciled]) -> list[Reconciled]:
    """Refuse ids that nobody has heard of: nothing agrees with nothing, and that says nothing."""
    if unknown := [one.subscription_id for one in found if not one.known]:
        named = "subscription " + unknown[0] if len(unknown) == 1 else "subscriptions " + ", ".join(unknown)
        raise HTTPException(404, f"{named}: not known to the collector nor to the reporter; it takes Turnpike's subscription id")
    return found


@router.post("", dependencies=[Depends(require_scope("reports:read"))])
async def get_reconciliations(request: Request, body: RangeRequest) -> list[SubscriptionAnswer]:
    """Compare gateway, events, windows, ledger, Stripe's meter summaries and invoice lines of some subscriptions, now."""
    stations = stations_of(request)
    found = known_only(await reconcile(stations, body.subscriptions, *_range(body.since, body.to)))
    return [answer(one, stations.clocks.now) for one in found]


@router.post("/repair", dependencies=[Depends(require_scope("reports:write"))])
async def repair(request: Request, body: RangeRequest) -> list[RepairAnswer]:
    """Do what is provably safe: send what is overdue, tell totals again, send again what is missing at Stripe. Nothing is ever lowered."""
    stations, span = stations_of(request), _range(body.since, body.to)
    answers = [
        RepairAnswer(subscription_id=found.subscription_id, done=await repairing.repair(stations, found, *span))
        for found in known_only(await reconcile(stations, body.subscriptions, *span))
    ]
    request.app.state.wake.set()
    return answers


@router.get("/subscriptions", dependencies=[Depends(require_scope("reports:read"))])
async def get_subscriptions(
    request: Request,
    since: Annotated[Moment, Query(alias="from")],
    to: Moment,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = SUBSCRIPTIONS_MAX,
) -> list[str]:
    """Return ids of subscriptions with usage in a range, or that live, in order; `after` is the last one of the page before."""
    async with request.app.state.pool.acquire() as connection:
        return await reconciliation_store.subscriptions(connection, *_range(since, to), after, limit)


@router.get("/open", dependencies=[Depends(require_scope("reports:read"))])
async def get_open(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> OpenAnswer:
    """Return what the last hourly run left, the unexplained first."""
    now = request.app.state.clock.now()
    async with request.app.state.pool.acquire() as connection:
        rows = await reconciliation_store.listed(connection, limit)
        last = await reconciliation_store.last_run(connection)
    named = ("station", "cause", "explained", "day", "product_id", "meter_id", "quantity", "amount_minor", "currency", "words",
             "subscription_id", "first_seen_at")  # fmt: skip
    return OpenAnswer(
        last_run_at=last,
        differences=[
            OpenDifference(
                **{name: row[name] for name in named}, needs_attention=True, age_seconds=int((now - row["first_seen_at"]).total_seconds())
            )
            for row in rows
        ],
    )


def answer(found: Reconciled, now: datetime) -> SubscriptionAnswer:
    """Put one subscription into words and sums."""
    gateways = [day["gateway"] for day in found.days if day["gateway"] is not None]
    events: dict[str, int] = {}
    for day in found.days:
        for row in day["bins"]:
            events[row["outcome"]] = events.get(row["outcome"], 0) + row["events"]
    differences = [_difference(one, now) for one in found.found]
    return SubscriptionAnswer(
        subscription_id=found.subscription_id,
        agrees=not any(row.needs_attention for row in differences),
        gateway_calls=sum(one["calls"] for one in gateways) if gateways else None,
        gateway_received=sum(one["received"] for one in gateways) if gateways else None,
        events=events,
        duplicates=sum(day["duplicates"] for day in found.days),
        meters=_meters(found),
        invoices=[InvoiceRow(**{name: getattr(one, name) for name in InvoiceRow.model_fields}) for one in found.invoices],
        differences=differences,
        problems=list(found.problems),
        events_kept_from=found.kept_from,
    )


def _meters(found: Reconciled) -> list[MeterRow]:
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    summed = ("counted", "windows", "told", "acknowledged", "in_flight", "unsent", "rejected", "stripe")
    for one in found.meters:
        known = sums.setdefault((one.product_id, one.meter_id), dict.fromkeys(summed, 0))
        for name in summed:
            value = getattr(one, name)
            known[name] = None if (value is None and name in {"stripe", "counted"}) or known[name] is None else known[name] + (value or 0)
    return [MeterRow(product_id=product_id, meter_id=meter_id, **values) for (product_id, meter_id), values in sorted(sums.items())]


def _difference(one: reconciliation_store.Found, now: datetime) -> DifferenceRow:
    difference = one.difference
    return DifferenceRow(
        **{
            name: getattr(difference, name)
            for name in ("station", "cause", "explained", "needs_attention", "day", "product_id", "meter_id")
        },
        quantity=difference.quantity,
        amount_minor=one.amount_minor,
        currency=one.currency,
        age_seconds=max(0, int((now - (difference.since or difference.day)).total_seconds())),
        words=difference.words,
    )
