"""API Management's reports, the only thing the collector asks it for. Microsoft retires them on 15 March 2027."""

from datetime import datetime, timedelta

from azure.mgmt.apimanagement.aio import ApiManagementClient

from usage_collector.settings import Settings

JUST_BEFORE = timedelta(milliseconds=1)  # both ends of the filter are inclusive


def report_filter(since: datetime, until: datetime) -> str:
    """Return the filter of the range from `since` (inclusive) to `until` (exclusive)."""
    return f"timestamp ge datetime'{_literal(since)}' and timestamp le datetime'{_literal(until - JUST_BEFORE)}'"


def _literal(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


async def successful_calls(client: ApiManagementClient, settings: Settings, since: datetime, until: datetime) -> dict[str, int]:
    """Return sid -> `callCountSuccess` in the range; subscriptions without calls are absent."""
    calls: dict[str, int] = {}
    rows = client.reports.list_by_subscription(settings.apim_resource_group, settings.apim_service_name, filter=report_filter(since, until))
    async for row in rows:
        sid = (row.subscription_id or "").rsplit("/", 1)[-1]
        if sid and row.call_count_success:
            calls[sid] = calls.get(sid, 0) + int(row.call_count_success)
    return calls
