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
    meters: Sequence[str] | None = None,
    now: datetime,
    by: str,
) -> None:
    await connection.execute(
        "insert into sender(id, name, key_sha256, source_prefix, subscriptions, meters, created_at, created_by) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8)",
        sender_id,
        name,
        key_sha256,
        source_prefix,
        list(subscriptions) if subscriptions is not None else None,
        list(meters) if meters is not None else None,
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


async def plans_of(connection: Reader, names: Sequence[str], now: datetime) -> dict[str, tuple[str, int] | None]:
    """Return the plan that each subscription (or sid of a key) has now, else the one that it will have; None where nothing is known."""
    rows = await connection.fetch(
        "select distinct on (asked.name) asked.name, s.product_id, s.catalogue_version from unnest($1::text[]) asked(name) "
        "left join subscription_key k on k.sid = asked.name "
        "left join segment s on s.subscription_id = coalesce(k.subscription_id, asked.name) "
        "order by asked.name, s.started_at <= $2 desc nulls last, abs(extract(epoch from s.started_at - $2))",
        list(names),
        now,
    )
    return {row["name"]: (row["product_id"], row["catalogue_version"]) if row["product_id"] is not None else None for row in rows}


async def ingest_products(connection: Reader) -> list[str]:
    """Return the products of the newest catalogue that are counted from what senders send."""
    rows = await connection.fetch(
        "select p ->> 'id' as id from (select document from catalogue_version order by version desc limit 1) c, "
        "jsonb_array_elements(c.document::jsonb -> 'products') p where p ->> 'source' = 'ingest' order by 1"
    )
    return [row["id"] for row in rows]
