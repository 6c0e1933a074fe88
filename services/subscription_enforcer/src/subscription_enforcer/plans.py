"""What the applied catalogues say of access: every query on them, and the decision that needs them."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from billing_common.catalogue import Product
from billing_common.db import Connection
from subscription_enforcer import domain
from subscription_enforcer.domain import Desired, Facts

PLANS_LOCK = "subscription_enforcer.plans"


async def lock(connection: Connection) -> None:
    """Keep the plans as they are until the transaction ends: a decision that misses one is made again when it comes. Take it first."""
    await connection.execute("select pg_advisory_xact_lock_shared(hashtext($1))", PLANS_LOCK)


async def add(connection: Connection, version: int, products: Iterable[Product]) -> None:
    """Keep a catalogue version, when no decision is being made. It comes before or after the subscriptions to it."""
    await connection.execute("select pg_advisory_xact_lock(hashtext($1))", PLANS_LOCK)
    await connection.executemany(
        "insert into plan(catalogue_version, product_id, dunning_grace_days) values ($1, $2, $3) on conflict do nothing",
        [(version, product.id, product.policies.dunning_grace_days) for product in products],
    )


async def unpaid_of(connection: Connection, version: int) -> list[str]:
    """Return the unpaid subscriptions of a catalogue version: what becomes of them waited for it."""
    rows = await connection.fetch(
        "select subscription_id from access where catalogue_version = $1 and status = 'unpaid' order by subscription_id", version
    )
    return [row["subscription_id"] for row in rows]


async def decide(connection: Connection, facts: Facts, now: datetime) -> Desired | None:
    """Decide with the grace of the subscription's plan; while the plan is unknown nobody is suspended for missing payment."""
    days = await connection.fetchval(
        "select dunning_grace_days from plan where catalogue_version = $1 and product_id = $2", facts.catalogue_version, facts.product_id
    )
    return domain.decide(facts, now, grace=None if days is None else timedelta(days=days))
