"""Who is subscribed to what, for the plan of an apply: queries on subscription that only read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from billing_common.db import Connection


@dataclass(frozen=True)
class Subscriber:
    """Of a live subscription: what decides what it pays."""

    subscription_id: str
    product_id: str
    catalogue_version: int
    currency: str
    started_at: datetime | None
    product_since: datetime | None = None  # when it came to this product from another one


async def count_versions(connection: Connection | asyncpg.Pool, product_id: str) -> dict[tuple[int, str], int]:
    """Return the number of a product's live subscriptions by catalogue version and currency."""
    rows = await connection.fetch(
        "select catalogue_version, currency, count(*) as live from subscription where state = 'live' and product_id = $1 group by 1, 2",
        product_id,
    )
    return {(row["catalogue_version"], row["currency"]): row["live"] for row in rows}


async def live_subscribers(
    connection: Connection | asyncpg.Pool, product_id: str, bought: Sequence[tuple[int, str]], limit: int
) -> list[Subscriber]:
    """Return a product's live subscriptions that were bought under these versions and currencies, oldest first."""
    rows = await connection.fetch(
        "select subscription_id, product_id, catalogue_version, currency, started_at,"
        " (select min(since) from plan_stay p where p.subscription_id = s.subscription_id and p.since > (select max(since) from plan_stay o"
        " where o.subscription_id = s.subscription_id and o.product_id <> s.product_id)) as product_since from subscription s"
        " where state = 'live' and product_id = $1"
        " and (catalogue_version, currency) in (select * from unnest($2::integer[], $3::text[]))"
        " order by started_at, subscription_id limit $4",
        product_id,
        [version for version, _ in bought],
        [currency for _, currency in bought],
        limit,
    )
    return [Subscriber(**row) for row in rows]


async def products_of_source(connection: Connection | asyncpg.Pool, source: str) -> frozenset[str]:
    """Return the products that somebody bought, or is buying, under a version in which this source counts."""
    rows = await connection.fetch(
        "select distinct s.product_id from subscription s join catalogue_version v on v.version = s.catalogue_version"
        " cross join json_array_elements(v.document -> 'products') p"
        " where s.state <> 'ended' and p ->> 'id' = s.product_id and coalesce(p ->> 'source', 'stream') = $1",
        source,
    )
    return frozenset(row["product_id"] for row in rows)
