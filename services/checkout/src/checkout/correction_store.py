"""What corrections cost, and usage that a final invoice does not bill: every query on them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from billing_common.db import Connection

Disposition = Literal["bill", "waive", "keep"]


@dataclass(frozen=True)
class Charge:
    """What one correction of a closed period costs, negative where it gives back. `intent_id` None: nothing is put on an invoice.

    Of kind `unbilled` the segment is the service period of the line on `of_invoice`, and the totals are of its meter alone.
    """

    correction_id: UUID
    intent_id: UUID | None
    subscription_id: str
    kind: str
    segment_start: datetime
    segment_end: datetime
    totals_before: dict[str, int]
    totals_after: dict[str, int]
    amount_minor: int
    currency: str
    description: str
    made_at: datetime
    disposition: Disposition = "bill"
    of_invoice: str | None = None


async def add(connection: Connection, charge: Charge) -> None:
    await connection.execute(
        "insert into correction_charge (correction_id, intent_id, subscription_id, kind, segment_start, segment_end, totals_before, "
        "totals_after, amount_minor, currency, description, made_at, disposition, of_invoice) "
        "values ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9, $10, $11, $12, $13, $14)",
        charge.correction_id,
        charge.intent_id,
        charge.subscription_id,
        charge.kind,
        charge.segment_start,
        charge.segment_end,
        json.dumps(charge.totals_before),
        json.dumps(charge.totals_after),
        charge.amount_minor,
        charge.currency,
        charge.description,
        charge.made_at,
        charge.disposition,
        charge.of_invoice,
    )


async def other_totals(
    connection: Connection, subscription_id: str, segment_start: datetime, *, since: datetime, until: datetime
) -> dict[str, int]:
    """Return meter -> total, with their corrections, of the other settled segments that begin in a stretch of time."""
    rows = await connection.fetch(
        "select t.meter, sum(t.quantity::bigint)::bigint as total from settled_segment s left join lateral (select totals_after "
        "from correction_charge c where c.subscription_id = s.subscription_id and c.segment_start = s.segment_start "
        "and c.kind <> 'unbilled' order by c.number desc limit 1) as c on true, "
        "jsonb_each_text(coalesce(c.totals_after, s.totals)) as t(meter, quantity) "
        "where s.subscription_id = $1 and s.segment_start <> $2 and s.segment_start >= $3 and s.segment_start < $4 group by 1",
        subscription_id,
        segment_start,
        since,
        until,
    )
    return {row["meter"]: row["total"] for row in rows}


async def set_place(pool: asyncpg.Pool, intent_id: str, placed: str, invoice_id: str | None) -> None:
    await pool.execute(
        "update correction_charge set placed = $2, invoice_id = $3 where intent_id = $1::text::uuid", intent_id, placed, invoice_id
    )


LISTED = (
    "select c.correction_id::text, c.subscription_id, c.kind, c.segment_start, c.segment_end, c.totals_before::text, c.totals_after::text, "
    "c.amount_minor, c.currency, c.description, c.made_at, c.placed, c.invoice_id, c.disposition, c.decided_by, c.of_invoice, "
    "coalesce(i.state, 'done') as state, i.error from correction_charge c left join intent i on i.intent_id = c.intent_id "
    "where ($1::text is null or c.subscription_id = $1)"
)


async def listed(pool: asyncpg.Pool, subscription_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return what is charged, newest first, with the state of the call that puts it on an invoice; `done` where none is needed."""
    rows = await pool.fetch(f"{LISTED} and c.disposition = 'bill' order by c.number desc limit $2", subscription_id, limit)
    return [_shown(row) for row in rows]


async def unbilled(pool: asyncpg.Pool, subscription_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return what final invoices did not bill, whatever became of it, newest first."""
    rows = await pool.fetch(f"{LISTED} and c.kind = 'unbilled' order by c.number desc limit $2", subscription_id, limit)
    return [_shown(row) for row in rows]


def _shown(row: Any) -> dict[str, Any]:
    return {**dict(row), "totals_before": json.loads(row["totals_before"]), "totals_after": json.loads(row["totals_after"])}


async def kept(pool: asyncpg.Pool) -> int:
    """Return how much waits for a person."""
    found: int = await pool.fetchval("select count(*) from correction_charge where kind = 'unbilled' and disposition = 'keep'")
    return found


async def account_of(connection: Connection, correction_id: UUID) -> str | None:
    """Return the account that pays for a charge."""
    found: str | None = await connection.fetchval(
        "select s.account_id from correction_charge c join subscription s using (subscription_id) where c.correction_id = $1", correction_id
    )
    return found


async def lock_kept(connection: Connection, correction_id: UUID) -> Charge | None:
    """Return what waits for a person, locked until the end of the transaction."""
    row = await connection.fetchrow(
        "select correction_id, intent_id, subscription_id, kind, segment_start, segment_end, totals_before::text, totals_after::text, "
        "amount_minor, currency, description, made_at, disposition, of_invoice from correction_charge "
        "where correction_id = $1 and kind = 'unbilled' and disposition = 'keep' for update",
        correction_id,
    )
    return Charge(**_shown(row)) if row else None


async def decide(connection: Connection, charge: Charge, by: str) -> None:
    """Write what a person decided of it: its disposition, its intent, and when that was."""
    await connection.execute(
        "update correction_charge set disposition = $2, intent_id = $3, made_at = $4, decided_by = $5 where correction_id = $1",
        charge.correction_id,
        charge.disposition,
        charge.intent_id,
        charge.made_at,
        by,
    )
