"""Tables of what the other services have said: catalogues, states, access, usage, invoices. SQL and nothing else."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from billing_common.db import Connection
from billing_common.events import AccessEvent, CatalogueApplied, InvoiceState, SubscriptionState, UsageCollected
from delegation_gateway.database import Database

INVOICES_MAX = 24
INVOICE = (
    "invoice_id, number, status, currency, total_minor, remaining_minor, attempt_count, next_payment_attempt, period_start, period_end, "
    "created_at"
)
ENDED = frozenset({"canceled", "incomplete_expired"})


@dataclass(frozen=True)
class Invoice:
    invoice_id: str
    number: str | None
    status: str
    currency: str
    total_minor: int
    remaining_minor: int
    attempt_count: int
    next_payment_attempt: datetime | None
    period_start: datetime
    period_end: datetime
    created_at: datetime

    @property
    def is_failing(self) -> bool:
        """Whether a payment was tried and did not go through."""
        return self.status in {"open", "uncollectible"} and self.remaining_minor > 0 and self.attempt_count > 0


@dataclass(frozen=True)
class Usage:
    """What was collected in one period."""

    by_meter: dict[str, int]
    by_day: dict[date, int]
    updated_at: datetime | None


async def save_catalogue(connection: Connection, event: CatalogueApplied) -> None:
    await connection.execute(
        "insert into catalogues(version, document, applied_at) values ($1, $2::jsonb, $3) on conflict do nothing",
        event.version,
        json.dumps(event.document),
        event.occurred_at,
    )


async def latest_catalogue_version(connection: Database) -> int | None:
    version: int | None = await connection.fetchval("select max(version) from catalogues")
    return version


async def catalogue_document(connection: Database, version: int) -> dict[str, Any] | None:
    text = await connection.fetchval("select document::text from catalogues where version = $1", version)
    document: dict[str, Any] | None = None if text is None else json.loads(text)
    return document


async def save_state(connection: Connection, event: SubscriptionState) -> None:
    """Keep the newest revision; a subscription that was not asked for here becomes known by it."""
    await connection.execute(
        "insert into subscriptions(subscription_id, revision, status, currency, started_at, current_period_start, current_period_end, "
        "cancel_at_period_end, cancel_at, ended_at, is_at_stripe) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) "
        "on conflict (subscription_id) do update set revision = excluded.revision, status = excluded.status, currency = excluded.currency, "
        "started_at = excluded.started_at, current_period_start = excluded.current_period_start, "
        "current_period_end = excluded.current_period_end, cancel_at_period_end = excluded.cancel_at_period_end, "
        "cancel_at = excluded.cancel_at, ended_at = excluded.ended_at, is_at_stripe = excluded.is_at_stripe "
        "where subscriptions.revision < excluded.revision",
        event.subscription_id,
        event.revision,
        event.status,
        event.currency,
        event.started_at,
        event.current_period_start,
        event.current_period_end,
        event.cancel_at_period_end,
        event.cancel_at,
        event.ended_at,
        event.stripe_subscription_id is not None,
    )
    await _follow_state(connection, event)


async def _follow_state(connection: Connection, event: SubscriptionState) -> None:
    """Have the request say the same as the newest state. A request for its plan that was not paid makes room for it."""
    await connection.execute(
        "update requests set state = 'expired' where account_id = $2 and product_id = $3 and subscription_id <> $1 and state = 'requested'",
        event.subscription_id,
        event.account_id,
        event.product_id,
    )
    await connection.execute(
        "insert into requests(subscription_id, account_id, user_id, product_id, catalogue_version, display_name, currency, "
        "requested_at, state) values ($1, $2, $3, $4, $5, $6, $7, $8, 'ended') on conflict do nothing",
        event.subscription_id,
        event.account_id,
        event.user_id,
        event.product_id,
        event.catalogue_version,
        event.display_name,
        event.currency,
        event.started_at,
    )
    await connection.execute(
        "update requests set state = case when (select status from subscriptions where subscription_id = $1) = any($2::text[]) "
        "then 'ended' else 'live' end, product_id = $3, catalogue_version = $4 where subscription_id = $1 "
        "and (select revision from subscriptions where subscription_id = $1) = $5",
        event.subscription_id,
        list(ENDED),
        event.product_id,
        event.catalogue_version,
        event.revision,
    )


async def end_request(connection: Connection, subscription_id: str, *, state: str, reason: str | None = None) -> None:
    """Note that nothing came of a request; one that has a subscription by now is left alone."""
    await connection.execute(
        "update requests set state = $2, reason = $3 where subscription_id = $1 and state in ('requested', 'expired')",
        subscription_id,
        state,
        reason,
    )


async def save_access(connection: Connection, event: AccessEvent, state: str) -> None:
    await connection.execute(
        "insert into access(subscription_id, revision, state, sid, reason, effective_at, sids) values ($1, $2, $3, $4, $5, $6, $7) "
        "on conflict (subscription_id) do update set revision = excluded.revision, state = excluded.state, sid = excluded.sid, "
        "sids = excluded.sids, reason = excluded.reason, effective_at = excluded.effective_at where access.revision < excluded.revision",
        event.subscription_id,
        event.revision,
        state,
        event.sid,
        event.reason,
        event.effective_at,
        list(event.sids or (event.sid,)),
    )


async def save_usage(connection: Connection, event: UsageCollected) -> None:
    await connection.execute(
        "insert into usage_windows(subscription_id, meter_id, segment_start, hour, occurred_at, quantity, revision, updated_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (subscription_id, meter_id, segment_start, hour) do update set "
        "quantity = excluded.quantity, revision = excluded.revision, updated_at = excluded.updated_at "
        "where usage_windows.revision < excluded.revision",
        event.subscription_id,
        event.meter_id,
        event.segment_start,
        event.hour,
        event.timestamp,
        event.quantity,
        event.revision,
        event.occurred_at,
    )


async def usage_between(
    connection: Database,
    subscription_id: str,
    start: datetime,
    end: datetime,
    *,
    counted_since: datetime | None = None,
    counted_until: datetime | None = None,
) -> Usage:
    """Return the usage of a period: start inclusive, end exclusive; only of segments that began in a stretch of time where one is given."""
    rows = await connection.fetch(
        "select meter_id, (occurred_at at time zone 'UTC')::date as day, sum(quantity)::bigint as quantity, max(updated_at) as updated_at "
        "from usage_windows where subscription_id = $1 and occurred_at >= $2 and occurred_at < $3 "
        "and ($4::timestamptz is null or segment_start >= $4) and ($5::timestamptz is null or segment_start < $5) group by 1, 2",
        subscription_id,
        start,
        end,
        counted_since,
        counted_until,
    )
    by_meter: dict[str, int] = {}
    by_day: dict[date, int] = {}
    for row in rows:
        by_meter[row["meter_id"]] = by_meter.get(row["meter_id"], 0) + row["quantity"]
        by_day[row["day"]] = by_day.get(row["day"], 0) + row["quantity"]
    updated_at = max((row["updated_at"] for row in rows), default=None)
    return Usage(by_meter, by_day, updated_at.astimezone(UTC) if updated_at else None)


async def save_invoice(connection: Connection, event: InvoiceState) -> None:
    await connection.execute(
        "insert into invoices(invoice_id, subscription_id, account_id, revision, number, status, currency, total_minor, remaining_minor, "
        "attempt_count, next_payment_attempt, period_start, period_end, created_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) on conflict (invoice_id) do update set "
        "revision = excluded.revision, number = excluded.number, status = excluded.status, total_minor = excluded.total_minor, "
        "remaining_minor = excluded.remaining_minor, attempt_count = excluded.attempt_count, "
        "next_payment_attempt = excluded.next_payment_attempt, period_start = excluded.period_start, period_end = excluded.period_end "
        "where invoices.revision < excluded.revision",
        event.invoice_id,
        event.subscription_id,
        event.account_id,
        event.revision,
        event.number,
        event.status,
        event.currency,
        event.total_minor,
        event.amount_remaining_minor,
        event.attempt_count,
        event.next_payment_attempt,
        event.period_start,
        event.period_end,
        event.created_at,
    )


async def list_invoices(connection: Database, subscription_id: str) -> list[Invoice]:
    """Return the newest invoices of a subscription."""
    rows = await connection.fetch(
        f"select {INVOICE} from invoices where subscription_id = $1 order by created_at desc, invoice_id limit $2",  # noqa: S608 # a constant
        subscription_id,
        INVOICES_MAX,
    )
    return [Invoice(**row) for row in rows]


async def find_invoice(connection: Database, invoice_id: str, subscription_id: str, account_id: str) -> Invoice | None:
    """Return an invoice of a subscription; another account's is not found."""
    row = await connection.fetchrow(
        f"select {INVOICE} from invoices where invoice_id = $1 and subscription_id = $2 and account_id = $3",  # noqa: S608 # a constant
        invoice_id,
        subscription_id,
        account_id,
    )
    return None if row is None else Invoice(**row)
