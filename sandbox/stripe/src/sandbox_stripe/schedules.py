"""Subscription schedules: what a running subscription consists of from a later period on."""

from sandbox_stripe import changes, lifecycle, lines, periods, status
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.errors import Json, invalid, missing_parameter
from sandbox_stripe.world import World, merge_metadata

ACTIVE = frozenset({"active", "not_started"})


@route("post", "/v1/subscription_schedules")
def create_schedule(call: Call) -> Json:
    """Take over a running subscription: what it consists of now is the first phase, up to the end of the period."""
    given, world = call.params, call.world
    if not given.get("from_subscription"):
        message = "This sandbox makes schedules of running subscriptions only."
        raise invalid(message, "from_subscription", "parameter_missing")
    if given.get("phases"):
        raise invalid("You cannot set `phases` if `from_subscription` is set.", "phases")
    subscription = world.get("subscription", given["from_subscription"], "from_subscription", status=400)
    if subscription["status"] in status.ENDED or subscription["cancel_at"]:
        raise invalid("You cannot migrate a subscription that is canceled or about to be.", "from_subscription")
    if subscription["schedule"]:
        raise invalid(f"The subscription is already attached to the schedule `{subscription['schedule']}`.", "from_subscription")
    schedule = world.new("subscription_schedule", _body(world, subscription), of=subscription)
    merge_metadata(schedule, given)
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["schedule"] = schedule["id"]
    world.emit("subscription_schedule.created", world.store.save(schedule))
    return call.show(schedule)


def _body(world: World, subscription: Json) -> Json:
    items = lifecycle.items_of(world.store, subscription)
    start, end = items[0]["current_period_start"], items[0]["current_period_end"]
    phase = _phase(subscription, [_phase_item(item["_price"], item["quantity"]) for item in items], start, end)
    settings = {
        "application_fee_percent": None, "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": "automatic", "billing_thresholds": None, "collection_method": subscription["collection_method"],
        "default_payment_method": None, "description": None, "invoice_settings": {"account_tax_ids": None, "custom_fields": None,
        "days_until_due": None, "description": None, "footer": None, "issuer": {"type": "self"}},
        "on_behalf_of": None, "transfer_data": None,
    }  # fmt: skip
    return {
        "application": None, "billing_mode": subscription["billing_mode"], "canceled_at": None, "completed_at": None,
        "current_phase": {"start_date": start, "end_date": end}, "customer": subscription["customer"], "customer_account": None,
        "default_settings": settings, "end_behavior": "release", "metadata": {}, "pause_schedules": [], "phases": [phase],
        "released_at": None, "released_subscription": None, "status": "active", "subscription": subscription["id"],
        "test_clock": subscription["test_clock"],
    }  # fmt: skip


def _phase_item(price: str, quantity: int | None) -> Json:
    counted = {} if quantity is None else {"quantity": quantity}
    return {"billing_thresholds": None, "discounts": [], "metadata": {}, "plan": price, "price": price, "tax_rates": [], **counted}


def _one_off(item: Json) -> Json:
    period = {"start": {"timestamp": None, "type": "max_item_period_start"}, "end": {"timestamp": None, "type": "min_item_period_end"}}
    return {
        "discounts": [], "metadata": item["metadata"], "period": period, "price": item["price"]["id"], "quantity": item["quantity"],
        "tax_rates": [],
    }  # fmt: skip


def _phase(subscription: Json, items: list[Json], start: int, end: int, *, proration: str = "create_prorations") -> Json:
    return {
        "add_invoice_items": [], "application_fee_percent": None, "automatic_tax": None, "billing_cycle_anchor": None,
        "billing_thresholds": None, "collection_method": None, "currency": subscription["currency"], "default_payment_method": None,
        "default_tax_rates": [], "description": None, "discounts": [], "end_date": end, "invoice_settings": None, "items": items,
        "metadata": {}, "on_behalf_of": None, "proration_behavior": proration, "start_date": start, "transfer_data": None,
        "trial_end": None,
    }  # fmt: skip


@route("get", "/v1/subscription_schedules/{schedule}")
def retrieve_schedule(call: Call) -> Json:
    return call.show(call.world.get("subscription_schedule", call.id, "schedule"))


@route("get", "/v1/subscription_schedules")
def list_schedules(call: Call) -> Json:
    columns = {"customer": call.params["customer"]} if call.params.get("customer") else {}
    return call.page("subscription_schedule", keep=equal(call.params, "status"), **columns)


@route("post", "/v1/subscription_schedules/{schedule}")
def update_schedule(call: Call) -> Json:
    """Say anew what comes when. The phase that runs must be among the phases; later ones begin where the one before ends."""
    given, world = call.params, call.world
    schedule = _running(call)
    subscription = world.get("subscription", schedule["subscription"])
    with world.changing(schedule, "subscription_schedule.updated"):
        if given.get("phases"):
            schedule["phases"] = _phases(world, subscription, schedule, given["phases"])
            schedule["current_phase"] = {name: schedule["phases"][0][name] for name in ("start_date", "end_date")}
        if given.get("end_behavior") not in {None, "release"}:
            message = "This sandbox releases the subscription after the last phase; it knows no other `end_behavior`."
            raise invalid(message, "end_behavior")
        merge_metadata(schedule, given)
    return call.show(schedule)


def _running(call: Call) -> Json:
    schedule = call.world.get("subscription_schedule", call.id, "schedule")
    if schedule["status"] not in ACTIVE:
        raise invalid(f"You cannot change a subscription schedule that is in the `{schedule['status']}` status.", "schedule")
    return schedule


def _phases(world: World, subscription: Json, schedule: Json, given: list[Json]) -> list[Json]:
    begin, made = schedule["current_phase"]["start_date"], []
    for index, one in enumerate(given):
        param = f"phases[{index}]"
        if one.get("start_date", begin) != begin:
            raise invalid("A phase must start where the one before it ends; the first one is the phase that runs.", f"{param}[start_date]")
        end = _end(subscription, one, begin)
        if end <= world.now(subscription) or not _is_boundary(subscription, end):
            message = "In this sandbox a phase ends at the end of a billing period that has not passed."
            raise invalid(message, f"{param}[end_date]")
        items = _items(world, subscription, one, f"{param}[items]", runs=index == 0)
        phase = _phase(subscription, items, begin, end, proration=one.get("proration_behavior", "create_prorations"))
        once = changes.one_offs(world, one.get("add_invoice_items") or [], f"{param}[add_invoice_items]", subscription["currency"])
        phase["add_invoice_items"] = [_one_off(item) for item in once]
        merge_metadata(phase, one)
        made.append(phase)
        begin = end
    return made


def _end(subscription: Json, one: Json, begin: int) -> int:
    if one.get("end_date"):
        return int(one["end_date"])
    if not one.get("duration"):
        return lifecycle.next_period(subscription, begin)[1]
    every = one["duration"]
    return periods.boundary(begin, every["interval"], every.get("interval_count", 1), 1, day=subscription["_anchor_day"])


def _is_boundary(subscription: Json, moment: int) -> bool:
    anchor, day = subscription["billing_cycle_anchor"], subscription["_anchor_day"]
    return periods.last_boundary(anchor, subscription["_interval"], subscription["_interval_count"], moment, day=day) == moment


def _items(world: World, subscription: Json, phase: Json, name: str, *, runs: bool) -> list[Json]:
    """Read the items of a phase. What the subscription has already may be archived: its subscribers stay on it."""
    if not phase.get("items"):
        raise missing_parameter(name)
    held = {item["_price"] for item in lifecycle.items_of(world.store, subscription)} if runs else set()
    wanted, found = [], []
    for index, one in enumerate(phase["items"]):
        param = f"{name}[{index}]"
        if not one.get("price"):
            raise missing_parameter(f"{param}[price]")
        if one["price"] in held:
            price = world.get("price", one["price"])
        else:
            price = changes.chosen_price(world, one["price"], f"{param}[price]", subscription["currency"])
        wanted.append({"price": price})
        found.append(_phase_item(price["id"], changes.quantity_for(price, one, param)))
    changes.check_recurring(wanted, name)
    every = wanted[0]["price"]["recurring"]
    if (every["interval"], every["interval_count"]) != (subscription["_interval"], subscription["_interval_count"]):
        message = "This sandbox does not move the billing cycle of a running subscription."
        raise invalid(message, name)
    return found


@route("post", "/v1/subscription_schedules/{schedule}/release")
def release_schedule(call: Call) -> Json:
    """Leave the subscription as it is; what was planned does not happen."""
    schedule = _running(call)
    let_go(call.world, schedule, "released")
    return call.show(schedule)


def let_go(world: World, schedule: Json, how: str) -> None:
    subscription = world.get("subscription", schedule["subscription"])
    now = world.now(subscription)
    moment = {"released": "released_at", "completed": "completed_at", "canceled": "canceled_at"}[how]
    schedule.update({"status": how, moment: now, "current_phase": None, "subscription": None})
    if how == "released":
        schedule["released_subscription"] = subscription["id"]
    world.store.save(schedule)
    world.emit(f"subscription_schedule.{how}", schedule)
    with world.changing(subscription, "customer.subscription.updated"):
        subscription["schedule"] = None


# --- what the billing engine asks ---


def due_phase(world: World, subscription: Json, now: int) -> Json | None:
    """Return the phase that begins now, if one does; a schedule whose last phase is over lets go."""
    schedule = world.store.find(subscription["schedule"]) if subscription["schedule"] else None
    if schedule is None or now < schedule["current_phase"]["end_date"]:
        return None
    following: Json | None = next((phase for phase in schedule["phases"] if phase["start_date"] == now), None)
    if following is None:
        let_go(world, schedule, "completed")
    return following


def enter(world: World, subscription: Json, phase: Json, period: tuple[int, int]) -> list[Json]:
    """Make the subscription what the phase says; returns the base fees that are due in advance. One-off prices wait for the draft."""
    schedule = world.get("subscription_schedule", subscription["schedule"])
    with world.changing(schedule, "subscription_schedule.updated"):
        schedule["current_phase"] = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    wanted = {item["price"]: item for item in phase["items"]}
    for item in lifecycle.items_of(world.store, subscription):
        if (stays := wanted.pop(item["_price"], None)) is None:
            world.store.delete(item["id"])
        else:
            item["quantity"] = stays.get("quantity")
            world.store.save(item)
    for price, one in wanted.items():
        lifecycle.add_item(world, subscription, {"price": world.get("price", price), "quantity": one.get("quantity")}, period)
    merge_metadata(subscription, {"metadata": phase["metadata"]})
    once = [
        {**one, "price": world.get("price", one["price"])} for one in phase["add_invoice_items"]
    ]  # archived since: charged all the same
    changes.add_once(world, subscription, once, period)
    specs: list[Json] = []
    for item in lifecycle.items_of(world.store, subscription):
        price_now = lines.price_of(world, item, subscription["currency"])
        if not lines.is_metered(price_now):
            specs += lines.advance(world, price_now, item, period)
    return specs
