"""Reports and quota counters: what is read from the gateway's own counts."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox_apim.arm.errors import not_found, validation
from sandbox_apim.arm.filters import Term, moment, parse_filter
from sandbox_apim.arm.kinds import Answer, Asked, Service, timestamp
from sandbox_apim.limits import EPOCH, NEVER, Period
from sandbox_apim.reports import Window, no_calls

ALL_FIELDS = frozenset({"userId", "productId", "subscriptionId", "apiId", "operationId", "apiRegion"})
WITHOUT_API = ALL_FIELDS - {"apiId", "operationId"}
REPORTS: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "byapi": (ALL_FIELDS, ("apiId",)),
    "byuser": (ALL_FIELDS, ("userId",)),
    "byoperation": (ALL_FIELDS, ("apiId", "operationId")),
    "byproduct": (WITHOUT_API, ("productId",)),
    "bysubscription": (WITHOUT_API, ("subscriptionId", "userId", "productId")),
    "bytime": (ALL_FIELDS, ()),
    "byrequest": (ALL_FIELDS, ()),
}
PATHS = {"userId": "/users/", "productId": "/products/", "subscriptionId": "/subscriptions/", "apiId": "/apis/"}
INTERVAL = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.0+)?S)?)?")
QUARTER = timedelta(minutes=15)


def report_rows(service: Service, asked: Asked, name: str) -> list[dict[str, Any]]:
    """Return all rows of a report except byRequest; the caller pages them."""
    window = window_of(service, asked, name)
    if name == "bytime":
        interval = _interval(asked.query.get("interval"))
        found = service.reports.by_time(window, interval)
        rows = [{"timestamp": timestamp(start), "interval": asked.query["interval"], **figures} for start, figures in found]
    elif name == "bysubscription":
        rows = _by_subscription(service, window)
    else:
        groups = REPORTS[name][1]
        rows = [_row(groups, ids, figures) for ids, figures in service.reports.grouped(window, groups).items()]
    return _ordered(rows, asked.query.get("$orderby"))


def by_request(service: Service, asked: Asked, top: int, skip: int) -> Answer:
    rows, count = service.reports.requests(window_of(service, asked, "byrequest"), top, skip)
    return Answer(200, {"value": rows, "count": count})


def _row(groups: tuple[str, ...], ids: tuple[str, ...], figures: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": ""}
    for field, value in zip(groups, ids, strict=True):
        row[field] = f"/apis/{ids[0] or '-'}/operations/{value or '-'}" if field == "operationId" else f"{PATHS[field]}{value or '-'}"
    return {**row, **figures}


def _by_subscription(service: Service, window: Window) -> list[dict[str, Any]]:
    """One row per subscription, also for those without traffic; calls without a key are nobody's."""
    groups = REPORTS["bysubscription"][1]
    rows = [_row(groups, ids, figures) for ids, figures in service.reports.grouped(window, groups).items() if ids[0]]
    seen = {row["subscriptionId"].lower() for row in rows}
    for entity in service.store.children("subscriptions"):
        owner = str(entity.properties.get("ownerId", "")).rpartition("/")[2]
        product = str(entity.properties["scope"]).partition("products/")[2]
        ids = {"subscriptionId": entity.name, "userId": owner, "productId": product}
        wanted = all(ids.get(field, "").lower() == value.lower() for field, value in window.equal.items())
        if wanted and f"/subscriptions/{entity.name}".lower() not in seen:
            rows.append(_row(groups, (entity.name, owner, product), no_calls()))
    return rows


def window_of(service: Service, asked: Asked, name: str) -> Window:
    """Read the report's filter; what happened within the lag is not seen yet."""
    allowed = REPORTS[name][0]
    start: datetime | None = None
    now = service.clock.now()
    end = now
    equal: dict[str, str] = {}
    for term in parse_filter(asked.query.get("$filter")):
        if term.field.lower() == "timestamp":
            start, end = _bounds(term, start, end)
            continue
        field = next((field for field in allowed if field.lower() == term.field.lower()), None)
        if field is None or term.operator != "eq":
            raise validation("$filter", f"'{term.field} {term.operator}' is not allowed in this report.")
        if field != "apiRegion":
            equal[field] = term.value.rstrip("/").rsplit("/", 1)[-1]
    if start is None:
        raise validation("$filter", "$filter needs timestamp ge.")
    return Window(start, min(end, now - timedelta(seconds=service.report_lag_seconds)), equal)


def _bounds(term: Term, start: datetime | None, end: datetime) -> tuple[datetime | None, datetime]:
    if term.operator == "ge":
        return moment(term.value), end
    if term.operator == "le":
        return start, moment(term.value)
    raise validation("$filter", "timestamp takes only 'ge' and 'le'.")


def _interval(text: str | None) -> timedelta:
    match = INTERVAL.fullmatch(text or "")
    if match is None:
        raise validation("interval", "interval is required, in ISO 8601, e.g. PT15M.")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if days > 366 or hours > 9000 or minutes > 600_000 or seconds > 40_000_000:
        raise validation("interval", "interval is at most a year.")
    found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not found or found % QUARTER:
        raise validation("interval", "interval is a multiple of 15 minutes and not zero.")
    return found


def _ordered(rows: list[dict[str, Any]], order: str | None) -> list[dict[str, Any]]:
    if not order:
        return rows
    field, _, direction = order.strip().partition(" ")
    if direction.strip().lower() not in {"", "asc", "desc"} or not (
        field.startswith("callCount") or field in {"bandwidth", "apiTimeAvg", "displayName"}
    ):
        raise validation("$orderby", f"'{order}' is not allowed.")
    return sorted(rows, key=lambda row: row.get(field) or 0, reverse=direction.strip().lower() == "desc")


def quota_counters(service: Service, asked: Asked) -> Answer:
    """`quotas/{counterKey}` and `quotas/{counterKey}/periods/{periodKey}`; the key is the evaluated counter-key."""
    key = asked.path[1]
    counter = f"quota-by-key|{key}"
    period = service.limits.known_period(counter)
    if period is None:
        raise not_found("Quota counter")
    if len(asked.path) == 4 and asked.path[3] != period_key(period):
        raise not_found("Quota period")
    if asked.method == "PATCH":
        given = asked.body.get("properties") if isinstance(asked.body, dict) else None
        if not isinstance(given, dict) or not _whole(given.get("callsCount", 0)) or not _whole(given.get("kbTransferred", 0)):
            raise validation("properties", "callsCount and kbTransferred are numbers of at least 0.")
        service.limits.set_period(
            counter, period, int(given.get("callsCount", period.calls)), float(given.get("kbTransferred", period.kilobytes))
        )
    shown = {
        "counterKey": key,
        "periodKey": period_key(period),
        "periodStartTime": timestamp(max(period.start, datetime(1, 1, 1, tzinfo=UTC))),
        "periodEndTime": timestamp(period.end),
        "value": {"callsCount": period.calls, "kbTransferred": period.kilobytes},
    }
    return Answer(200, {"value": [shown], "count": 1, "nextLink": ""}) if len(asked.path) == 2 else Answer(200, shown)


def _whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def period_key(period: Period) -> str:
    """Name a period by its start and end, e.g. `20260101000000_20260201000000`."""
    end = "never" if period.end == NEVER else f"{period.end:%Y%m%d%H%M%S}"
    return f"{max(period.start, EPOCH):%Y%m%d%H%M%S}_{end}"
