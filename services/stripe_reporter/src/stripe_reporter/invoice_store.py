"""Invoices, prices and catalogues as other services tell of them: every query on them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing_common.db import Connection
from billing_common.events import CatalogueApplied, InvoiceState, SubscriptionState


@dataclass(frozen=True)
class Line:
    """One line; `component` and `product_id` are null where Turnpike knows nothing of it."""

    line_id: str
    description: str
    amount_minor: int
    quantity: Decimal | None
    period_start: datetime
    period_end: datetime
    proration: bool
    component: str | None
    product_id: str | None
    correction_id: UUID | None
    catalogue_version: int | None = None  # one that sells at the line's price


@dataclass(frozen=True)
class Invoice:
    """The newest state of an invoice."""

    invoice_id: str
    subscription_id: str
    account_id: str
    number: str | None
    status: str
    billing_reason: str
    currency: str
    total_minor: int
    period_start: datetime
    period_end: datetime
    created_at: datetime
    final_at: datetime | None
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class HourOfMeter:
    """What the windows of one hour and segment hold of one meter."""

    meter_id: str
    product_id: str
    catalogue_version: int
    segment_start: datetime
    hour: datetime
    event_time: datetime
    quantity: int


async def put_facts(connection: Connection, state: SubscriptionState) -> None:
    """Keep what rating needs beside what reporting needs; the newest revision wins, as in `store.put_subscription`, called before."""
    await connection.execute(
        "update subscription set started_at = $2, currency = $3, catalogue_version = $4 where subscription_id = $1 and revision <= $5",
        state.subscription_id,
        state.started_at,
        state.currency,
        state.catalogue_version,
        state.revision,
    )


async def put_catalogue(connection: Connection, event: CatalogueApplied, prices: Iterable[tuple[str, str, str]]) -> None:
    """Keep a version's document and which price is what: (price id, product, component)."""
    await connection.execute("update catalogue set document = $2::jsonb where version = $1", event.version, json.dumps(event.document))
    await connection.executemany(
        "insert into stripe_price (price_id, product_id, component, catalogue_version) values ($1, $2, $3, $4) "
        "on conflict (price_id) do update set catalogue_version = excluded.catalogue_version where stripe_price.catalogue_version is null",
        [(*price, event.version) for price in prices],
    )


async def documents(connection: Connection, versions: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return the catalogue documents that are known."""
    rows = await connection.fetch(
        "select version, document::text from catalogue where version = any($1::integer[]) and document is not null", sorted(set(versions))
    )
    return {row["version"]: json.loads(row["document"]) for row in rows}


async def put_invoice(connection: Connection, event: InvoiceState) -> None:
    """Keep the newest revision with its lines. One that has become final is due for a look at what it bills."""
    newer = await connection.fetchval(
        "insert into invoice (invoice_id, subscription_id, account_id, revision, number, status, billing_reason, currency, total_minor, "
        "period_start, period_end, created_at, final_at, look_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, "
        "case when $13::timestamptz is not null then now() end) "
        "on conflict (invoice_id) do update set revision = excluded.revision, number = excluded.number, status = excluded.status, "
        "total_minor = excluded.total_minor, period_start = excluded.period_start, period_end = excluded.period_end, "
        "look_at = case when invoice.final_at is null then excluded.look_at else invoice.look_at end, "
        "final_at = coalesce(invoice.final_at, excluded.final_at) where invoice.revision < excluded.revision returning true",
        event.invoice_id,
        event.subscription_id,
        event.account_id,
        event.revision,
        event.number,
        event.status,
        event.billing_reason,
        event.currency,
        event.total_minor,
        event.period_start,
        event.period_end,
        event.created_at,
        None if event.status == "draft" else event.occurred_at,
    )
    if newer is None:
        return
    await connection.execute("delete from invoice_line where invoice_id = $1", event.invoice_id)
    await connection.executemany(
        "insert into invoice_line (invoice_id, place, line_id, description, amount_minor, quantity, unit_amount_decimal, price_id, "
        "period_start, period_end, proration, component, correction_id) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        [
            (
                event.invoice_id, place, line.line_id, line.description, line.amount_minor, line.quantity, line.unit_amount_decimal,
                line.price_id, line.period_start, line.period_end, line.proration, line.component, line.correction_id,
            )
            for place, line in enumerate(event.lines)
        ],
    )  # fmt: skip


INVOICE = (
    "select invoice_id, subscription_id, account_id, number, status, billing_reason, currency, total_minor, period_start, period_end, "
    "created_at, final_at from invoice"
)


async def find_invoice(connection: Connection, name: str) -> Invoice | None:
    """Return an invoice by Stripe's id or by its number."""
    row = await connection.fetchrow(f"{INVOICE} where invoice_id = $1 or number = $1 limit 1", name)
    return Invoice(**dict(row), lines=await _lines(connection, row["invoice_id"])) if row else None


async def invoices_of(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[Invoice]:
    """Return the invoices with a line whose service period touches a range, oldest first."""
    rows = await connection.fetch(
        f"{INVOICE} i where subscription_id = $1 and exists (select from invoice_line l where l.invoice_id = i.invoice_id "
        "and l.period_start < $3 and l.period_end > $2) order by created_at, invoice_id",
        subscription_id,
        since,
        until,
    )
    return [Invoice(**dict(row), lines=await _lines(connection, row["invoice_id"])) for row in rows]


async def _lines(connection: Connection, invoice_id: str) -> tuple[Line, ...]:
    rows = await connection.fetch(
        "select l.line_id, l.description, l.amount_minor, l.quantity, l.period_start, l.period_end, l.proration, "
        "coalesce(l.component, p.component) as component, p.product_id, l.correction_id, p.catalogue_version from invoice_line l "
        "left join stripe_price p on p.price_id = l.price_id where l.invoice_id = $1 order by l.place",
        invoice_id,
    )
    return tuple(Line(**dict(row)) for row in rows)


async def hours_of(connection: Connection, subscription_id: str, since: datetime, until: datetime) -> list[HourOfMeter]:
    """Return the windows of a range with their totals, in order of time."""
    rows = await connection.fetch(
        "select meter_id, product_id, catalogue_version, segment_start, hour, event_time, total as quantity from usage_window "
        "where subscription_id = $1 and event_time >= $2 and event_time < $3 order by event_time, meter_id",
        subscription_id,
        since,
        until,
    )
    return [HourOfMeter(**dict(row)) for row in rows]
