"""Repairs what is provably safe to repair: it only ever brings Stripe up to what was counted, and never lowers anything by guess."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from billing_common.db import Connection
from billing_common.events import derive_id
from stripe_reporter import invoice_store, ledger, reconciliation_store, store
from stripe_reporter.domain import MeterEvent
from stripe_reporter.reconciliation import is_unsure
from stripe_reporter.reconciling import Reconciled, Stations, check_windows
from stripe_reporter.stripe_gateway import StripeUnavailableError

log = structlog.get_logger(__name__)
DAY = timedelta(days=1)
STRIPE_TAKES = timedelta(days=34)


async def repair(stations: Stations, found: Reconciled, since: datetime, until: datetime) -> list[str]:
    """Do what is safe for one subscription; returns what was done, and what is left to a person and why."""
    causes = {one.difference.cause for one in found.found}
    said = []
    if "overdue" in causes:
        said += await _send_overdue(stations, found)
    said += await _tell_again(stations, found)
    said += await _close_again(stations, found, since, until)
    for one in found.found:
        difference = one.difference
        if difference.station != "ledger-stripe" or difference.cause != "manual_change_in_stripe":
            continue
        if difference.quantity > 0:
            text = "Stripe has more than was counted: never lowered by guess; cancel that meter event in Stripe, or keep it"
            said.append(f"{difference.day:%Y-%m-%d} {difference.meter_id}: {text}")
        else:
            said += await _resend(stations, found, difference.product_id, difference.meter_id, difference.day)
    return said


def _unsure(found: Reconciled) -> set[datetime]:
    return {one.day for one in found.meters if is_unsure(one)}


async def _send_overdue(stations: Stations, found: Reconciled) -> list[str]:
    """Send what waits here, but no total that is higher than what the events add up to, or than anybody can say."""
    overdue = {one.difference.day for one in found.found if one.difference.cause == "overdue"}
    wrong = {one.day for one in found.meters if one.told and (one.counted is None or one.told > one.counted)}
    async with stations.pool.acquire() as connection, connection.transaction():
        windows = await store.pull_days(connection, stations.clocks.now, found.subscription_id, sorted(overdue - wrong))
    text = "overdue, but its totals are not what the events add up to, so they are not sent: put them right first"
    said = [f"{day:%Y-%m-%d}: {text}" for day in sorted(overdue & wrong)]
    return [*said, f"{windows} totals that were overdue are sent now"] if windows else said


async def _tell_again(stations: Stations, found: Reconciled) -> list[str]:
    days = sorted({one.difference.day for one in found.found if one.difference.cause == "not_told"})
    unsure, said, windows = _unsure(found), [], 0
    for day in days:
        if found.kept_from is not None and day < found.kept_from:
            said.append(f"{day:%Y-%m-%d}: not told again: {_gone(found.kept_from)}")
        elif day in unsure:
            said.append(f"{day:%Y-%m-%d}: its windows are not what its events add up to, so they are not told: put them right first")
        else:
            windows += await _publish_again(stations, found, day, day + DAY)
    return [*said, f"{windows} totals are published again by the collector"] if windows else said


async def _close_again(stations: Stations, found: Reconciled, since: datetime, until: datetime) -> list[str]:
    """Have closings said again whose totals are not those of the windows: nobody can settle them, and the windows may be right since."""
    async with stations.pool.acquire() as connection:
        segments = await reconciliation_store.mismatched_segments(connection, found.subscription_id, since, until)
    said = []
    for start, end in segments:
        head = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
        if start < since or end > until:
            unsure, kept_from = await check_windows(stations, found.subscription_id, start, end)
        else:
            unsure, kept_from = {day for day in _unsure(found) if start < day + DAY and day < end}, found.kept_from
        if kept_from is not None and start < kept_from:
            said.append(f"{head}: closed with another total than its windows have: {_gone(kept_from)}")
        elif unsure:
            said.append(
                f"{head}: closed with another total than its windows have, which are not what the events add up to "
                f"({_named(unsure)}): put them right first"
            )
        else:
            await _publish_again(stations, found, max(start, end - DAY), end, closings=True)
            said.append(f"{head}: was closed with another total than its windows have; the collector says its total again")
    return said


def _gone(kept_from: datetime) -> str:
    return f"events of days before {kept_from:%Y-%m-%d} are no longer kept, so nobody can check its windows"


def _named(days: Collection[datetime]) -> str:
    shown = ", ".join(f"{day:%Y-%m-%d}" for day in sorted(days)[:3])
    return shown if len(days) <= 3 else f"{shown} and {len(days) - 3} days more"


async def _publish_again(stations: Stations, found: Reconciled, since: datetime, until: datetime, *, closings: bool = False) -> int:
    body = {"subscription_id": found.subscription_id, "from": since.isoformat(), "to": until.isoformat(), "closings": closings}
    return int((await stations.collector.post("/v1/windows/publish-again", body))["windows"])


async def _resend(stations: Stations, found: Reconciled, product_id: str, meter_id: str, day: datetime) -> list[str]:
    """Compare each hour of a day with Stripe's own sum, and send what is missing there under a new identifier."""
    head = f"{day:%Y-%m-%d} {meter_id}"
    async with stations.pool.acquire() as connection:
        facts = (await reconciliation_store.facts(connection, [found.subscription_id])).get(found.subscription_id)
        rows = await reconciliation_store.meter_days(connection, found.subscription_id, day, day + DAY)
        place = next((row for row in rows if (row["product_id"], row["meter_id"]) == (product_id, meter_id)), None)
        if facts is None or place is None or facts["stripe_customer_id"] is None:
            return [f"{head}: nothing of this subscription was reported on that day"]
        customer = facts["stripe_customer_id"]
        hours = await reconciliation_store.customer_hours(connection, customer, place["event_name"], day, day + DAY)
        for name in sorted({found.subscription_id, *(name for row in hours for name in row["subscriptions"])}):
            if await _is_invoiced(connection, name, product_id, meter_id, day):
                whose = "its invoice" if name == found.subscription_id else f"the invoice of {name}, of the same customer and meter,"
                return [f"{head}: {whose} is final, so sending it again would bill nothing; correct it with `turnpike usage adjust`"]
    if day < stations.clocks.now - STRIPE_TAKES:
        return [f"{head}: older than Stripe takes (35 days); correct it with `turnpike usage adjust`"]
    try:
        sums = await stations.stripe.sums(
            stripe_meter_id=place["stripe_meter_id"], stripe_customer_id=customer, start=day, end=day + DAY, by="hour"
        )
    except StripeUnavailableError as error:
        return [f"{head}: Stripe did not answer ({error}); try again"]
    return [f"{head}: {text}" for text in await _resend_hours(stations, hours, sums, customer, place["event_name"])]


async def _is_invoiced(connection: Connection, subscription_id: str, product_id: str, meter_id: str, day: datetime) -> bool:
    invoices = await invoice_store.invoices_of(connection, subscription_id, day, day + DAY)
    components = {"unit", f"usage:{meter_id}"}
    return any(
        invoice.status != "draft" and line.product_id == product_id and line.component in components and line.period_start < day + DAY
        for invoice in invoices
        for line in invoice.lines
        if line.period_end > day
    )


async def _resend_hours(
    stations: Stations, hours: Iterable[Mapping[str, Any]], sums: Mapping[datetime, int], customer: str, event_name: str
) -> list[str]:
    said: list[str] = []
    known = {row["hour"].astimezone(UTC): row for row in hours}
    for hour, there in sorted(sums.items()):
        if there > (known[hour]["acknowledged"] if hour in known else 0):
            text = "somebody may have moved usage there, or its answer is on its way, so nothing of this day is sent again"
            return [f"Stripe has more of the hour from {hour:%H:%M} than it acknowledged: {text}"]
    for hour, row in known.items():
        short = row["acknowledged"] - sums.get(hour, 0)
        if short <= 0:
            continue
        if row["times"] > 1:
            said.append(f"{hour:%H:%M} is an hour in which a period ended: nobody can say which of the two it is missing from")
            continue
        if row["open"] or (row["answered_at"] is not None and stations.clocks.wall - row["answered_at"] < stations.clocks.summary_lag):
            said.append(f"{hour:%H:%M} has answers on their way: try again in {stations.clocks.summary_lag}")
            continue
        identifier = derive_id("missing", str(row["window_id"]), str(row["acknowledged"]), str(sums.get(hour, 0)))
        event = MeterEvent(
            identifier=identifier, window_id=row["window_id"], stripe_customer_id=customer, event_name=event_name,
            stripe_meter_id=row["stripe_meter_id"], event_time=row["event_time"], revision=row["revision"], quantity=short,
        )  # fmt: skip
        async with stations.pool.acquire() as connection, connection.transaction():
            if await ledger.resend(connection, event, stations.clocks.wall):
                said.append(f"{short:,} of the hour from {hour:%H:%M} are missing at Stripe and are sent again")
                log.info("missing at Stripe, sent again", window_id=str(row["window_id"]), quantity=short)
    return said
