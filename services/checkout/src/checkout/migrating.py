"""Moving subscribers to the price of a newer catalogue: who moves when and at what proration, and who stays with which reason."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.db import Connection
from billing_common.events import derive_id
from billing_common.plan_changes import STANDINGS, ChangeRefusedError, Sold, When, costs_the_same, lines_of_change, refuse_change
from billing_common.rating import period_at
from checkout import changing, store, store_catalogue, store_changes
from checkout.change_domain import LAST_HOUR, Change, next_second
from checkout.store_catalogue import Version
from checkout.store_changes import Subscriber

SHOWN_MAX = 1000


@dataclass(frozen=True)
class Move:
    """One subscriber who goes on with the new price. `proration_minor` waits for the next invoice; at a period's end it is 0."""

    subscriber: Subscriber
    when: When
    effective_at: datetime
    proration_minor: int

    def public(self) -> dict[str, Any]:
        one = self.subscriber
        return {
            "subscription_id": one.subscription_id,
            "account_id": one.account_id,
            "product_id": one.product_id,
            "from_version": one.catalogue_version,
            "when": "now" if self.when == "now" else "next-period",
            "effective_at": self.effective_at.isoformat(),
            "currency": one.currency,
            "proration_minor": self.proration_minor,
        }


@dataclass(frozen=True)
class Stays:
    """One subscriber who keeps the price he bought, and why."""

    subscriber: Subscriber
    code: str
    reason: str

    def public(self) -> dict[str, Any]:
        one = self.subscriber
        names = {"subscription_id": one.subscription_id, "account_id": one.account_id, "product_id": one.product_id}
        return {**names, "from_version": one.catalogue_version, "code": self.code, "reason": self.reason}


@dataclass(frozen=True)
class Migration:
    """Everybody whose price would be another one."""

    moves: tuple[Move, ...]
    stays: tuple[Stays, ...]

    def public(self) -> dict[str, Any]:
        """Return it as plain JSON: totals of all, and the first of each list."""
        totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for move in self.moves:
            total = totals[move.subscriber.currency, "now" if move.when == "now" else "next-period"]
            total[0] += 1
            total[1] += move.proration_minor
        return {
            "moving": len(self.moves),
            "staying": len(self.stays),
            "totals": [
                {"currency": currency, "when": when, "subscribers": count, "proration_minor": minor}
                for (currency, when), (count, minor) in sorted(totals.items())
            ],
            "moves": [move.public() for move in self.moves[:SHOWN_MAX]],
            "stays": [stay.public() for stay in self.stays[:SHOWN_MAX]],
        }


async def plan(pool: asyncpg.Pool, catalogue: Catalogue, *, when: When, now: datetime) -> Migration:
    """Return who would move if this catalogue were the applied one."""
    async with pool.acquire() as connection:
        subscribers = await store_changes.subscribers(connection)
        versions = await _versions(connection, {one.catalogue_version for one in subscribers})
    return _sort(decide(one, versions, catalogue, when=when, now=now) for one in subscribers)


def _sort(decided: Iterable[Move | Stays | None]) -> Migration:
    found = [one for one in decided if one is not None]
    return Migration(tuple(one for one in found if isinstance(one, Move)), tuple(one for one in found if isinstance(one, Stays)))


async def _versions(connection: Connection, numbers: Iterable[int]) -> dict[int, Catalogue]:
    found = [await store_catalogue.get(connection, number) for number in sorted(numbers)]
    return {version.version: version.catalogue for version in found if version is not None}


def decide(one: Subscriber, versions: dict[int, Catalogue], catalogue: Catalogue, *, when: When, now: datetime) -> Move | Stays | None:
    """Decide about one subscriber; None when the new catalogue charges what was bought, or no longer sells it."""
    bought = versions.get(one.catalogue_version)
    if bought is None or one.product_id not in {product.id for product in catalogue.products}:
        return None
    old, new = Sold(bought, bought.product(one.product_id)), Sold(catalogue, catalogue.product(one.product_id))
    if costs_the_same(old, new, one.currency) and old.product.source == new.product.source:
        return None
    period = period_at(old.product, started_at=one.started_at, at=now)
    soon: When = "period_end" if when == "now" and period.end - now <= LAST_HOUR else when
    try:
        _refuse(one)
        refuse_change(old, new, currency=one.currency, when=soon)
    except ChangeRefusedError as error:
        return Stays(one, error.code, str(error))
    if soon == "period_end":
        return Move(one, soon, period.end, 0)
    at = next_second(now)
    lines = lines_of_change(old, new, at=at, started_at=one.started_at, plan_since=one.plan_since or one.started_at, currency=one.currency)
    return Move(one, soon, at, sum(line.amount_minor for line in lines))


def _refuse(one: Subscriber) -> None:
    if one.ends or one.cancellation is not None:
        raise ChangeRefusedError("ending", "This subscription has been cancelled.")
    if one.has_open_change:
        raise ChangeRefusedError("change_pending", "A change of this subscription is under way or planned.")
    standing = STANDINGS.get(one.status or "")
    if standing is not None and one.status != "past_due":
        raise ChangeRefusedError(*standing)


async def start(pool: asyncpg.Pool, version: Version, *, when: When, now: datetime) -> Migration:
    """Begin to move everybody to an applied version; each subscriber in a transaction of its own. Once more goes on with the rest."""
    wanted = await plan(pool, version.catalogue, when=when, now=now)
    decided: list[Move | Stays | None] = list(wanted.stays)
    for move in wanted.moves:
        async with pool.acquire() as connection, connection.transaction():
            decided.append(await _start_one(connection, move.subscriber, version, when=when, now=now))
    return _sort(decided)


async def _start_one(connection: Connection, seen: Subscriber, version: Version, *, when: When, now: datetime) -> Move | Stays | None:
    """Decide again under the account's lock: something may have happened since the list was made."""
    await store.lock_account(connection, seen.account_id)
    subscription = await store.get_subscription(connection, seen.subscription_id)
    fresh = await store_changes.subscribers(connection, seen.subscription_id)
    if subscription is None or not fresh:
        return None
    versions = await _versions(connection, {fresh[0].catalogue_version})
    move = decide(fresh[0], versions, version.catalogue, when=when, now=now)
    if isinstance(move, Move):
        prices = version.price_ids(move.subscriber.product_id, move.subscriber.currency)
        await changing.begin(connection, _change(move, version, now), subscription, prices, at=now)
    return move


def _change(move: Move, version: Version, now: datetime) -> Change:
    one = move.subscriber
    return Change(
        change_id=str(derive_id("migration", one.subscription_id, str(version.version), now.isoformat())),
        subscription_id=one.subscription_id,
        account_id=one.account_id,
        asked_by="provider",
        timing=move.when,
        from_product_id=one.product_id,
        from_catalogue_version=one.catalogue_version,
        product_id=one.product_id,
        catalogue_version=version.version,
        state="asked",
        revision=0,
        effective_at=move.effective_at,
        settled_start=None,
        settled_end=None,
        then_cancel=False,
    )
