"""A subscription's life: start, period ends, trial ends, cancellation; and the transitions that time brings."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox_stripe import invoicing, lines, payments, periods, status
from sandbox_stripe.cards import Decline
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.store import Store
from sandbox_stripe.world import World

INCOMPLETE_SECONDS = 23 * 3_600


@dataclass(frozen=True)
class Order:
    """What a customer subscribes to. Each item: price (stored object), quantity (None when metered), metadata."""

    customer: Json
    items: list[Json]
    currency: str
    metadata: Json = field(default_factory=dict)
    one_time: list[Json] = field(default_factory=list)
    default_payment_method: str | None = None
    anchor: int | None = None
    anchor_config: Json | None = None
    trial_end: int | None = None
    proration: str = "create_prorations"
    description: str | None = None
    billing_mode: str = "flexible"
    collection_method: str = "charge_automatically"
    days_until_due: int | None = None
    trial_behavior: str = "create_invoice"


@dataclass(frozen=True)
class Schedule:
    """The first period of an order. `whole` is the full period that a part belongs to, where it starts in the middle of one."""

    start: int
    end: int
    anchor: int
    day: int | None
    trial: bool
    whole: tuple[int, int] | None


def plan_first_period(order: Order, now: int) -> Schedule:
    recurring = order.items[0]["price"]["recurring"]
    interval, count = recurring["interval"], recurring["interval_count"]
    if order.trial_end and order.trial_end > now:
        return Schedule(now, order.trial_end, order.trial_end, None, trial=True, whole=None)
    anchor, day = order.anchor, None
    if order.anchor_config:
        anchor, day = periods.anchor_from_config(order.anchor_config, now, interval), order.anchor_config["day_of_month"]
    if anchor is None:
        return Schedule(now, periods.next_boundary(now, interval, count, now), now, None, trial=False, whole=None)
    latest = periods.boundary(now, interval, count, 1)
    if not now < anchor <= latest + 1:
        message = f"`billing_cycle_anchor` must be in the future and not later than the next natural billing date ({latest})."
        raise invalid(message, "billing_cycle_anchor")
    whole = (periods.boundary(anchor, interval, count, -1, day=day), anchor)
    return Schedule(now, anchor, anchor, day, trial=False, whole=None if whole[0] == now else whole)


def first_lines(world: World, order: Order, plan: Schedule, items: list[Json]) -> list[Json]:
    """Return what is due at once: one-off prices, then base fees of the first period (or their part of it)."""
    period, specs = (plan.start, plan.end), []
    for one in order.one_time:
        specs += lines.advance(
            world, lines.price_in(one["price"], order.currency), {"id": None, "quantity": one["quantity"]}, (plan.start, plan.start)
        )
    for item, wanted in zip(items, order.items, strict=True):
        price = lines.price_in(wanted["price"], order.currency)
        if lines.is_metered(price):
            if order.billing_mode == "classic":
                specs += lines.usage(world, price, item, "", period)
        elif plan.trial:
            specs.append(lines.trial(world, price, item, period))
        elif plan.whole is None:
            specs += lines.advance(world, price, item, period)
        elif order.proration != "none":
            specs.append(lines.part(world, price, item, period, plan.whole))
    return specs


def start(world: World, order: Order) -> Json:
    """Create the subscription, its first invoice and the charge for it."""
    now = world.now(order.customer)
    plan = plan_first_period(order, now)
    subscription = world.new("subscription", _body(order, plan), of=order.customer)
    items = [add_item(world, subscription, one, (plan.start, plan.end)) for one in order.items]
    if order.customer["currency"] is None:
        order.customer["currency"] = order.currency
        world.store.save(order.customer)
    world.emit("customer.subscription.created", subscription)
    _schedule_end(world, subscription, plan.end)
    specs = first_lines(world, order, plan, items)
    if specs:
        invoice = invoicing.draft(
            world, order.customer, subscription, reason="subscription_create", period=(now, now), specs=specs, auto=False
        )
        invoice["auto_advance"] = True
        settle_now(world, invoice)
    if subscription["status"] == "incomplete" and (not specs or subscription["collection_method"] == "send_invoice"):
        status.set_status(world, subscription, "active")
    if subscription["status"] == "incomplete":
        world.store.schedule("expire_incomplete", subscription["id"], now + INCOMPLETE_SECONDS, subscription["test_clock"])
    return subscription


def settle_now(world: World, invoice: Json) -> Decline | None:
    """Finalize and charge without a draft time: first invoices, changes billed at once, cancellations with invoice_now."""
    invoicing.finalize(world, invoice)
    if invoice["collection_method"] == "send_invoice":
        return None
    return payments.collect(world, invoice)


def _body(order: Order, plan: Schedule) -> Json:
    recurring = order.items[0]["price"]["recurring"]
    nothing = dict.fromkeys((
        "application", "application_fee_percent", "billing_thresholds", "cancel_at", "canceled_at", "customer_account", "default_source",
        "ended_at", "latest_invoice", "next_pending_invoice_item_invoice", "on_behalf_of", "pause_collection",
        "pending_invoice_item_interval",
        "pending_setup_intent", "pending_update", "schedule", "transfer_data",
    ))  # fmt: skip
    config = order.anchor_config and {unit: order.anchor_config.get(unit) for unit in ("day_of_month", "hour", "minute", "month", "second")}
    flexible = {"proration_discounts": "included"} if order.billing_mode == "flexible" else None
    return {
        **nothing, "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None}, "billing_cycle_anchor": plan.anchor,
        "billing_cycle_anchor_config": config, "billing_mode": {"flexible": flexible, "type": order.billing_mode}, "billing_schedules": [],
        "cancel_at_period_end": False, "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": order.collection_method, "currency": order.currency, "customer": order.customer["id"],
        "days_until_due": order.days_until_due, "default_payment_method": order.default_payment_method, "default_tax_rates": [],
        "description": order.description, "discounts": [], "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "metadata": dict(order.metadata), "start_date": plan.start, "status": "trialing" if plan.trial else "incomplete",
        "payment_settings": {"payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off"},
        "test_clock": order.customer["test_clock"], "trial_end": plan.end if plan.trial else None,
        "trial_start": plan.start if plan.trial else None,
        "trial_settings": {"end_behavior": {"missing_payment_method": order.trial_behavior}}, "_anchor_day": plan.day,
        "_interval": recurring["interval"], "_interval_count": recurring["interval_count"], "_parent": order.customer["test_clock"],
    }  # fmt: skip


def add_item(world: World, subscription: Json, wanted: Json, period: tuple[int, int]) -> Json:
    item = world.new("subscription_item", {
        "billing_thresholds": None, "current_period_end": period[1], "current_period_start": period[0], "discounts": [],
        "metadata": wanted.get("metadata") or {}, "quantity": wanted.get("quantity"), "subscription": subscription["id"], "tax_rates": [],
        "billed_until": None, "_price": wanted["price"]["id"], "_parent": subscription["id"],
    }, of=subscription)  # fmt: skip
    item.pop("livemode")  # items have no such field
    return world.store.save(item)


def _schedule_end(world: World, subscription: Json, end: int) -> None:
    world.store.schedule("period_end", subscription["id"], end, subscription["test_clock"])


def items_of(store: Store, subscription: Json) -> list[Json]:
    return list(store.select("subscription_item", parent=subscription["id"]))


def next_period(subscription: Json, begin: int) -> tuple[int, int]:
    end = periods.next_boundary(
        subscription["billing_cycle_anchor"],
        subscription["_interval"],
        subscription["_interval_count"],
        begin,
        day=subscription["_anchor_day"],
    )
    return begin, end


def whole_period(subscription: Json, end: int) -> tuple[int, int]:
    """Return the full interval up to the end of a period. A first period that is shorter was charged by its share of this one."""
    interval, count, anchor = subscription["_interval"], subscription["_interval_count"], subscription["billing_cycle_anchor"]
    return periods.last_boundary(anchor, interval, count, end - 1, day=subscription["_anchor_day"]), end


def cycle_lines(world: World, subscription: Json, closed_at: int, following: tuple[int, int] | None) -> list[Json]:
    """Return usage of the closed period in arrears and, unless the subscription ends, base fees of the next in advance."""
    specs: list[Json] = []
    for item in items_of(world.store, subscription):
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
    items = items_of(world.store, subscription)
    customer = world.get("customer", subscription["customer"])
    closed = (min(item["current_period_start"] for item in items), now)
    ends = subscription["cancel_at_period_end"] or (subscription["cancel_at"] is not None and subscription["cancel_at"] <= now)
    if ends:
        finish(world, subscription, customer, closed, "cancellation_requested")
        return
    following = next_period(subscription, now)
    specs = cycle_lines(world, subscription, now, following)
    with world.changing(subscription, "customer.subscription.updated"):
        for item in items:
            item.update(current_period_start=following[0], current_period_end=following[1])
            item.pop("_usage_from", None)
            world.store.save(item)
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        auto = subscription["status"] not in {"unpaid", "paused"}
        if specs or subscription["billing_mode"]["type"] == "classic":
            invoicing.draft(world, customer, subscription, reason="subscription_cycle", period=closed, specs=specs, auto=auto)
    _schedule_end(world, subscription, following[1])


def finish(world: World, subscription: Json, customer: Json, closed: tuple[int, int], reason: str) -> None:
    """End at a period's end or at `cancel_at`: the last usage goes on a draft that turns final like any other."""
    specs = cycle_lines(world, subscription, closed[1], None)
    if specs or invoicing.pending_items(world, customer["id"], subscription["id"], subscription["currency"]):
        auto = subscription["status"] not in {"unpaid", "paused"}
        invoicing.draft(world, customer, subscription, reason="subscription_cycle", period=closed, specs=specs, auto=auto)
    status.end(world, subscription, reason)


def on_cancel_at(world: World, id_: str) -> None:
    subscription = world.get("subscription", id_)
    begin = min(item["current_period_start"] for item in items_of(world.store, subscription))
    customer = world.get("customer", subscription["customer"])
    finish(world, subscription, customer, (begin, world.now(subscription)), "cancellation_requested")


def cancel_now(world: World, subscription: Json, *, invoice_now: bool, prorate: bool) -> None:
    """End at once. Without `invoice_now`, usage that was not invoiced is lost, as at Stripe; without `prorate` too, what waits is."""
    now = world.now(subscription)
    customer = world.get("customer", subscription["customer"])
    specs: list[Json] = []
    items = items_of(world.store, subscription)
    if invoice_now and subscription["status"] not in {"incomplete", "unpaid"}:
        specs += cycle_lines(world, subscription, now, None)
    if prorate and subscription["status"] in {"active", "past_due"}:
        for item in items:
            price = lines.price_of(world, item, subscription["currency"])
            whole = whole_period(subscription, item["current_period_end"])
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
        settle_now(world, invoice)


def on_finalize(world: World, id_: str) -> None:
    invoice = world.get("invoice", id_)
    if invoicing.is_held_back(world, invoice):
        invoicing.postpone(world, invoice)
        return
    settle_now(world, invoice)


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
