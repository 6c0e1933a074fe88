"""A subscription's beginning: order, first period, first invoice; and what it consists of."""

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
    schedule_end(world, subscription, plan.end)
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


def schedule_end(world: World, subscription: Json, end: int) -> None:
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
