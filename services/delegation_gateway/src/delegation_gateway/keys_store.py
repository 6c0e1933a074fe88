"""Keys beside a subscription's first: what its owner has asked for. SQL and nothing else."""

from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from billing_common.events import KeyWish
from delegation_gateway.database import Database


@dataclass(frozen=True)
class Key:
    """One key. `is_there`: API Management has it, as the newest word on access says."""

    number: int
    sid: str
    name: str
    added_at: datetime
    revoked_at: datetime | None
    is_there: bool


async def lock(connection: Connection, subscription_id: str) -> None:
    """Let nobody else change the keys of this subscription until the transaction ends."""
    await connection.execute("insert into key_revisions(subscription_id, revision) values ($1, 0) on conflict do nothing", subscription_id)
    await connection.execute("select from key_revisions where subscription_id = $1 for update", subscription_id)


async def list_keys(connection: Database, subscription_id: str) -> list[Key]:
    """Return the keys that are not revoked, the oldest first."""
    rows = await connection.fetch(
        "select k.number, k.sid, k.name, k.added_at, k.revoked_at, coalesce(k.sid = any(a.sids), false) as is_there "
        "from subscription_keys k left join access a using (subscription_id) "
        "where k.subscription_id = $1 and k.revoked_at is null order by k.number",
        subscription_id,
    )
    return [Key(**dict(row)) for row in rows]


async def next_number(connection: Connection, subscription_id: str) -> int:
    """Return the number of the next key; numbers of revoked keys are not used again."""
    found: int = await connection.fetchval(
        "select coalesce(max(number), 1) + 1 from subscription_keys where subscription_id = $1", subscription_id
    )
    return found


async def form_was_sent(connection: Connection, subscription_id: str, form_id: str) -> bool:
    return bool(
        await connection.fetchval(
            "select exists(select from subscription_keys where subscription_id = $1 and form_id = $2)", subscription_id, form_id
        )
    )


async def add(connection: Connection, subscription_id: str, key: Key, *, form_id: str, by: str) -> None:
    await connection.execute(
        "insert into subscription_keys(sid, subscription_id, number, name, form_id, added_by, added_at) "
        "values ($1, $2, $3, $4, $5, $6, $7)",
        key.sid,
        subscription_id,
        key.number,
        key.name,
        form_id,
        by,
        key.added_at,
    )


async def revoke(connection: Connection, subscription_id: str, number: int, *, by: str, at: datetime) -> bool:
    """Revoke a key; False when there is none of that number, or it was revoked before."""
    tag = await connection.execute(
        "update subscription_keys set revoked_by = $3, revoked_at = $4 where subscription_id = $1 and number = $2 and revoked_at is null",
        subscription_id,
        number,
        by,
        at,
    )
    return bool(tag.endswith(" 1"))


async def next_state(connection: Connection, subscription_id: str) -> tuple[int, tuple[KeyWish, ...]]:
    """Return the next revision and all keys that were ever asked for: what is announced."""
    revision: int = await connection.fetchval(
        "update key_revisions set revision = revision + 1 where subscription_id = $1 returning revision", subscription_id
    )
    rows = await connection.fetch(
        "select sid, name, revoked_at is not null as revoked from subscription_keys where subscription_id = $1 order by number",
        subscription_id,
    )
    return revision, tuple(KeyWish(**dict(row)) for row in rows)
