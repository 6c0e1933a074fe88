"""Answers why an invoice says what it says: what the reporter keeps of lines and windows, and what the collector keeps of events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import asyncpg
from pydantic import BaseModel, Field

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.db import Connection
from billing_common.reasons import WAITS, WORDS
from stripe_reporter import explanation, invoice_store, reconciliation_store
from stripe_reporter.collector_gateway import Collector
from stripe_reporter.explanation import Explanation, Group, Stretch
from stripe_reporter.invoice_store import HourOfMeter, Invoice

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
GONE = "its events are no longer kept"


class UnknownInvoiceError(Exception):
    """Nothing is known of this invoice."""


class UnknownUsageError(Exception):
    """The invoice has no such usage."""


class NotCounted(BaseModel):
    """Events that add nothing to the bill, and why."""

    outcome: str
    reason: str
    words: str
    events: int


class Endpoint(BaseModel):
    """What calls of one kind added in an hour. Origin `correction`: a person's adjustment."""

    origin: str
    method: str
    template: str
    status: int = Field(description="0: none")
    events: int
    quantity: int


class Hour(Stretch):
    """`endpoints` add up to `quantity` unless `difference` says why not."""

    endpoints: list[Endpoint]
    not_counted: list[NotCounted]
    difference: str | None


class Day(BaseModel):
    """The hours of one day of a usage."""

    key: str
    day: datetime
    quantity: int
    hours: list[Hour]
    complete_until: datetime | None


class DayOfUsage(Stretch):
    """A day also stands here when nothing counted on it. `not_counted`: how many events added nothing."""

    not_counted: int
    difference: str | None = Field(default=None, description="why its events do not add up to `quantity`")


class UsageExplained(explanation.Usage):
    """Usage with what did not count; the same events stand with each meter of one time."""

    days: list[DayOfUsage]  # type: ignore[assignment]  # the same with one field more
    not_counted: list[NotCounted]


class InvoiceExplained(Explanation):
    usage: list[UsageExplained]  # type: ignore[assignment]  # the same with one field more


@dataclass(frozen=True)
class Known:
    """An invoice with all that the reporter keeps about its usage; catalogues by product id."""

    invoice: Invoice
    groups: Sequence[Group]
    hours: Sequence[HourOfMeter]
    catalogues: Mapping[str, Catalogue]

    def group(self, key: str) -> Group:
        for group in self.groups:
            if group.key == key:
                return group
        raise UnknownUsageError(key)


async def load(pool: asyncpg.Pool, name: str) -> Known:
    """Read an invoice by Stripe's id or its number. Raises UnknownInvoiceError."""
    async with pool.acquire() as connection:
        invoice = await invoice_store.find_invoice(connection, name)
        if invoice is None:
            raise UnknownInvoiceError(name)
        usage = [line for line in invoice.lines if explanation.kind_of(line) == "usage"]
        hours: list[HourOfMeter] = []
        if usage:
            since, until = min(line.period_start for line in usage), max(line.period_end for line in usage)
            hours = await invoice_store.hours_of(connection, invoice.subscription_id, since, until)
        catalogues = await catalogues_of(connection, hours, [invoice])
    return Known(invoice, explanation.groups_of(invoice, catalogues), hours, catalogues)


async def catalogues_of(connection: Connection, hours: Iterable[HourOfMeter], invoices: Iterable[Invoice]) -> dict[str, Catalogue]:
    """Return product id -> the catalogue it was counted under; a product that changed its version within an invoice has the newest.

    Where nothing was counted the prices of the lines say which one it is, or else the subscription's plan.
    """
    versions: dict[str, int] = {}
    for invoice in invoices:
        lines = [line for line in invoice.lines if explanation.kind_of(line) == "usage" and line.product_id is not None]
        if any(line.catalogue_version is None for line in lines):
            plan = (await reconciliation_store.facts(connection, [invoice.subscription_id])).get(invoice.subscription_id)
            if plan is not None:
                versions.setdefault(plan["product_id"], plan["catalogue_version"])
        told = [(line.product_id or "", line.catalogue_version) for line in lines if line.catalogue_version is not None]
        versions |= dict(sorted(told))
    counted = sorted(hours, key=lambda hour: hour.catalogue_version)
    return await _catalogues(connection, versions | {hour.product_id: hour.catalogue_version for hour in counted})


async def catalogues_of_plan(connection: Connection, product_id: str, version: int) -> dict[str, Catalogue]:
    """Return product id -> the catalogue of a version, where it is known here."""
    return await _catalogues(connection, {product_id: version})


async def _catalogues(connection: Connection, versions: Mapping[str, int]) -> dict[str, Catalogue]:
    documents = await invoice_store.documents(connection, versions.values())
    found = {}
    for product_id, version in versions.items():
        if version in documents:
            try:
                found[product_id] = Catalogue.from_document(documents[version])
            except CatalogueError:
                continue
    return found


@dataclass(frozen=True)
class _AtCollector:
    """What the collector has of a usage, by the begin of each day or hour: rows of events, and its own windows."""

    group: Group
    segments: set[datetime]
    rows: Mapping[datetime, list[Mapping[str, Any]]]
    windows: Mapping[datetime, int]
    complete_until: datetime | None

    def counted(self, at: datetime) -> list[Mapping[str, Any]]:
        return [
            row
            for row in self.rows.get(at, ())
            if is_in_total(row) and row["meter_id"] == self.group.meter_id and of_segment(row, self.segments)
        ]

    def difference(self, at: datetime, span: timedelta, total: int) -> str | None:
        """Say where events or windows are not what was told to Stripe; None where all agree or events could not be read in time."""
        is_read = self.complete_until is None or at + span <= self.complete_until
        events = sum(row["quantity"] for row in self.counted(at)) if is_read else total
        window = self.windows.get(at, 0)
        if events == window == total:
            return None
        if at not in self.rows and is_read:
            return GONE
        told = f"{events:,} in events, {total:,} in the total"
        return told if window == total else f"{told}, {window:,} in the collector's window"


async def _at_collector(
    known: Known, group: Group, since: datetime, until: datetime, by: Literal["day", "hour"], *further: str, collector: Collector
) -> _AtCollector:
    segments = {hour.segment_start for hour in explanation.hours_of_group(group, known.hours)}
    answer = await collector.ask(split_path(known), range_of(since, until, by, *further, "outcome", "segment"))
    rows: dict[datetime, list[Mapping[str, Any]]] = {}
    for row in answer["rows"]:
        rows.setdefault(datetime.fromisoformat(row[by]), []).append(row)
    path, full_hour = f"/v1/usage/{known.invoice.subscription_id}", since.replace(minute=0, second=0, microsecond=0)
    windows = explanation.stretches(
        (datetime.fromisoformat(row["start"]), row["quantity"])
        for row in (await collector.ask(path, {"from": full_hour.isoformat(), "to": until.isoformat(), "by": by}))["usage"]
        if row["meter_id"] == group.meter_id and of_segment(row, segments)
    )
    complete_until = answer["complete_until"]
    return _AtCollector(
        group, segments, rows, dict(windows), datetime.fromisoformat(complete_until) if complete_until is not None else None
    )


async def explain(known: Known, collector: Collector) -> InvoiceExplained:
    """Explain all lines, down to days, and say what did not count."""
    tree = explanation.explain(known.invoice, known.groups, known.hours, known.catalogues)
    usage = []
    for group, found in zip(known.groups, tree.usage, strict=True):
        there = await _at_collector(known, group, group.start, group.end, "day", collector=collector)
        days = _days(found.days, there)
        apart = ", ".join(f"{day.start:%Y-%m-%d}" for day in days if day.difference not in {None, GONE})
        difference = found.difference or (f"the events, windows and totals of {apart} do not agree" if apart else None)
        told = found.model_dump(exclude={"days", "difference"})
        not_counted = _not_counted(row for rows in there.rows.values() for row in rows)
        usage.append(UsageExplained(**told, difference=difference, days=days, not_counted=not_counted))
    return InvoiceExplained(**{**tree.model_dump(exclude={"usage"}), "usage": usage})


def _days(days: Iterable[Stretch], there: _AtCollector) -> list[DayOfUsage]:
    known = {day.start: day for day in days}
    found = []
    for at in sorted({*known, *there.rows, *there.windows}):
        day = known.get(at) or Stretch(start=at, quantity=0, amount_minor=0)
        idle = sum(row["distinct"] for row in there.rows.get(at, ()) if not is_in_total(row))
        difference = there.difference(at, DAY, day.quantity)
        if at in known or idle or difference:
            found.append(DayOfUsage(**day.model_dump(), not_counted=idle, difference=difference))
    return found


def split_path(known: Known) -> str:
    return f"/v1/usage/{known.invoice.subscription_id}/split"


def range_of(since: datetime, until: datetime, *by: str) -> dict[str, Any]:
    return {"from": since.isoformat(), "to": until.isoformat(), "by": list(by)}


def _not_counted(rows: Iterable[Mapping[str, Any]]) -> list[NotCounted]:
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        if not is_in_total(row):
            key = row["outcome"], row["reason"]
            sums[key] = sums.get(key, 0) + row["distinct"]
    return [
        NotCounted(outcome=outcome, reason=reason, words=WORDS.get(reason, WAITS), events=events)
        for (outcome, reason), events in sorted(sums.items())
    ]


def is_in_total(row: Mapping[str, Any]) -> bool:
    """What came late counts too, but stands on another line."""
    return bool(row["outcome"] == "counted" and row["reason"] != "late_billed")


async def explain_day(known: Known, key: str, day: datetime, collector: Collector) -> Day:
    """Show the hours of a day with what each endpoint added. Raises UnknownUsageError."""
    group = known.group(key)
    start = day.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    own = explanation.hours_of_group(group, known.hours)
    before = sum(hour.quantity for hour in own if hour.event_time < start)
    hours = explanation.stretches((hour.hour, hour.quantity) for hour in own if start <= hour.event_time < start + DAY)
    since, until = max(start, group.start), min(start + DAY, group.end)
    if since >= until:
        raise UnknownUsageError(key)
    catalogue = known.catalogues.get(group.product_id)
    priced = explanation.priced_stretches(group, hours, catalogue, known.invoice.currency, before=before)
    there = await _at_collector(known, group, since, until, "hour", "endpoint", "status", collector=collector)
    known_hours = {hour.start: hour for hour in priced}
    shown = [
        known_hours.get(at) or Stretch(start=at, quantity=0, amount_minor=0) for at in sorted({*known_hours, *there.rows, *there.windows})
    ]
    return Day(
        key=key,
        day=start,
        quantity=sum(quantity for _, quantity in hours),
        hours=[_hour(hour, there) for hour in shown],
        complete_until=there.complete_until,
    )


def _hour(hour: Stretch, there: _AtCollector) -> Hour:
    endpoints = [Endpoint(**{name: row[name] for name in Endpoint.model_fields}) for row in there.counted(hour.start)]
    difference = there.difference(hour.start, HOUR, hour.quantity)
    not_counted = _not_counted(there.rows.get(hour.start, ()))
    return Hour(**hour.model_dump(), endpoints=endpoints, not_counted=not_counted, difference=difference)


def of_segment(row: Mapping[str, Any], segments: set[datetime]) -> bool:
    return row["segment_start"] is not None and datetime.fromisoformat(row["segment_start"]) in segments


async def events(known: Known, key: str, wanted: Mapping[str, Any], collector: Collector) -> dict[str, Any]:
    """Return a page of the events of one hour, each with what it counted for the usage's meter. Raises UnknownUsageError."""
    group = known.group(key)
    hour = datetime.fromisoformat(wanted["hour"])
    if not group.start - HOUR < hour < group.end:
        raise UnknownUsageError(key)
    return await collector.ask(f"/v1/usage/{known.invoice.subscription_id}/events", {**wanted, "counted_for": group.meter_id})
