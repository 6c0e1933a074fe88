"""A subscription's status: who may change it, and what ends with it."""

from sandbox_stripe.errors import Json
from sandbox_stripe.world import World

ENDED = frozenset({"canceled", "incomplete_expired"})


def subscription_of(world: World, invoice: Json) -> Json | None:
    id_ = invoice.get("_subscription")
    return world.store.find(id_, "subscription") if id_ else None


def set_status(world: World, subscription: Json, status: str) -> None:
    if subscription["status"] in ENDED or subscription["status"] == status:
        return
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["status"] = status


def set_delinquent(world: World, customer_id: str, *, delinquent: bool) -> None:
    customer = world.store.find(customer_id, "customer")
    if customer and customer["delinquent"] != delinquent:
        with world.changing(customer, "customer.updated"):
            customer["delinquent"] = delinquent


def end(world: World, subscription: Json, reason: str, *, status: str = "canceled") -> None:
    """End a subscription for good. What it still owes has been put on an invoice before."""
    now = world.now(subscription)
    subscription.update(status=status, ended_at=now, canceled_at=subscription["canceled_at"] or now)
    subscription["cancellation_details"] = {
        **subscription["cancellation_details"],
        "reason": subscription["cancellation_details"]["reason"] or reason,
    }
    world.store.unschedule(subscription["id"], "period_end", "cancel_at", "expire_incomplete")
    if schedule := world.store.find(subscription["schedule"]) if subscription["schedule"] else None:
        schedule.update(status="canceled", canceled_at=now, current_phase=None)
        world.emit("subscription_schedule.canceled", world.store.save(schedule))
    world.store.save(subscription)
    world.emit("customer.subscription.deleted" if status == "canceled" else "customer.subscription.updated", subscription)
