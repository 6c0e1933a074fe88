"""Accounts, subscriptions, sessions and invoices: every table and query but those of the catalogue and the intents."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from billing_common.db import Connection
from billing_common.events import InvoiceState, SubscriptionState


@dataclass(frozen=True)
class Subscription:
    """A subscription as checkout knows it."""

    subscription_id: str
    account_id: str
    user_id: str
    product_id: str
    catalogue_version: int
    display_name: str
    currency: str
    free: bool
    state: str
    revision: int
    requested_at: datetime
    started_at: datetime | None = None
    stripe_subscription_id: str | None = None


@dataclass(frozen=True)
class Session:
    """A Checkout session, or the intent to make one."""

    subscription_id: str
    attempt: int
    idempotency_key: str
    status: str
    session_id: str | None
    url: str | None
    expires_at: datetime | None


_SUBSCRIPTION = (
    "subscription_id, account_id, user_id, product_id, catalogue_version, display_name, currency, free, state, revision, "
    "requested_at, started_at, stripe_subscription_id"
)
_SESSION = "subscription_id, attempt, idempotency_key, status, session_id, url, expires_at"


async def lock_account(connection: Connection, account_id: str) -> str | None:
    """Make the account's row if there is none, lock it until the end of the transaction, return its Stripe customer."""
    await connection.execute("insert into account(account_id) values ($1) on conflict do nothing", account_id)
    customer: str | None = await connection.fetchval("select stripe_customer_id from account where account_id = $1 for update", account_id)
    return customer


async def members(connection: Connection, account_id: str) -> frozenset[str]:
    rows = await connection.fetch("select user_id from account_member where account_id = $1", account_id)
    return frozenset(row["user_id"] for row in rows)


async def add_member(connection: Connection, account_id: str, user_id: str) -> None:
    await connection.execute("insert into account_member values ($1, $2) on conflict do nothing", account_id, user_id)


async def close_account(connection: Connection, account_id: str, at: datetime) -> None:
    await connection.execute("update account set closed_at = coalesce(closed_at, $2) where account_id = $1", account_id, at)


async def is_closed(connection: Connection, account_id: str) -> bool:
    return bool(await connection.fetchval("select closed_at is not null from account where account_id = $1", account_id))


async def set_customer(connection: Connection, account_id: str, customer_id: str) -> None:
    await connection.execute("update account set stripe_customer_id = $2 where account_id = $1", account_id, customer_id)


async def customer_of(connection: Connection, account_id: str) -> str | None:
    found: str | None = await connection.fetchval("select stripe_customer_id from account where account_id = $1", account_id)
    return found


async def get_subscription(connection: Connection, subscription_id: str) -> Subscription | None:
    row = await connection.fetchrow(f"select {_SUBSCRIPTION} from subscription where subscription_id = $1 for update", subscription_id)  # noqa: S608 - constant columns
    return Subscription(**row) if row else None


async def others_of_product(connection: Connection, subscription: Subscription) -> list[Subscription]:
    """Return the account's other subscriptions to the same product that have not ended."""
    rows = await connection.fetch(
        f"select {_SUBSCRIPTION} from subscription"  # noqa: S608 - constant columns
        " where account_id = $1 and product_id = $2 and subscription_id <> $3 and state <> 'ended'",
        subscription.account_id,
        subscription.product_id,
        subscription.subscription_id,
    )
    return [Subscription(**row) for row in rows]


async def add_subscription(connection: Connection, subscription: Subscription) -> None:
    await connection.execute(
        f"insert into subscription({_SUBSCRIPTION}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict do nothing",  # noqa: S608
        *(getattr(subscription, name.strip()) for name in _SUBSCRIPTION.split(",")),
    )


async def end_subscription(connection: Connection, subscription_id: str, *, revision: int, at: datetime) -> None:
    await connection.execute(
        "update subscription set state = 'ended', revision = $2, ended_at = $3, status = 'canceled' where subscription_id = $1",
        subscription_id,
        revision,
        at,
    )


async def apply_state(connection: Connection, event: SubscriptionState, *, state: str) -> None:
    """Take over a newer revision of a subscription's state; an older one changes nothing."""
    await connection.execute(
        "insert into subscription(subscription_id, account_id, user_id, product_id, catalogue_version, display_name, currency, free, state,"
        " revision, requested_at, started_at, status, ended_at, stripe_subscription_id)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, $14)"
        " on conflict (subscription_id) do update set state = excluded.state, revision = excluded.revision, status = excluded.status,"
        " product_id = excluded.product_id, catalogue_version = excluded.catalogue_version, currency = excluded.currency,"
        " started_at = excluded.started_at, ended_at = excluded.ended_at, stripe_subscription_id = excluded.stripe_subscription_id"
        " where subscription.revision < excluded.revision",
        event.subscription_id,
        event.account_id,
        event.user_id,
        event.product_id,
        event.catalogue_version,
        event.display_name,
        event.currency,
        event.stripe_subscription_id is None,
        state,
        event.revision,
        event.started_at,
        event.status,
        event.ended_at,
        event.stripe_subscription_id,
    )


async def mark_paid(connection: Connection, subscription_id: str, stripe_subscription_id: str | None) -> None:
    """The customer has paid: no second checkout from here on. The full state comes with `subscription.created`."""
    await connection.execute(
        "update subscription set state = 'live', stripe_subscription_id = coalesce(stripe_subscription_id, $2)"
        " where subscription_id = $1 and revision = 0",
        subscription_id,
        stripe_subscription_id,
    )


async def set_payment_method(connection: Connection, account_id: str, *, payment_method_id: str, revision: int, at: datetime) -> bool:
    """Take over a newer payment method; False when the known one is newer."""
    tag = await connection.execute(
        "update account set payment_method_id = $2, payment_method_revision = $3, payment_method_changed_at = $4"
        " where account_id = $1 and payment_method_revision < $3",
        account_id,
        payment_method_id,
        revision,
        at,
    )
    return bool(tag.endswith(" 1"))


async def payment_method_after(connection: Connection, account_id: str, at: datetime) -> str | None:
    """Return the account's payment method if it was changed after an instant."""
    found: str | None = await connection.fetchval(
        "select payment_method_id from account where account_id = $1 and payment_method_changed_at > $2", account_id, at
    )
    return found


async def count_live(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of live subscriptions by product and currency."""
    rows = await connection.fetch(
        "select product_id, currency, count(*) as live from subscription where state = 'live' group by product_id, currency"
    )
    return {(row["product_id"], row["currency"]): row["live"] for row in rows}


async def last_session(connection: Connection, subscription_id: str) -> Session | None:
    row = await connection.fetchrow(
        f"select {_SESSION} from checkout_session where subscription_id = $1 order by attempt desc limit 1",  # noqa: S608
        subscription_id,
    )
    return Session(**row) if row else None


async def add_session(connection: Connection, subscription_id: str, attempt: int, idempotency_key: str) -> Session:
    await connection.execute(
        "insert into checkout_session(subscription_id, attempt, idempotency_key) values ($1, $2, $3)",
        subscription_id,
        attempt,
        idempotency_key,
    )
    return Session(subscription_id, attempt, idempotency_key, "creating", None, None, None)


async def is_being_opened(connection: Connection, session: Session) -> bool:
    """Tell whether somebody may be opening the session at this moment; after a minute nobody is."""
    return bool(
        await connection.fetchval(
            "select status = 'creating' and created_at > now() - interval '1 minute' from checkout_session where idempotency_key = $1",
            session.idempotency_key,
        )
    )


async def give_up_session(connection: Connection | asyncpg.Pool, idempotency_key: str) -> None:
    """The next try needs another idempotency key."""
    await connection.execute("update checkout_session set status = 'expired' where idempotency_key = $1", idempotency_key)


async def open_session(connection: Connection, idempotency_key: str, *, session_id: str, url: str, expires_at: datetime) -> None:
    await connection.execute(
        "update checkout_session set session_id = $2, url = $3, expires_at = $4, status = 'open'"
        " where idempotency_key = $1 and status = 'creating'",
        idempotency_key,
        session_id,
        url,
        expires_at,
    )


async def close_session(connection: Connection, session_id: str, status: str) -> None:
    await connection.execute("update checkout_session set status = $2 where session_id = $1 and status = 'open'", session_id, status)


async def apply_invoice(connection: Connection, event: InvoiceState) -> None:
    """Remember an invoice at a newer revision."""
    await connection.execute(
        "insert into invoice values ($1, $2, $3, $4, $5, $6, $7) on conflict (invoice_id) do update set revision = excluded.revision,"
        " status = excluded.status, amount_remaining_minor = excluded.amount_remaining_minor where invoice.revision < excluded.revision",
        event.invoice_id,
        event.subscription_id,
        event.account_id,
        event.stripe_customer_id,
        event.revision,
        event.status,
        event.amount_remaining_minor,
    )


async def open_invoices(connection: Connection, account_id: str) -> list[Any]:
    """Return the invoices that wait for money, oldest first."""
    rows = await connection.fetch(
        "select invoice_id, revision from invoice"
        " where account_id = $1 and status = 'open' and amount_remaining_minor > 0 order by invoice_id",
        account_id,
    )
    return list(rows)
