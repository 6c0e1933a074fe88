"""Changes of plan whose usage is closed before they are made: every query on them."""

from billing_common.db import Connection
from billing_common.events import SubscriptionChangeProgressed
from usage_collector.domain import Cut


async def add_change(connection: Connection, event: SubscriptionChangeProgressed) -> bool:
    """Keep that a change closes the old usage first, or that it failed; False when that changes nothing."""
    if event.state == "closing":
        tag = await connection.execute(
            "insert into plan_cut(change_id, subscription_id, revision, cut_at, product_id, catalogue_version) "
            "values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
            event.change_id,
            event.subscription_id,
            event.revision,
            event.effective_at,
            event.product_id,
            event.catalogue_version,
        )
    else:
        tag = await connection.execute(
            "update plan_cut set failed = $3, revision = $2 where change_id = $1 and revision < $2",
            event.change_id,
            event.revision,
            event.state in {"failed", "withdrawn"},
        )
    return bool(tag.endswith(" 1"))


async def cuts_of(connection: Connection, subscription_id: str) -> list[Cut]:
    rows = await connection.fetch(
        "select cut_at, product_id, catalogue_version from plan_cut where subscription_id = $1 and not failed", subscription_id
    )
    return [Cut(row["cut_at"], row["product_id"], row["catalogue_version"]) for row in rows]
