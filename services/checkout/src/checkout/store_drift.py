"""The last look for drift: every query on catalogue_drift."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from billing_common.db import Connection

RETRY = timedelta(minutes=5)  # when the look before did not come to an end


@dataclass(frozen=True)
class Look:
    """When somebody last looked, at which version, and what was found."""

    checked_at: datetime
    version: int
    findings: list[dict[str, Any]]


async def note(connection: Connection | asyncpg.Pool, version: int, findings: Sequence[dict[str, Any]]) -> None:
    await connection.execute(
        "insert into catalogue_drift(version, findings) values ($1, $2) on conflict (only_row)"
        " do update set checked_at = now(), version = excluded.version, findings = excluded.findings",
        version,
        json.dumps(list(findings)),
    )


async def last(connection: Connection | asyncpg.Pool) -> Look | None:
    row = await connection.fetchrow("select checked_at, version, findings from catalogue_drift")
    return Look(row["checked_at"], row["version"], json.loads(row["findings"])) if row else None


async def claim(connection: Connection | asyncpg.Pool, interval: timedelta) -> bool:
    """Tell whether it is time to look again, to one replica only."""
    tag = await connection.execute(
        "update catalogue_drift set claimed_at = now() where checked_at <= now() - $1::interval and claimed_at <= now() - $2::interval",
        interval,
        min(interval, RETRY),
    )
    return bool(tag.endswith(" 1"))
