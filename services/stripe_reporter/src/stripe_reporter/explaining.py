"""Answers why an invoice says what it says: what the reporter keeps of lines and windows, and what the collector keeps of events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pydantic import BaseModel, Field

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.db import Connection
from billing_common.reasons import WAITS, WORDS
from stripe_reporter import explanation, invoice_store
from stripe_reporter.collector_gateway import Collector
from stripe_reporter.explanation import Explanation, Group, Stretch
from stripe_reporter.invoice_store import HourOfMeter, Invoice

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


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
        catalogues = await catalogues_of(connection, hours)
    return Known(invoice, explanation.groups_of(invoice, catalogues), hours, catalogues)


async def catalogues_of(connection: Connection, hours: Iterable[HourOfMeter]) -> dict[str, Catalogue]:
    """Return product id -> the catalogue it was counted under; a product that changed its version within an invoice has the newest."""
    versions = {hour.product_id: hour.catalogue_version for hour in sorted(hours, key=lambda hour: hour.catalogue_version)}
    return await _catalogues(connection, versions)


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


async def explain(known: Known, collector: Collector) -> InvoiceExplained:
    """Explain all lines, down to days, and say what did not count."""
    tree = explanation.explain(known.invoice, known.groups, known.hours, known.catalogues)
    usage = []
    for group, found in zip(known.groups, tree.usage, strict=True):
        rows = (await collector.ask(split_path(known), range_of(group.start, group.end, "day", "outcome")))["rows"]
        days = _days(found.days, rows)
        usage.append(UsageExplained(**found.model_dump(exclude={"days"}), days=days, not_counted=_not_counted(rows)))
    return InvoiceExplained(**{**tree.model_dump(exclude={"usage"}), "usage": usage})


def _days(days: Iterable[Stretch], rows: Iterable[Mapping[str, Any]]) -> list[DayOfUsage]:
    idle: dict[datetime, int] = {}
    for row in rows:
        if not _is_in_total(row):
            day = datetime.fromisoformat(row["day"])
            idle[day] = idle.get(day, 0) + row["distinct"]
    known = {day.start: day for day in days}
    shown = [known.get(at) or Stretch(start=at, quantity=0, amount_minor=0) for at in sorted({*known, *idle})]
    return [DayOfUsage(**day.model_dump(), not_counted=idle.get(day.start, 0)) for day in shown]


def split_path(known: Known) -> str:
    return f"/v1/usage/{known.invoice.subscription_id}/split"


def range_of(since: datetime, until: datetime, *by: str) -> dict[str, Any]:
    return {"from": since.isoformat(), "to": until.isoformat(), "by": list(by)}


def _not_counted(rows: Iterable[Mapping[str, Any]]) -> list[NotCounted]:
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        if not _is_in_total(row):
            key = row["outcome"], row["reason"]
            sums[key] = sums.get(key, 0) + row["distinct"]
    return [
        NotCounted(outcome=outcome, reason=reason, words=WORDS.get(reason, WAITS), events=events)
        for (outcome, reason), events in sorted(sums.items())
    ]


def _is_in_total(row: Mapping[str, Any]) -> bool:
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
    answer = await collector.ask(split_path(known), range_of(since, until, "hour", "endpoint", "status", "outcome", "segment"))
    by_hour: dict[datetime, list[Mapping[str, Any]]] = {}
    for row in answer["rows"]:
        by_hour.setdefault(datetime.fromisoformat(row["hour"]), []).append(row)
    known_hours = {hour.start: hour for hour in priced}
    shown = [known_hours.get(at) or Stretch(start=at, quantity=0, amount_minor=0) for at in sorted({*known_hours, *by_hour})]
    segments = {hour.segment_start for hour in own}
    return Day(
        key=key,
        day=start,
        quantity=sum(quantity for _, quantity in hours),
        hours=[_hour(hour, by_hour.get(hour.start, ()), group, segments) for hour in shown],
        complete_until=answer["complete_until"],
    )


def _hour(hour: Stretch, rows: Iterable[Mapping[str, Any]], group: Group, segments: set[datetime]) -> Hour:
    listed = list(rows)
    endpoints = [
        Endpoint(**{name: row[name] for name in Endpoint.model_fields})
        for row in listed
        if _is_in_total(row) and row["meter_id"] == group.meter_id and of_segment(row, segments)
    ]
    found = sum(endpoint.quantity for endpoint in endpoints)
    difference = None
    if found != hour.quantity:
        difference = f"{found:,} in events, {hour.quantity:,} in the total" if listed else "the events of this hour are no longer kept"
    return Hour(**hour.model_dump(), endpoints=endpoints, not_counted=_not_counted(listed), difference=difference)


def of_segment(row: Mapping[str, Any], segments: set[datetime]) -> bool:
    return row["segment_start"] is not None and datetime.fromisoformat(row["segment_start"]) in segments


async def events(known: Known, key: str, wanted: Mapping[str, Any], collector: Collector) -> dict[str, Any]:
    """Return a page of the events of one hour, as the collector has them. Raises UnknownUsageError."""
    group = known.group(key)
    hour = datetime.fromisoformat(wanted["hour"])
    if not group.start - HOUR < hour < group.end:
        raise UnknownUsageError(key)
    return await collector.ask(f"/v1/usage/{known.invoice.subscription_id}/events", wanted)
