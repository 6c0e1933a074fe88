"""Subscriptions, their keys, segments and catalogue versions: every query on them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from billing_common.db import Connection
from billing_common.events import SubscriptionState
from usage_collector.domain import Fact, Planned, Revision, Stored
from usage_collector.store import Reader


async def add_catalogue(connection: Connection, version: int, document: str) -> None:
    """Keep a catalogue version and have the events that waited for it judged again, also by whoever is judging them right now."""
    await connection.execute("insert into catalogue_version(version, document) values ($1, $2) on conflict do nothing", version, document)
    await connection.execute(
        "update subscription set unsettled = true, version = nextval('directory_version') "
        "where subscription_id in (select k.subscription_id from subscription_key k "
        "join held_event h on h.sid = k.sid join segment s on s.subscription_id = k.subscription_id and s.catalogue_version = $1)",
        version,
    )


async def catalogue_document(connection: Connection, version: int) -> str | None:
    document: str | None = await connection.fetchval("select document from catalogue_version where version = $1", version)
    return document


async def has_product_source(connection: Reader, source: str) -> bool:
    """Tell whether any kept catalogue has a product that is counted by this source."""
    return bool(
        await connection.fetchval(
            "select exists(select from catalogue_version c, jsonb_array_elements(c.document::jsonb -> 'products') p "
            "where p ->> 'source' = $1)",
            source,
        )
    )


async def add_fact(connection: Connection, event: SubscriptionState) -> bool:
    """Keep what a revision says; False when this revision is known already."""
    tag = await connection.execute(
        "insert into subscription_fact(subscription_id, revision, occurred_at, product_id, catalogue_version, period_start, period_end, "
        "ended_at, plan_since) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
        event.subscription_id,
        event.revision,
        event.occurred_at,
        event.product_id,
        event.catalogue_version,
        event.current_period_start,
        event.current_period_end,
        event.ended_at,
        event.plan_since,
    )
    await connection.execute(
        "insert into subscription(subscription_id, account_id, started_at, ended_at, reported) values ($1, $2, $3, $4, $5) "
        "on conflict (subscription_id) do update set started_at = excluded.started_at, "
        "ended_at = coalesce(subscription.ended_at, excluded.ended_at), reported = excluded.reported",
        event.subscription_id,
        event.account_id,
        event.started_at,
        event.ended_at,
        event.stripe_subscription_id is not None,
    )
    return bool(tag.endswith(" 1"))


async def add_key(connection: Connection, sid: str, subscription_id: str, account_id: str) -> bool:
    """Remember whose key a sid is; False when that is known already."""
    await connection.execute(
        "insert into subscription(subscription_id, account_id) values ($1, $2) on conflict do nothing", subscription_id, account_id
    )
    tag = await connection.execute(
        "insert into subscription_key(sid, subscription_id) values ($1, $2) on conflict do nothing", sid, subscription_id
    )
    return bool(tag.endswith(" 1"))


async def add_cut(connection: Connection, subscription_id: str, account_id: str, cut_at: datetime) -> None:
    """Remember when calls were refused for good; the earliest counts."""
    await connection.execute(
        "insert into subscription(subscription_id, account_id, cut_at) values ($1, $2, $3) "
        "on conflict (subscription_id) do update set cut_at = least(subscription.cut_at, excluded.cut_at)",
        subscription_id,
        account_id,
        cut_at,
    )


async def facts_of(connection: Connection, subscription_id: str) -> tuple[list[Fact], datetime | None]:
    """Return all that is known of a subscription's plans and periods, and where it was cut."""
    rows = await connection.fetch("select * from subscription_fact where subscription_id = $1", subscription_id)
    cut_at = await connection.fetchval("select cut_at from subscription where subscription_id = $1", subscription_id)
    return [
        Fact(
            revision=row["revision"],
            occurred_at=row["occurred_at"],
            product_id=row["product_id"],
            catalogue_version=row["catalogue_version"],
            period_start=row["period_start"],
            period_end=row["period_end"],
            ended_at=row["ended_at"],
            plan_since=row["plan_since"],
        )
        for row in rows
    ], cut_at


async def segments_of(connection: Connection, subscription_id: str) -> list[Stored]:
    rows = await connection.fetch("select * from segment where subscription_id = $1 order by started_at", subscription_id)
    return [
        Stored(
            row["id"],
            Planned(row["started_at"], row["ended_at"], row["product_id"], row["catalogue_version"], row["reason"], row["stamped_from"]),
            row["closed_at"] is not None,
        )
        for row in rows
    ]


async def revise_segments(connection: Connection, subscription_id: str, account_id: str, revision: Revision) -> None:
    """Write the difference; the windows of a removed segment must be empty and announced as empty by then."""
    for segment_id, to in revision.change:
        await connection.execute(
            "update segment set ended_at = $2, product_id = $3, catalogue_version = $4, reason = $5, stamped_from = $6, "
            "closing_since = null where id = $1",
            segment_id,
            to.ended_at,
            to.product_id,
            to.catalogue_version,
            to.reason,
            to.stamped_from,
        )
    if revision.remove:
        await connection.execute("delete from usage_window where segment_id = any($1::bigint[])", list(revision.remove))
        await connection.execute("delete from segment where id = any($1::bigint[])", list(revision.remove))
    for new in revision.add:
        await connection.execute(
            "insert into segment(subscription_id, account_id, started_at, ended_at, product_id, catalogue_version, reason, stamped_from) "
            "values ($1, $2, $3, $4, $5, $6, $7, $8)",
            subscription_id,
            account_id,
            new.started_at,
            new.ended_at,
            new.product_id,
            new.catalogue_version,
            new.reason,
            new.stamped_from,
        )


async def touch(connection: Connection, subscription_id: str) -> None:
    """Tell every collector's cache that this subscription changed, and have its held events judged again if there are any."""
    await connection.execute(
        "update subscription set version = nextval('directory_version'), unsettled = unsettled or exists("
        "select from held_event h join subscription_key k on k.sid = h.sid where k.subscription_id = $1) where subscription_id = $1",
        subscription_id,
    )


async def touch_keys(connection: Connection, sids: Sequence[str]) -> None:
    """The same for the subscriptions of some keys."""
    for row in await connection.fetch("select distinct subscription_id from subscription_key where sid = any($1::text[])", list(sids)):
        await touch(connection, row["subscription_id"])


async def changed_since(connection: Connection, version: int) -> tuple[list[str], int]:
    """Return the subscriptions that changed after a version, and the newest version."""
    rows = await connection.fetch("select subscription_id, version from subscription where version > $1", version)
    return [row["subscription_id"] for row in rows], max((row["version"] for row in rows), default=version)


async def holders(connection: Connection, sids: Sequence[str]) -> list[Any]:
    """Return key, subscription and segments in one row per segment, for the sids that are known."""
    rows: list[Any] = await connection.fetch(
        "select k.sid, k.subscription_id, u.ended_at is not null as ended, s.id, s.started_at, s.ended_at, "
        "s.closed_at is not null as closed, s.product_id, s.catalogue_version "
        "from subscription_key k join subscription u on u.subscription_id = k.subscription_id "
        "left join segment s on s.subscription_id = k.subscription_id where k.sid = any($1::text[]) order by k.sid, s.started_at, s.id",
        list(sids),
    )
    return rows


# --- held events ---------------------------------------------------------------------------------------------------------------


async def pick_unsettled(connection: Connection, limit: int, leave_out: Sequence[str] = ()) -> dict[str, int]:
    """Return id -> version of some subscriptions whose held events are to be judged again, and which nobody looks at right now."""
    rows = await connection.fetch(
        "select subscription_id, version from subscription where unsettled and subscription_id <> all($2::text[]) "
        "order by subscription_id limit $1 for update skip locked",
        limit,
        list(leave_out),
    )
    return {row["subscription_id"]: row["version"] for row in rows}


async def lock_unsettled(connection: Connection, subscription_ids: Sequence[str]) -> dict[str, int]:
    """Lock those that are still to be settled, each in turn with whoever looks at them too; returns id -> version."""
    rows = await connection.fetch(
        "select subscription_id, version from subscription where subscription_id = any($1::text[]) and unsettled "
        "order by subscription_id for update",
        list(subscription_ids),
    )
    return {row["subscription_id"]: row["version"] for row in rows}


async def keys_of(connection: Connection, subscription_ids: Sequence[str]) -> list[str]:
    rows = await connection.fetch("select sid from subscription_key where subscription_id = any($1::text[])", list(subscription_ids))
    return [row["sid"] for row in rows]


async def mark_settled(connection: Connection, subscription_ids: Sequence[str]) -> None:
    await connection.execute("update subscription set unsettled = false where subscription_id = any($1::text[])", list(subscription_ids))


async def count_unsettled(connection: Reader) -> int:
    return int(await connection.fetchval("select count(*) from subscription where unsettled"))


async def known_meters(connection: Reader) -> tuple[frozenset[str], frozenset[str]]:
    """Return the meter ids of all kept catalogue versions, and the properties whose different values some of them count."""
    rows = await connection.fetch(
        "select distinct m.key as meter_id, case when m.value ->> 'aggregation' = 'unique' then m.value ->> 'property' end as counted "
        "from catalogue_version, jsonb_each(document::jsonb -> 'meters') m"
    )
    return frozenset(row["meter_id"] for row in rows), frozenset(row["counted"] for row in rows if row["counted"])
