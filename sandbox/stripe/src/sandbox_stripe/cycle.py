"""What time brings to a subscription: period ends, the end of drafts, retries, cancellation."""

from collections.abc import Callable

from sandbox_stripe import invoicing, lifecycle, lines, payments, schedules, status
from sandbox_stripe.errors import Json
from sandbox_stripe.world import World


def cycle_lines(world: World, subscription: Json, closed_at: int, following: tuple[int, int] | None) -> list[Json]:
    """Return usage of the closed period in arrears and, unless the subscription ends, base fees of the next in advance."""
    specs: list[Json] = []
    for item in lifecycle.items_of(world.store, subscription):
        price = lines.price_of(world, item, subscription["currency"])
        if not lines.is_metered(price):
            specs += lines.advance(world, price, item, following) if following else []
        elif subscription["status"] != "trialing":
            begin = max(item["current_period_start"], item.get("_usage_from", 0))
            specs += lines.usage(world, price, item, subscription["customer"], (begin, closed_at))
    return specs


def on_period_end(world: World, id_: str) -> None:
    """Close a period: draft invoice, then the next period or the end."""
    subscription = world.get("subscription", id_)
    now = world.now(subscription)
    items = lifecycle.items_of(world.store, subscription)
    customer = world.get("customer", subscription["customer"])
    closed = (min(item["current_period_start"] for item in items), now)
    ends = subscription["cancel_at_period_end"] or (subscription["cancel_at"] is not None and subscription["cancel_at"] <= now)
    if ends:
        finish(world, subscription, customer, closed, "cancellation_requested")
        return
    following = lifecycle.next_period(subscription, now)
    phase = schedules.due_phase(world, subscription, now)
    specs = cycle_lines(world, subscription, now, None if phase else following)
    with world.changing(subscription, "customer.subscription.updated"):
        if phase:
            specs = [*schedules.enter(world, subscription, phase, following), *specs]
        for item in lifecycle.items_of(world.store, subscription):
            item.update(current_period_start=following[0], current_period_end=following[1])
            item.pop("_usage_from", None)
            world.store.save(item)
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        auto = subscription["status"] not in {"unpaid", "paused"}
        waiting = invoicing.pending_items(world, customer["id"], subscription["id"], subscription["currency"])
        if specs or waiting or subscription["billing_mode"]["type"] == "classic":
            invoicing.draft(world, customer, subscription, reason="subscription_cycle", period=closed, specs=specs, auto=auto)
    lifecycle.schedule_end(world, subscription, following[1])


def finish(world: World, subscription: Json, customer: Json, closed: tuple[int, int], reason: str) -> None:
    """End at a period's end or at `cancel_at`: the last usage goes on a draft that turns final like any other."""
    specs = cycle_lines(world, subscription, closed[1], None)
    if specs or invoicing.pending_items(world, customer["id"], subscription["id"], subscription["currency"]):
        auto = subscription["status"] not in {"unpaid", "paused"}
        invoicing.draft(world, customer, subscription, reason="subscription_cycle", period=closed, specs=specs, auto=auto)
    status.end(world, subscription, reason)


def on_cancel_at(world: World, id_: str) -> None:
    subscription = world.get("subscription", id_)
    begin = min(item["current_period_start"] for item in lifecycle.items_of(world.store, subscription))
    customer = world.get("customer", subscription["customer"])
    finish(world, subscription, customer, (begin, world.now(subscription)), "cancellation_requested")


def cancel_now(world: World, subscription: Json, *, invoice_now: bool, prorate: bool) -> None:
    """End at once. Without `invoice_now`, usage that was not invoiced is lost, as at Stripe; without `prorate` too, what waits is."""
    now = world.now(subscription)
    customer = world.get("customer", subscription["customer"])
    specs: list[Json] = []
    items = lifecycle.items_of(world.store, subscription)
    if invoice_now and subscription["status"] not in {"incomplete", "unpaid"}:
        specs += cycle_lines(world, subscription, now, None)
    if prorate and subscription["status"] in {"active", "past_due"}:
        for item in items:
            price = lines.price_of(world, item, subscription["currency"])
            whole = lifecycle.whole_period(subscription, item["current_period_end"])
            if not lines.is_metered(price) and now < whole[1]:
                specs.append(lines.part(world, price, item, (now, whole[1]), whole, credit=True))
    begin = min(item["current_period_start"] for item in items)
    invoice = None
    waiting = invoicing.pending_items(world, customer["id"], subscription["id"], subscription["currency"])
    if not invoice_now and not prorate:
        for one in waiting:
            if one["proration"]:
                world.store.delete(one["id"])
    if invoice_now and (specs or waiting):
        invoice = invoicing.draft(world, customer, subscription, reason="subscription_update", period=(begin, now), specs=specs, auto=False)
        invoice["auto_advance"] = True
    status.end(world, subscription, "cancellation_requested")
    if invoice:
        lifecycle.settle_now(world, invoice)


def on_finalize(world: World, id_: str) -> None:
    invoice = world.get("invoice", id_)
    if invoicing.is_held_back(world, invoice):
        invoicing.postpone(world, invoice)
        return
    lifecycle.settle_now(world, invoice)


def on_retry(world: World, id_: str) -> None:
    payments.collect(world, world.get("invoice", id_))


def on_incomplete(world: World, id_: str) -> None:
    subscription = world.get("subscription", id_)
    for invoice in list(world.store.select("invoice", parent=id_, status="open")):
        void(world, invoice)
    status.end(world, subscription, "payment_failed", status="incomplete_expired")


def void(world: World, invoice: Json) -> None:
    invoice.update(status="void", next_payment_attempt=None, auto_advance=False, amount_remaining=0)
    invoice["status_transitions"]["voided_at"] = world.now(invoice)
    world.store.unschedule(invoice["id"], "retry", "finalize")
    world.store.save(invoice)
    world.emit("invoice.voided", invoice)


TRANSITIONS: dict[str, Callable[[World, str], None]] = {
    "period_end": on_period_end, "cancel_at": on_cancel_at, "finalize": on_finalize, "retry": on_retry, "expire_incomplete": on_incomplete,
}  # fmt: skip


def run_due(world: World, now: int, clock: str = "", *, limit: int = 1_000_000) -> int:
    """Make every transition that is due, in time order, each in its own transaction and at its own moment."""
    done = 0
    while done < limit:
        found = world.store.next_transition(clock)
        if found is None or found[2] > now:
            break
        kind, id_, due = found
        with world.store.transaction(), world.at(due):
            world.store.unschedule(id_, kind)
            if world.store.find(id_) is not None:
                TRANSITIONS[kind](world, id_)
        done += 1
    return done
