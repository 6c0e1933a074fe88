"""Finds usage that was counted in time and is all at Stripe, and that its final invoice does not bill: said once, for checkout to bill."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog

from billing_common.events import UsageUnbilled, derive_id
from billing_common.outbox import announce
from stripe_reporter import explanation, invoice_store, metrics, unbilled_store
from stripe_reporter.explaining import catalogues_of
from stripe_reporter.explanation import Group
from stripe_reporter.invoice_store import Invoice
from stripe_reporter.reconciling import Stations
from stripe_reporter.stripe_gateway import StripeUnavailableError, full_minutes
from stripe_reporter.unbilled_store import Claim, Stretch, of_group

LOOK_SECONDS = 5.0
PAUSE_MIN = timedelta(seconds=1)
LOOKED_AT_FOR = timedelta(days=40)  # business time: Stripe takes usage of the past 35 days, so nothing can come after that
ASKED_FOR = frozenset({"open", "paid", "uncollectible"})  # nobody is to pay one that is void
QUANTITY_MAX = 2**63 - 1

log = structlog.get_logger(__name__)


async def run(stations_now: Callable[[], Stations]) -> None:
    while True:
        await look(stations_now())
        await asyncio.sleep(LOOK_SECONDS)


async def look(stations: Stations) -> int:
    """Look at all final invoices that are due; returns how much was found missing. Any number of replicas may look.

    One that fails is looked at again later, as all are, and keeps no other from being looked at: its error is raised at the end.
    """
    pause = max(stations.clocks.summary_lag, PAUSE_MIN)
    found, failed = 0, None
    while True:
        async with stations.pool.acquire() as connection:
            names = await unbilled_store.take(connection, wall=stations.clocks.wall, pause=pause)
        if not names:
            break
        for name in names:
            try:
                found += await _look_at(stations, name)
            except Exception as error:  # unforeseen by its nature
                log.exception("an invoice could not be looked at", invoice_id=name)
                failed = error
    if failed is not None:
        raise failed
    return found


async def _look_at(stations: Stations, invoice_id: str) -> int:
    """Compare one invoice; it is looked at again until all usage of its periods is seen to be billed."""
    async with stations.pool.acquire() as connection:
        invoice = await invoice_store.find_invoice(connection, invoice_id)
        assert invoice is not None  # taken a moment ago, and never deleted
        claims = (await unbilled_store.claims(connection, [invoice_id])).get(invoice_id, [])
        groups = explanation.groups_of(invoice, await catalogues_of(connection, [], [invoice]))
    is_over = invoice.final_at is None or stations.clocks.now - invoice.final_at > LOOKED_AT_FOR
    found, done = 0, True
    for group in groups if invoice.status in ASKED_FOR and not is_over else ():
        async with stations.pool.acquire() as connection:
            known = await unbilled_store.stretch(connection, invoice.subscription_id, group, full_minutes(group.start, group.end))
        billed = billed_of(group, claims)
        missing = known.acknowledged > billed and await _is_sure(stations, group, known)
        if missing and await _announce(stations, invoice, _claim(invoice_id, group, billed, known), group, known):
            found, billed = found + 1, known.acknowledged  # else another replica said so first, maybe with less: the next look sees it
        done = done and known.whole and not known.open and known.acknowledged <= billed
    if done:
        async with stations.pool.acquire() as connection:
            await unbilled_store.look_no_more(connection, invoice_id)
    return found


def billed_of(group: Group, claims: Iterable[Claim]) -> int:
    """Return what the invoice bills of a group, with what was found missing before."""
    return max([group.quantity, *(claim.counted for claim in of_group(group, claims))])


async def _is_sure(stations: Stations, group: Group, known: Stretch) -> bool:
    """Return whether Stripe holds exactly what it acknowledged of the customer then: else a person, or more time, has to decide."""
    clocks = stations.clocks
    if known.stripe_meter_id is None or known.stripe_customer_id is None or known.is_on_its_way(wall=clocks.wall, lag=clocks.summary_lag):
        return False
    if group.quantity < 0 or known.acknowledged > QUANTITY_MAX:
        return False
    start, end = full_minutes(group.start, group.end)
    try:
        at_stripe = await stations.stripe.sum(
            stripe_meter_id=known.stripe_meter_id, stripe_customer_id=known.stripe_customer_id, start=start, end=end
        )
    except StripeUnavailableError as error:
        log.warning("meter summary not read", reason=str(error))
        return False
    return at_stripe == known.customer_acknowledged


def _claim(invoice_id: str, group: Group, billed: int, known: Stretch) -> Claim:
    unbilled_id = derive_id("unbilled", invoice_id, group.product_id, group.component, group.start.isoformat(), str(billed))
    return Claim(unbilled_id, group.product_id, group.component, group.meter_id, group.start, billed, known.acknowledged)


async def _announce(stations: Stations, invoice: Invoice, claim: Claim, group: Group, known: Stretch) -> bool:
    """Keep the claim and say it, in one transaction; False where it was said before."""
    event = UsageUnbilled(
        cause_id=str(claim.unbilled_id),
        occurred_at=stations.clocks.now,
        subscription_id=invoice.subscription_id,
        account_id=invoice.account_id,
        unbilled_id=claim.unbilled_id,
        invoice_id=invoice.invoice_id,
        invoice_number=invoice.number,
        product_id=claim.product_id,
        catalogue_version=_version(group, known),
        meter_id=claim.meter_id,
        component=claim.component,
        period_start=group.start,
        period_end=group.end,
        billed=claim.billed,
        counted=claim.counted,
    )
    async with stations.pool.acquire() as connection, connection.transaction():
        if not await unbilled_store.add(connection, invoice.invoice_id, claim, stations.clocks.now):
            return False
        await announce(connection, event)
    metrics.UNBILLED.inc()
    log.warning(
        "a final invoice bills less than was counted",
        event_id=str(event.event_id), subscription_id=event.subscription_id, invoice_id=event.invoice_id, meter_id=event.meter_id,
        billed=event.billed, counted=event.counted,
    )  # fmt: skip
    return True


def _version(group: Group, known: Stretch) -> int:
    """Return the version it was counted under; where the prices changed within its time, the one that sells at the line's price."""
    of_line = next((line.catalogue_version for line in group.lines if line.catalogue_version is not None), None)
    newest = max(known.versions)
    return newest if len(known.versions) == 1 or of_line is None else of_line
