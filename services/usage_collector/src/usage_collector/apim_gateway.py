"""API Management's reports: a source of usage, and the second opinion. Microsoft retires them on 15 March 2027."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from azure.mgmt.apimanagement.aio import ApiManagementClient

from usage_collector.settings import Settings

DAY = timedelta(days=1)
JUST_BEFORE = timedelta(milliseconds=1)  # both ends of the filter are inclusive
RETRIES, PAUSE_MAX_SECONDS = 2, 5  # of the SDK in one question; the poll asks again for as long as it takes


def report_filter(since: datetime, until: datetime, sid: str | None = None) -> str:
    """Return the filter of the range from `since` (inclusive) to `until` (exclusive), of one sid or of all."""
    text = f"timestamp ge datetime'{_literal(since)}' and timestamp le datetime'{_literal(until - JUST_BEFORE)}'"
    if sid is None:
        return text
    quoted = sid.replace("'", "''")
    return f"{text} and subscriptionId eq '{quoted}'"


def _literal(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


async def successful_calls(
    client: ApiManagementClient, settings: Settings, since: datetime, until: datetime, sid: str | None = None
) -> dict[str, int]:
    """Return sid -> `callCountSuccess` in the range; subscriptions without calls are absent. An outage raises: it is not "no calls"."""
    calls: dict[str, int] = {}
    rows = client.reports.list_by_subscription(
        settings.apim_resource_group,
        settings.apim_service_name,
        filter=report_filter(since, until, sid),
        retry_total=RETRIES,
        retry_backoff_max=PAUSE_MAX_SECONDS,
    )
    async for row in rows:
        name = (row.subscription_id or "").rsplit("/", 1)[-1]
        if name and row.call_count_success:
            calls[name] = calls.get(name, 0) + int(row.call_count_success)
    return calls


@dataclass(frozen=True, slots=True)
class CallCount:
    """Calls with a subscription's key on one UTC day, as the gateway itself counted them."""

    total: int
    success: int


async def calls_by_day(
    client: ApiManagementClient, settings: Settings, since: datetime, until: datetime, sid: str | None = None
) -> dict[tuple[str, date], CallCount]:
    """Return (sid, day) -> calls in the range. One sid: one question for all days; all sids: one for each day."""
    if sid is not None:
        rows = client.reports.list_by_time(
            settings.apim_resource_group,
            settings.apim_service_name,
            filter=report_filter(since, until, sid),
            interval=DAY,
            retry_total=RETRIES,
            retry_backoff_max=PAUSE_MAX_SECONDS,
        )
        return {(sid, row.timestamp.astimezone(UTC).date()): _count(row) async for row in rows if row.timestamp is not None}
    found: dict[tuple[str, date], CallCount] = {}
    day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day < until:
        answer = client.reports.list_by_subscription(
            settings.apim_resource_group,
            settings.apim_service_name,
            filter=report_filter(max(day, since), min(day + DAY, until)),
            retry_total=RETRIES,
            retry_backoff_max=PAUSE_MAX_SECONDS,
        )
        async for row in answer:
            if (name := (row.subscription_id or "").rsplit("/", 1)[-1]) and row.call_count_total:
                found[name, day.date()] = _count(row)
        day += DAY
    return found


def _count(row: Any) -> CallCount:
    """`callCountTotal` is not always there: then it is the sum of the four."""
    parts = (row.call_count_success, row.call_count_blocked, row.call_count_failed, row.call_count_other)
    total = row.call_count_total if row.call_count_total is not None else sum(int(part or 0) for part in parts)
    return CallCount(int(total), int(row.call_count_success or 0))
