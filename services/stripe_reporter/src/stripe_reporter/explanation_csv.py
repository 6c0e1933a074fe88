"""An explanation as CSV, streamed day by day: by hour and endpoint, or event by event."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from stripe_reporter import explanation
from stripe_reporter.collector_gateway import Collector
from stripe_reporter.explaining import DAY, Known, of_segment, range_of, split_path
from stripe_reporter.explanation import Group

EVENTS_AT_ONCE = 1000
CSV_COLUMNS = (
    "invoice", "meter", "day", "hour", "origin", "method", "template", "status", "outcome", "reason", "events", "quantity",
    "event_time", "event_source", "event_id",
)  # fmt: skip


async def as_csv(known: Known, collector: Collector, *, with_events: bool) -> AsyncIterator[str]:
    """Yield the whole explanation as CSV, day by day: by hour and endpoint, or event by event."""
    yield _csv([CSV_COLUMNS])
    told: set[tuple[str, datetime]] = set()  # what did not count stands once, not once for each meter
    for group in known.groups:
        first_of_time = (group.product_id, group.start) not in told
        told.add((group.product_id, group.start))
        segments = {hour.segment_start for hour in explanation.hours_of_group(group, known.hours)}
        day = group.start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        while day < group.end:
            span = range_of(max(day, group.start), min(day + DAY, group.end), "hour", "endpoint", "status", "outcome", "segment")
            rows = [row for row in (await collector.ask(split_path(known), span))["rows"] if _belongs(row, group, segments, first_of_time)]
            if with_events:
                for row in rows:
                    async for page in _event_rows(known, group, row, collector):
                        yield page
            else:
                yield _csv([_cells(known, group, row) for row in rows])
            day += DAY


def _belongs(row: Mapping[str, Any], group: Group, segments: set[datetime], with_rest: bool) -> bool:
    if row["outcome"] == "counted":
        return row["meter_id"] == group.meter_id and of_segment(row, segments)
    return with_rest


def _cells(known: Known, group: Group, row: Mapping[str, Any]) -> list[Any]:
    hour = datetime.fromisoformat(row["hour"])
    return [
        known.invoice.number or known.invoice.invoice_id, group.meter_id if row["outcome"] == "counted" else "", f"{hour:%Y-%m-%d}",
        hour.isoformat(), row["origin"], row["method"], row["template"], row["status"] or "", row["outcome"], row["reason"],
        row["events"], row["quantity"], "", "", "",
    ]  # fmt: skip


async def _event_rows(known: Known, group: Group, row: Mapping[str, Any], collector: Collector) -> AsyncIterator[str]:
    wanted = {name: row[name] for name in ("hour", "meter_id", "outcome", "origin", "method", "template", "status")}
    after = None
    while True:
        page = await collector.ask(f"/v1/usage/{known.invoice.subscription_id}/events", {**wanted, "limit": EVENTS_AT_ONCE, "after": after})
        head = _cells(known, group, row)[:10]
        yield _csv(
            [
                *head[:9],
                event["reason"] or "",
                1,
                event["counted"],
                event["at"],
                event["source"],
                event["id"],
            ]
            for event in page["events"]
            if (event["reason"] or "") == row["reason"]
        )
        after = page["next"]
        if after is None:
            return


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> Any:
    """A sender's text that a spreadsheet would take for a formula is kept as text."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell
