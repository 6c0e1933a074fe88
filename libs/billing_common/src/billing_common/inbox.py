"""Who has handled which event: the claim that makes a repeated delivery harmless."""

from datetime import datetime

from billing_common.db import Connection
from billing_common.events import Event

CLAIM_DAYS = 40


async def claim(connection: Connection, event: Event, *, consumer: str) -> bool:
    """Return True for the first to claim this event in this consumer; False when it was handled before.

    Call it first in the handler's transaction: the claim is undone with everything else if the handler fails.
    """
    tag = await connection.execute(
        "insert into inbox(event_id, consumer) values ($1, $2) on conflict do nothing", event.event_id, f"{consumer}.{event.topic}"
    )
    return bool(tag.endswith(" 1"))


async def forget_old_claims(connection: Connection, now: datetime) -> int:
    """Delete claims older than 40 days; returns how many."""
    tag = await connection.execute("delete from inbox where claimed_at < $1::timestamptz - make_interval(days => $2)", now, CLAIM_DAYS)
    return int(tag.split()[-1])
