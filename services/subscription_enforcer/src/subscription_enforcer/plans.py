"""What the applied catalogues say of access: every query on them, and the decision that needs them."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from billing_common.catalogue import Product
from billing_common.db import Connection
from subscription_enforcer import domain, keys, store
from subscription_enforcer.domain import Facts

KEYS_MAX = 1000
PLANS_LOCK = "subscription_enforcer.plans"


async def lock(connection: Connection) -> None:
    """Keep the plans as they are until the transaction ends: a decision that misses one is made again when it comes. Take it first."""
    await connection.execute("select pg_advisory_xact_lock_shared(hashtext($1))", PLANS_LOCK)


async def add(connection: Connection, version: int, products: Iterable[Product]) -> None:
    """Keep a catalogue version, when no decision is being made. It comes before or after the subscriptions to it."""
    await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PLANS_LOCK)
    await connection.executemany(
        "insert into plan(catalogue_version, product_id, dunning_grace_days, keys, quota) values ($1, $2, $3, $4, $5) "
        "on conflict do nothing",
        [(version, product.id, product.policies.dunning_grace_days, product.keys, _quota(product)) for product in products],
    )


def _quota(product: Product) -> int:
    """Return the quota at whose end this service has to stop calls; 0: API Management does it, or nobody."""
    stops = product.quota is not None and product.quota.beyond == "stop" and product.source != "stream"
    return product.quota.calls if product.quota is not None and stops else 0


async def waiting_for(connection: Connection, version: int) -> list[str]:
    """Return the subscriptions of a catalogue version that are unpaid, stopped or have further keys: what becomes of them waited for it."""
    rows = await connection.fetch(
        "select subscription_id from access where catalogue_version = $1 "
        "and (status = 'unpaid' or keys_revision > 0 or hard_stop_limit is not null) order by 1",
        version,
    )
    return [row["subscription_id"] for row in rows]


async def settle(connection: Connection, facts: Facts, now: datetime) -> None:
    """Decide, by the subscription's plan, and write what access and keys should be.

    While the plan is unknown nobody is suspended for missing payment, and no key for being one too many.
    """
    row = await connection.fetchrow(
        "select dunning_grace_days, keys, quota from plan where catalogue_version = $1 and product_id = $2",
        facts.catalogue_version,
        facts.product_id,
    )
    grace, quota = (timedelta(days=row["dunning_grace_days"]), row["quota"]) if row else (None, None)
    desired = domain.decide(facts, now, grace=grace, quota=quota)
    await store.save(connection, facts, desired)
    await keys.save_desired(connection, facts.subscription_id, desired.access if desired else None, row["keys"] if row else KEYS_MAX)
