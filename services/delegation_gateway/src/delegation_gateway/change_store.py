"""Tables of changes of plan, and of the plans a subscription was on. SQL and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing_common.bill_so_far import Stay
from billing_common.db import Connection
from billing_common.events import SubscriptionChangeProgressed, SubscriptionState
from delegation_gateway.database import Database

COLUMNS = (
    "change_id, product_id, catalogue_version, timing, state, effective_at, reason, requested_at, user_id is not null as asked_here, "
    "withdrawal_asked"
)


@dataclass(frozen=True)
class Change:
    """The newest change of a subscription. `asked_here`: by the customer; otherwise the provider has new prices."""

    change_id: str
    product_id: str
    catalogue_version: int | None
    timing: str | None
    state: str
    effective_at: datetime | None
    reason: str | None
    requested_at: datetime
    asked_here: bool
    withdrawal_asked: bool

    @property
    def is_under_way(self) -> bool:
        return self.state in {"requested", "closing"}

    @property
    def gives_way(self) -> bool:
        """Whether the customer's own change takes the place of this one: new prices that wait for the next period."""
        return self.state == "scheduled" and not self.asked_here


async def add_change(
    connection: Connection, *, change_id: str, subscription_id: str, user_id: str, product_id: str, timing: str, at: datetime
) -> bool:
    """Add a wish to change; False when this one is known or another one is open."""
    tag = await connection.execute(
        "insert into plan_changes(change_id, subscription_id, user_id, product_id, timing, state, requested_at) "
        "values ($1, $2, $3, $4, $5, 'requested', $6) on conflict do nothing",
        change_id,
        subscription_id,
        user_id,
        product_id,
        timing,
        at,
    )
    return bool(tag.endswith(" 1"))


async def is_known(connection: Database, change_id: str) -> bool:
    return bool(await connection.fetchval("select exists(select from plan_changes where change_id = $1)", change_id))


async def newest(connection: Database, subscription_id: str) -> list[Change]:
    """Return the change that is open, else the last one; behind new prices that wait, the last one that was asked for here too."""
    rows = await connection.fetch(
        f"select {COLUMNS} from plan_changes where subscription_id = $1 "  # noqa: S608 # constants
        "order by state in ('requested', 'scheduled', 'closing') desc, requested_at desc, change_id limit 20",
        subscription_id,
    )
    found = [Change(**row) for row in rows]
    own = [one for one in found[1:] if one.asked_here][:1] if found and found[0].gives_way else []
    return [*found[:1], *own]


async def ask_withdrawal(connection: Connection, change_id: str) -> bool:
    """Note that a planned change is to be taken back; False when it was noted before or is not planned any more."""
    tag = await connection.execute(
        "update plan_changes set withdrawal_asked = true where change_id = $1 and state = 'scheduled' and user_id is not null "
        "and not withdrawal_asked",
        change_id,
    )
    return bool(tag.endswith(" 1"))


async def save_progress(connection: Connection, event: SubscriptionChangeProgressed) -> None:
    """Keep the newest revision of a change; one that was not asked for here becomes known by it."""
    await connection.execute(
        "insert into plan_changes(change_id, subscription_id, product_id, catalogue_version, state, revision, effective_at, reason, "
        "requested_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (change_id) do update set state = excluded.state, "
        "revision = excluded.revision, catalogue_version = excluded.catalogue_version, effective_at = excluded.effective_at, "
        "reason = excluded.reason where plan_changes.revision < excluded.revision",
        event.change_id,
        event.subscription_id,
        event.product_id,
        event.catalogue_version,
        event.state,
        event.revision,
        event.effective_at,
        event.reason,
        event.occurred_at,
    )


async def save_stay(connection: Connection, event: SubscriptionState) -> None:
    """Keep since when the subscription is on which plan."""
    await connection.execute(
        "insert into plan_stays values ($1, $2, $3, $4, $5) on conflict (subscription_id, since) do update set "
        "product_id = excluded.product_id, catalogue_version = excluded.catalogue_version, revision = excluded.revision "
        "where plan_stays.revision < excluded.revision",
        event.subscription_id,
        event.plan_since or event.started_at,
        event.product_id,
        event.catalogue_version,
        event.revision,
    )


async def stays_between(connection: Database, subscription_id: str, start: datetime, end: datetime) -> list[Stay]:
    """Return the plans that a subscription was on in a period, the first one first."""
    rows: Sequence[Any] = await connection.fetch(
        "select * from (select since, lead(since) over (order by since) as until, product_id, catalogue_version, "
        "lag(product_id) over (order by since) is distinct from product_id as is_new from plan_stays "
        "where subscription_id = $1) stays where since < $3 and (until is null or until > $2) order by since",
        subscription_id,
        start,
        end,
    )
    return [Stay(**row) for row in rows]
