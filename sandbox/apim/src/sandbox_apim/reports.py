"""Sums up the recorded calls: the gateway's own counts for doors, and the rows of Azure's reports."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sandbox_apim.limits import EPOCH, MICROSECOND, microseconds

# Azure's definition: see the table of callCount* counters in the README.
COUNTERS = """
 coalesce(sum(status <= 301 OR status IN (304, 307)), 0),
 coalesce(sum(status IN (401, 403, 429)), 0),
 coalesce(sum(status = 400 OR status >= 500), 0),
 count(number)
"""
FIGURES = COUNTERS + (
    ", coalesce(sum(request_bytes + response_bytes), 0), coalesce(avg(api_ms), 0.0), coalesce(min(api_ms), 0.0), coalesce(max(api_ms), 0.0)"
    ", coalesce(avg(backend_ms), 0.0), coalesce(min(backend_ms), 0.0), coalesce(max(backend_ms), 0.0)"
)
REQUEST_COLUMNS = (
    "api, operation, product, user_id, method, url, ip, backend_status, status, response_bytes,"
    " time_us, api_ms, backend_ms, sid, id, request_bytes"
)
COUNTED = "SELECT sid, status, count(*) FROM calls WHERE time_us >= ? AND time_us < ? GROUP BY sid, status"
COUNTED_ONE = "SELECT sid, status, count(*) FROM calls WHERE time_us >= ? AND time_us < ? AND sid = ? GROUP BY sid, status"
COLUMNS = {"userId": "user_id", "productId": "product", "subscriptionId": "sid", "apiId": "api", "operationId": "operation"}


@dataclass(frozen=True, slots=True)
class Window:
    """Both ends are inclusive, as in Azure; `equal` maps report fields to bare ids."""

    start: datetime
    end: datetime
    equal: dict[str, str]

    def where(self) -> tuple[str, list[object]]:
        terms = ["time_us >= ?", "time_us <= ?"]
        values: list[object] = [microseconds(self.start), microseconds(self.end)]
        for field, value in self.equal.items():
            terms.append(f"{COLUMNS[field]} = ? COLLATE NOCASE")
            values.append(value)
        return " AND ".join(terms), values


class Reports:
    """Reads the calls table; nothing is kept in memory."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def counted(self, sid: str | None, start: datetime, end: datetime) -> dict[str, Any]:
        """Return totals by status of [start, end), for one sid or for all."""
        values: list[object] = [microseconds(start), microseconds(end), *([sid] if sid is not None else [])]
        by_sid: dict[str, dict[str, int]] = {}
        for row_sid, status, count in self._database.execute(COUNTED if sid is None else COUNTED_ONE, values):
            by_sid.setdefault(row_sid, {})[str(status)] = count
        total: dict[str, int] = {}
        for statuses in by_sid.values():
            for status, count in statuses.items():
                total[status] = total.get(status, 0) + count
        answer = {"from": start.isoformat(), "to": end.isoformat(), **_summed(total)}
        if sid is not None:
            return {"sid": sid, **answer}
        return {**answer, "by_sid": {name: _summed(statuses) for name, statuses in by_sid.items()}}

    def grouped(self, window: Window, fields: Iterable[str]) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return the figures per combination of ids."""
        columns = [COLUMNS[field] for field in fields]
        where, values = window.where()
        sql = f"SELECT {', '.join(columns)}, {FIGURES} FROM calls WHERE {where} GROUP BY {', '.join(columns)}"  # noqa: S608 - column names are our own
        return {tuple(row[: len(columns)]): _figures(row[len(columns) :]) for row in self._database.execute(sql, values)}

    def by_time(self, window: Window, interval: timedelta) -> list[tuple[datetime, dict[str, Any]]]:
        """Return the figures per interval that had calls; intervals count from 1970-01-01T00:00:00Z."""
        where, values = window.where()
        length = interval // MICROSECOND
        sql = f"SELECT time_us / ? AS bucket, {FIGURES} FROM calls WHERE {where} GROUP BY bucket ORDER BY bucket"  # noqa: S608 - as above
        rows = self._database.execute(sql, [length, *values])
        return [(EPOCH + row[0] * interval, _figures(row[1:])) for row in rows]

    def requests(self, window: Window, top: int, skip: int) -> tuple[list[dict[str, Any]], int]:
        where, values = window.where()
        count = self._database.execute(f"SELECT count(*) FROM calls WHERE {where}", values).fetchone()[0]  # noqa: S608 - as above
        sql = f"SELECT {REQUEST_COLUMNS} FROM calls WHERE {where} ORDER BY number LIMIT ? OFFSET ?"  # noqa: S608 - as above
        return [_request(row) for row in self._database.execute(sql, [*values, top, skip])], int(count)


def no_calls() -> dict[str, Any]:
    return _figures((0,) * 11)


def _figures(row: tuple[Any, ...]) -> dict[str, Any]:
    success, blocked, failed, total = (int(value) for value in row[:4])
    return {
        "callCountSuccess": success,
        "callCountBlocked": blocked,
        "callCountFailed": failed,
        "callCountOther": total - success - blocked - failed,
        "callCountTotal": total,
        "bandwidth": int(row[4]),
        "cacheHitCount": 0,
        "cacheMissCount": 0,
        "apiTimeAvg": float(row[5]),
        "apiTimeMin": float(row[6]),
        "apiTimeMax": float(row[7]),
        "serviceTimeAvg": float(row[8]),
        "serviceTimeMin": float(row[9]),
        "serviceTimeMax": float(row[10]),
    }


def _request(row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "apiId": f"/apis/{row[0] or '-'}",
        "operationId": f"/apis/{row[0] or '-'}/operations/{row[1] or '-'}",
        "productId": f"/products/{row[2] or '-'}",
        "userId": f"/users/{row[3] or '-'}",
        "method": row[4],
        "url": row[5],
        "ipAddress": row[6],
        "backendResponseCode": str(row[7]) if row[7] else "",
        "responseCode": row[8],
        "responseSize": row[9],
        "timestamp": (EPOCH + row[10] * MICROSECOND).isoformat().replace("+00:00", "Z"),
        "cache": "none",
        "apiTime": row[11],
        "serviceTime": row[12],
        "apiRegion": "Sandbox",
        "subscriptionId": f"/subscriptions/{row[13] or '-'}",
        "requestId": row[14],
        "requestSize": row[15],
    }


def _summed(statuses: dict[str, int]) -> dict[str, Any]:
    by_class: dict[str, int] = {}
    for status, count in statuses.items():
        by_class[f"{status[0]}xx"] = by_class.get(f"{status[0]}xx", 0) + count
    return {"total": sum(statuses.values()), "by_class": by_class, "by_status": statuses}
