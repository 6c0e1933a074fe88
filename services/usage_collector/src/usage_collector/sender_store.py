"""Senders: who may write to the public door, for which source and which subscriptions. Keys are kept as hashes only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from usage_collector.store import Reader


async def add_sender(
    connection: Reader,
    sender_id: str,
    *,
    name: str,
    key_sha256: bytes,
    source_prefix: str,
    subscriptions: Sequence[str] | None,
    now: datetime,
    by: str,
) -> None:
    await connection.execute(
        "insert into sender(id, name, key_sha256, source_prefix, subscriptions, created_at, created_by) "
        "values ($1, $2, $3, $4, $5, $6, $7)",
        sender_id,
        name,
        key_sha256,
        source_prefix,
        list(subscriptions) if subscriptions is not None else None,
        now,
        by,
    )


async def senders(connection: Reader) -> list[Any]:
    """Return all senders whose key is valid."""
    rows: list[Any] = await connection.fetch("select * from sender where revoked_at is null order by created_at, id")
    return rows


async def revoke_sender(connection: Reader, sender_id: str, *, now: datetime) -> bool:
    tag = await connection.execute("update sender set revoked_at = $2 where id = $1 and revoked_at is null", sender_id, now)
    return bool(tag.endswith(" 1"))
