"""Rules of changing a plan: who may, from when its fees count, and what Stripe is asked for. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from billing_common.catalogue import Product
from billing_common.events import derive_id
from billing_common.plan_changes import SHOWN_FOR, When
from billing_common.rating import period_at

State = Literal["asked", "closing", "scheduled", "made", "done", "failed", "withdrawn"]
SECOND = timedelta(seconds=1)
LAST_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Change:
    """A change of plan as it is stored."""

    change_id: str
    subscription_id: str
    account_id: str
    asked_by: Literal["customer", "provider"]
    timing: When
    from_product_id: str
    from_catalogue_version: int
    product_id: str
    catalogue_version: int
    state: State
    revision: int
    effective_at: datetime
    settled_start: datetime | None  # of the old plan's last segment, when its usage is at Stripe
    settled_end: datetime | None
    then_cancel: bool

    def holds(self, product_id: str | None, catalogue_version: int | None) -> bool:
        """Whether usage of this plan is that of the old one; a segment closed before it said its plan is taken for it."""
        return product_id is None or (product_id, catalogue_version) == (self.from_product_id, self.from_catalogue_version)

    @property
    def same_product(self) -> bool:
        return self.product_id == self.from_product_id

    @property
    def gives_way(self) -> bool:
        """Whether the customer's own change takes the place of this one: new prices that wait for the next period."""
        return self.asked_by == "provider" and self.timing == "period_end" and self.state in {"asked", "scheduled"}

    def again(self, after: "Change") -> "Change":
        """Return this one anew, as it was planned before another one that came to nothing."""
        change_id = str(derive_id("migration", self.change_id, after.change_id))
        return replace(self, change_id=change_id, state="asked", revision=0)


@dataclass(frozen=True)
class Item:
    """One item of the subscription at Stripe."""

    item_id: str
    price_id: str
    metered: bool
    quantity: int | None = None


def fees_since(product: Product, *, started_at: datetime, shown_at: datetime | None, asked_at: datetime) -> datetime:
    """Return the second from which the fees of a change are reckoned: that of the price shown, unless that is too long ago."""
    begin = max(period_at(product, started_at=started_at, at=asked_at).start, started_at)
    fresh = shown_at is not None and max(begin, asked_at - SHOWN_FOR) <= shown_at <= asked_at
    return (shown_at if fresh and shown_at else asked_at).astimezone(UTC).replace(microsecond=0)


def next_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0) + SECOND


def metadata_of(change: Change, *, since: datetime) -> dict[str, str]:
    """Return what the subscription at Stripe must say of its new plan."""
    return {
        "turnpike_product_id": change.product_id,
        "turnpike_catalogue_version": str(change.catalogue_version),
        "turnpike_plan_since": since.astimezone(UTC).isoformat(),
        "turnpike_change_id": change.change_id,
    }


def items_of_change(items: Sequence[Item], prices: Mapping[str, str], *, keep_metered: bool) -> list[dict[str, Any]]:
    """Return the items of an update that leads to these prices (component -> price; `setup` is no item).

    With `keep_metered` the old usage prices stay: what was used under them is not all at Stripe yet. Without, they go first, also one that
    comes again: the new plan begins with nothing used.
    """
    base = prices.get("base")
    fees = [item for item in items if not item.metered and item.price_id != base]
    changed: list[dict[str, Any]] = []
    if base is not None and base not in {item.price_id for item in items}:
        old = fees.pop(0) if fees else None
        changed.append({"id": old.item_id, "price": base, "quantity": old.quantity or 1} if old else {"price": base, "quantity": 1})
    changed += [{"id": item.item_id, "deleted": True} for item in fees]
    metered = [item for item in items if item.metered]
    if not keep_metered:
        changed += [{"id": item.item_id, "deleted": True} for item in metered]
    there = {item.price_id for item in metered} if keep_metered else set()
    usage = [price for component, price in prices.items() if component not in {"base", "setup"}]
    return [*changed, *({"price": price} for price in usage if price not in there)]


def one_off(prices: Mapping[str, str], change: Change) -> dict[str, Any]:
    """Return the setup fee of a product that is new to this subscription."""
    if change.same_product or "setup" not in prices:
        return {}
    return {"add_invoice_items": [{"price": prices["setup"], "quantity": 1}]}


def since_of(change: Change, *, period_start: datetime, now: datetime) -> datetime:
    """Return from when the new fees count when a period has begun after the change was asked for: Stripe prorates within one only."""
    if change.effective_at >= period_start:
        return change.effective_at
    return now.astimezone(UTC).replace(microsecond=0) if change.asked_by == "customer" else period_start


def update_now(items: Sequence[Item], prices: Mapping[str, str], change: Change, *, since: datetime) -> dict[str, Any]:
    """Return the update that makes a change now.

    One that a customer asked for is paid at once, or not made; the old usage follows when all of it is at Stripe. One that the provider
    asked for waits for the next invoice: nobody's card is charged unasked.
    """
    paid_now = {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
    asked = change.asked_by == "customer"
    return {
        "items": items_of_change(items, prices, keep_metered=asked),
        "metadata": metadata_of(change, since=since),
        "proration_date": int(since.timestamp()),
        **(paid_now if asked else {"proration_behavior": "create_prorations"}),
        **one_off(prices, change),
    }


def removal(items: Sequence[Item], prices: Mapping[str, str], change: Change, *, period_start: datetime) -> dict[str, Any] | None:
    """Return the update that bills and removes the usage prices of the old plan; None when they are gone.

    In a later period they have nothing to bill: Stripe has invoiced them at its end.
    """
    kept = set(prices.values())
    old = [{"id": item.item_id, "deleted": True} for item in items if item.metered and item.price_id not in kept]
    if not old:
        return None
    return {"items": old, "proration_behavior": "none" if period_start > change.effective_at else "always_invoice"}


def phases(items: Sequence[Item], prices: Mapping[str, str], change: Change, *, start: int, end: int) -> list[dict[str, Any]]:
    """Return the phases of a schedule: what runs now, then the new plan.

    At a period's end nothing is left to prorate; `create_prorations` keeps Stripe from dropping usage of a price that is removed.
    """
    present = [{"price": item.price_id, **({} if item.metered else {"quantity": item.quantity or 1})} for item in items]
    quantity = next((item.quantity for item in items if not item.metered and item.quantity), 1)
    coming = [
        {"price": price, **({"quantity": quantity} if component == "base" else {})}
        for component, price in prices.items()
        if component != "setup"
    ]
    return [
        {"items": present, "start_date": start, "end_date": end},
        {
            "items": coming,
            "metadata": metadata_of(change, since=datetime.fromtimestamp(end, UTC)),
            "proration_behavior": "create_prorations",
            **one_off(prices, change),
        },
    ]
