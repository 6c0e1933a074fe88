"""API Management's reports, the only thing the collector asks it for. Microsoft retires them on 15 March 2027."""

from datetime import datetime, timedelta

from azure.mgmt.apimanagement.aio import ApiManagementClient

from usage_collector.settings import Settings

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
