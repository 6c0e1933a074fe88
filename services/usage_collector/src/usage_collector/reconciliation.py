"""Received = counted + filtered + rejected + held, and what was counted = what stands in the windows and what was billed late."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from usage_collector import late_store, window_store

OUTCOMES = ("counted", "filtered", "rejected", "held")


async def reconcile(connection: Connection, subscription_id: str, sids: Sequence[str], since: datetime, until: datetime) -> dict[str, Any]:
    """Compare the events of a range with its windows. Events are numbers of distinct events; quantities are in each meter's unit."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        bins = await window_store.event_bins(connection, sids, since, until)
        counted = await window_store.counted_quantities(connection, sids, since, until)
        windows = await window_store.window_quantities(connection, subscription_id, since, until)
        late = await late_store.quantities(connection, subscription_id, since, until)
        duplicates = await window_store.duplicates(connection, sids, since, until)
    events: dict[str, Any] = dict.fromkeys(OUTCOMES, 0)
    reasons: dict[str, dict[str, int]] = {outcome: {} for outcome in OUTCOMES[1:]}
    sources: dict[str, int] = {}
    for row in bins:
        events[row["outcome"]] += row["events"]
        sources[row["origin"]] = sources.get(row["origin"], 0) + row["events"]
        if row["outcome"] != "counted":
            by_reason = reasons[row["outcome"]]
            by_reason[row["reason"]] = by_reason.get(row["reason"], 0) + row["events"]
    meters = {
        meter_id: {
            "counted": counted.get(meter_id, 0),
            "windows": windows.get(meter_id, 0),
            "late_billed": late["billed"].get(meter_id, 0),
            "late_waived": late["waived"].get(meter_id, 0),
        }
        for meter_id in sorted({*counted, *windows, *late["billed"], *late["waived"]})
    }
    return {
        "subscription_id": subscription_id,
        "from": since.isoformat(),
        "to": until.isoformat(),
        "events": {"received": sum(events.values()), **events, "duplicates": duplicates},
        "reasons": reasons,
        "sources": sources,
        "meters": meters,
        "balanced": all(meter["counted"] == meter["windows"] + meter["late_billed"] for meter in meters.values()),
    }
