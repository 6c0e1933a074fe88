"""Drafts at a period's end: every query on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from billing_common.db import Connection
from billing_common.events import InvoiceState

AT_ONCE = 200
# All usage of the period is at Stripe: its last segment is settled, and no change of plan in it still waits for the usage before it.
COMPLETE = (
    "exists (select 1 from settled_segment g where g.subscription_id = d.subscription_id and g.segment_end >= d.period_end) and not exists "
    "(select 1 from plan_change c where c.subscription_id = d.subscription_id and c.state = 'made' and c.effective_at < d.period_end)"
)


@dataclass(frozen=True)
class Draft:
    """One draft that Stripe is to be asked about."""

    invoice_id: str
    account_id: str


async def add(connection: Connection, invoice: InvoiceState, finalizes_at: datetime) -> None:
    """Watch a draft; one that is known, or final already, stays as it is."""
    await _put(connection, invoice, finalizes_at, "on conflict (invoice_id) do nothing", "open")


async def end(connection: Connection, invoice: InvoiceState) -> None:
    """Nothing can be held any more, whichever of its events came first."""
    await _put(connection, invoice, invoice.occurred_at, "on conflict (invoice_id) do update set state = 'final'", "final")


async def _put(connection: Connection, invoice: InvoiceState, finalizes_at: datetime, known: str, state: str) -> None:
    await connection.execute(
        "insert into draft (invoice_id, subscription_id, account_id, period_start, period_end, finalizes_at, state) "  # noqa: S608 - constants
        f"values ($1, $2, $3, $4, $5, $6, $7) {known}",
        invoice.invoice_id,
        invoice.subscription_id,
        invoice.account_id,
        invoice.period_start,
        invoice.period_end,
        finalizes_at,
        state,
    )


async def to_hold(connection: Connection, before: datetime) -> list[Draft]:
    """Take drafts that become final before an instant and whose usage is not complete, locked against other replicas."""
    rows = await connection.fetch(
        "select invoice_id, account_id from draft d where state = 'open' and finalizes_at <= $1 "  # noqa: S608 - a constant
        f"and not ({COMPLETE}) order by finalizes_at limit $2 for update skip locked",
        before,
        AT_ONCE,
    )
    return [Draft(**dict(row)) for row in rows]


async def to_release(connection: Connection) -> list[Draft]:
    """Take held drafts whose usage is complete by now, locked against other replicas."""
    rows = await connection.fetch(
        f"select invoice_id, account_id from draft d where state = 'held' and {COMPLETE} "  # noqa: S608 - a constant
        "order by finalizes_at limit $1 for update skip locked",
        AT_ONCE,
    )
    return [Draft(**dict(row)) for row in rows]


async def move(connection: Connection, drafts: Sequence[str], state: str, *, held_at: datetime | None = None) -> None:
    """Write how far these are; what is final stays so."""
    await connection.execute(
        "update draft set state = $2, held_at = coalesce($3, held_at) where invoice_id = any($1::text[]) and state <> 'final'",
        drafts,
        state,
        held_at,
    )


async def due(pool: asyncpg.Pool, before: datetime) -> int:
    """Return how many are to be held or released now."""
    found: int = await pool.fetchval(
        "select (select count(*) from draft d "  # noqa: S608 - a constant
        f"where state = 'open' and finalizes_at <= $1 and not ({COMPLETE})) "
        f"+ (select count(*) from draft d where state = 'held' and {COMPLETE})",
        before,
    )
    return found


async def next_final(pool: asyncpg.Pool, after: datetime) -> datetime | None:
    """Return when the next draft with incomplete usage becomes final."""
    found: datetime | None = await pool.fetchval(
        f"select min(finalizes_at) from draft d where state = 'open' and finalizes_at > $1 and not ({COMPLETE})",  # noqa: S608 - a constant
        after,
    )
    return found


async def held(pool: asyncpg.Pool, since: datetime) -> tuple[int, int]:
    """Return how many drafts are held, and how many of them since before an instant."""
    row = await pool.fetchrow(
        "select count(*) as held, count(*) filter (where held_at <= $1) as long from draft where state in ('held', 'releasing')", since
    )
    assert row is not None  # an aggregate always has a row
    return row["held"], row["long"]
