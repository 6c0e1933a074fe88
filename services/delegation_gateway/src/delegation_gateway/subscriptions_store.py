"""Tables of subscriptions: what was asked for here. SQL and nothing else; read_models.py holds what others have said."""

from dataclasses import dataclass
from datetime import datetime

from billing_common.db import Connection
from delegation_gateway.database import Database
from delegation_gateway.domain import Subscription, Timing

COLUMNS = """
    r.subscription_id, r.account_id, r.product_id, r.catalogue_version, r.display_name, r.currency as requested_currency, r.requested_at,
    r.state as request_state, r.reason as request_reason, s.status, s.currency, s.started_at, s.current_period_start as period_start,
    s.current_period_end as period_end, coalesce(s.cancel_at_period_end, false) as cancel_at_period_end, s.cancel_at, s.ended_at,
    coalesce(s.is_at_stripe, false) as is_at_stripe, c.timing as cancellation, a.state as access, a.reason as access_reason, a.sid,
    (select max(since) from plan_stays p where p.subscription_id = r.subscription_id) as plan_since
"""
TABLES = """
    requests r left join subscriptions s using (subscription_id) left join cancellations c using (subscription_id)
    left join access a using (subscription_id)
"""
PAGE = 100


@dataclass(frozen=True)
class Request:
    subscription_id: str
    link_id: str
    form_id: str
    account_id: str
    user_id: str
    product_id: str
    catalogue_version: int
    display_name: str
    currency: str | None
    requested_at: datetime


async def add_request(connection: Connection, request: Request) -> bool:
    """Add a request; False when the link was used or the account has the product already."""
    tag = await connection.execute(
        "insert into requests(subscription_id, link_id, form_id, account_id, user_id, product_id, catalogue_version, display_name, "
        "currency, requested_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
        request.subscription_id,
        request.link_id,
        request.form_id,
        request.account_id,
        request.user_id,
        request.product_id,
        request.catalogue_version,
        request.display_name,
        request.currency,
        request.requested_at,
    )
    return bool(tag.endswith(" 1"))


async def request_of_link(connection: Database, link_id: str) -> tuple[str, str, str] | None:
    """Return (subscription id, form id, account id) of the use of a link, if it was used."""
    row = await connection.fetchrow("select subscription_id, form_id, account_id from requests where link_id = $1", link_id)
    return None if row is None else (row["subscription_id"], row["form_id"] or "", row["account_id"])


async def user_of_request(connection: Database, subscription_id: str) -> str:
    return str(await connection.fetchval("select user_id from requests where subscription_id = $1", subscription_id))


async def find_subscription(connection: Database, subscription_id: str, account_id: str) -> Subscription | None:
    """Return an account's subscription, by its own id or by the id of one of its keys; another account's is not found."""
    row = await connection.fetchrow(
        f"select {COLUMNS} from {TABLES} where r.account_id = $2 and (r.subscription_id = $1 or $1 = any(a.sids))",  # noqa: S608 # constants
        subscription_id,
        account_id,
    )
    return None if row is None else Subscription(**row)


async def find_by_product(connection: Database, account_id: str, product_id: str) -> Subscription | None:
    """Return the account's present subscription of a product, paid for or not yet."""
    row = await connection.fetchrow(
        f"select {COLUMNS} from {TABLES} where r.account_id = $1 and r.product_id = $2 and r.state in ('requested', 'live')",  # noqa: S608 # constants
        account_id,
        product_id,
    )
    return None if row is None else Subscription(**row)


async def list_subscriptions(connection: Database, account_id: str) -> list[Subscription]:
    """Return the newest subscriptions of an account, those that are over last."""
    rows = await connection.fetch(
        f"select {COLUMNS} from {TABLES} where r.account_id = $1 "  # noqa: S608 # constants
        "order by r.state in ('ended', 'failed', 'expired'), r.requested_at desc limit $2",
        account_id,
        PAGE,
    )
    return [Subscription(**row) for row in rows]


async def reopen_request(connection: Database, subscription_id: str) -> None:
    """Make an expired request one that waits for its payment again; fails on the unique index if there is another by now."""
    await connection.execute("update requests set state = 'requested' where subscription_id = $1 and state = 'expired'", subscription_id)


async def add_cancellation(connection: Connection, subscription_id: str, *, user_id: str, timing: Timing, at: datetime) -> bool:
    """Note that it shall end. False when that was asked for before; the end of the period may still become now."""
    tag = await connection.execute(
        "insert into cancellations(subscription_id, user_id, timing, requested_at) values ($1, $2, $3, $4) "
        "on conflict (subscription_id) do update set user_id = excluded.user_id, timing = excluded.timing, "
        "requested_at = excluded.requested_at where cancellations.timing = 'period_end' and excluded.timing = 'now'",
        subscription_id,
        user_id,
        timing,
        at,
    )
    return bool(tag.endswith(" 1"))
