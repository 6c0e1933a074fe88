"""Subscriptions and subscription items over the API."""

from sandbox_stripe import changes, cycle, lifecycle, payments, status
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.errors import Json, declined, invalid, missing_parameter
from sandbox_stripe.render import page
from sandbox_stripe.world import World, merge_metadata

TERMINAL = "This subscription is canceled and can only update its cancellation_details and metadata."


@route("post", "/v1/subscriptions")
def create_subscription(call: Call) -> Json:
    given, world = call.params, call.world
    call.require("customer", "items")
    customer = world.get("customer", given["customer"], "customer", status=400)
    order = order_from(world, customer, given, "items")
    if given.get("default_payment_method"):
        _own_method(world, customer, given["default_payment_method"])
    behavior = given.get("payment_behavior", "allow_incomplete")
    subscription = lifecycle.start(world, order)
    if behavior == "error_if_incomplete" and subscription["status"] == "incomplete":
        refusal = payments.NO_METHOD
        error = declined(refusal.code, refusal.decline_code, "The subscription's first payment failed.")
        error.commit = False
        raise error
    set_cancellation(world, subscription, given)
    return call.show(world.store.save(subscription))


def order_from(world: World, customer: Json, given: Json, name: str) -> lifecycle.Order:
    currency = given.get("currency")
    items = changes.wanted_items(world, given.get("items") or [], name, currency)
    if not items:
        raise missing_parameter(name)
    changes.check_recurring(items, name)
    currency = currency or customer["currency"] or items[0]["price"]["currency"]
    for index, item in enumerate(items):
        changes.chosen_price(world, item["price"]["id"], f"{name}[{index}][price]", currency)
    once = changes.one_offs(world, given.get("add_invoice_items") or [], "add_invoice_items", currency)
    now = world.now(customer)
    trial_end = now if given.get("trial_end") == "now" else given.get("trial_end")
    if given.get("trial_period_days"):
        trial_end = now + given["trial_period_days"] * 86_400
    if given.get("billing_cycle_anchor_config") and (trial_end or given.get("billing_cycle_anchor")):
        raise invalid(
            "`billing_cycle_anchor_config` cannot be combined with trials or `billing_cycle_anchor`.", "billing_cycle_anchor_config"
        )
    end_behavior = (given.get("trial_settings") or {}).get("end_behavior") or {}
    return lifecycle.Order(
        customer=customer, items=items, currency=currency, metadata=_metadata(given), one_time=once,
        default_payment_method=given.get("default_payment_method"), anchor=given.get("billing_cycle_anchor"),
        anchor_config=given.get("billing_cycle_anchor_config"), trial_end=trial_end, proration=given.get("proration_behavior",
        "create_prorations"),
        description=given.get("description"), billing_mode=(given.get("billing_mode") or {}).get("type", "flexible"),
        collection_method=given.get("collection_method", "charge_automatically"), days_until_due=given.get("days_until_due"),
        trial_behavior=end_behavior.get("missing_payment_method", "create_invoice"),
    )  # fmt: skip


def _metadata(given: Json) -> Json:
    body: Json = {"metadata": {}}
    merge_metadata(body, given)
    found: Json = body["metadata"]
    return found


def _own_method(world: World, customer: Json, id_: str) -> None:
    method = world.get("payment_method", id_, "default_payment_method", status=400)
    if method["customer"] != customer["id"]:
        message = f"The customer does not have a payment method with the ID {id_}. The payment method must be attached to the customer."
        raise invalid(message, "default_payment_method", "resource_missing")


@route("get", "/v1/subscriptions/{subscription_exposed_id}")
def retrieve_subscription(call: Call) -> Json:
    return call.show(call.world.get("subscription", call.id))


@route("get", "/v1/subscriptions")
def list_subscriptions(call: Call) -> Json:
    given, store = call.params, call.world.store
    wanted, price = given.get("status"), given.get("price")

    def keep(one: Json) -> bool:
        fits = wanted == "all" or (one["status"] not in status.ENDED if wanted in {None, "ended"} else one["status"] == wanted)
        if wanted == "ended":
            fits = one["status"] in status.ENDED
        return fits and (not price or any(item["_price"] == price for item in lifecycle.items_of(store, one)))

    same = equal(given, "collection_method", "test_clock")
    columns = {"customer": given["customer"]} if given.get("customer") else {}
    return call.page("subscription", keep=lambda one: keep(one) and same(one), **columns)


@route("post", "/v1/subscriptions/{subscription_exposed_id}")
def update_subscription(call: Call) -> Json:
    given, world = call.params, call.world
    subscription = world.get("subscription", call.id)
    if subscription["status"] in status.ENDED and set(given) - {"metadata", "cancellation_details"}:
        raise invalid(TERMINAL)
    if (given.get("billing_cycle_anchor") or {}).get("type") == "now":
        raise invalid("This sandbox does not move the billing cycle of a running subscription.", "billing_cycle_anchor")
    customer = world.get("customer", subscription["customer"])
    if given.get("default_payment_method"):
        _own_method(world, customer, given["default_payment_method"])
    with world.changing(subscription, "customer.subscription.updated"):
        merge_metadata(subscription, given)
        _set_simple(subscription, given)
        set_cancellation(world, subscription, given)
        if given.get("trial_end"):
            _end_trial(world, subscription, given["trial_end"])
        once = changes.one_offs(world, given.get("add_invoice_items") or [], "add_invoice_items", subscription["currency"])
        changes.add_once(world, subscription, once)
        if given.get("items"):
            _change_items(world, subscription, given)
    return call.show(subscription)


def _change_items(world: World, subscription: Json, given: Json) -> None:
    """Change items; with `error_if_incomplete` nothing is changed when what is due at once cannot be paid."""
    behavior = given.get("payment_behavior", "allow_incomplete")
    if behavior in {"pending_if_incomplete", "default_incomplete"}:
        message = f"This sandbox does not know the payment behavior {behavior} for a running subscription."
        raise invalid(message, "payment_behavior")
    if subscription["schedule"]:
        message = f"The subscription is managed by the subscription schedule `{subscription['schedule']}`: only that changes items here."
        raise invalid(message, "items")
    prorated = given.get("proration_behavior", "create_prorations")
    invoice = changes.apply(world, subscription, given["items"], prorated, given.get("proration_date"))
    if behavior == "error_if_incomplete" and invoice and invoice["status"] != "paid":
        refusal = payments.refusal_of(payments.method_for(world, invoice)) or payments.NO_METHOD
        error = declined(refusal.code, refusal.decline_code, refusal.message)
        error.commit = False
        raise error


def _set_simple(subscription: Json, given: Json) -> None:
    for name in ("default_payment_method", "description", "pause_collection", "days_until_due"):
        if name in given:
            subscription[name] = None if given[name] == "" else given[name]
    if given.get("pause_collection"):
        subscription["pause_collection"] = {
            "behavior": given["pause_collection"]["behavior"],
            "resumes_at": given["pause_collection"].get("resumes_at"),
        }
    if given.get("collection_method"):
        subscription["collection_method"] = given["collection_method"]
    for name in ("comment", "feedback"):
        if name in (given.get("cancellation_details") or {}):
            subscription["cancellation_details"][name] = given["cancellation_details"][name] or None


def set_cancellation(world: World, subscription: Json, given: Json) -> None:
    """`cancel_at_period_end`, `cancel_at` and how to take them back."""
    if "cancel_at" not in given and "cancel_at_period_end" not in given:
        return
    if subscription["schedule"]:
        message = (
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any cancelation behavior "
            "directly is not allowed. Please update the schedule instead."
        )
        raise invalid(message, "cancel_at_period_end")
    if given.get("cancel_at") and given.get("cancel_at_period_end"):
        raise invalid("You may only specify one of these parameters: cancel_at, cancel_at_period_end.", "cancel_at")
    now = world.now(subscription)
    end = max(item["current_period_end"] for item in lifecycle.items_of(world.store, subscription))
    world.store.unschedule(subscription["id"], "cancel_at")
    moment = given.get("cancel_at") or (end if given.get("cancel_at_period_end") else None)
    if isinstance(moment, str):
        moment = end if not moment.isdigit() else int(moment)
    if moment is not None and moment <= now:
        raise invalid("`cancel_at` must be in the future.", "cancel_at")
    subscription.update(cancel_at=moment, cancel_at_period_end=bool(given.get("cancel_at_period_end")), canceled_at=now if moment else None)
    subscription["cancellation_details"]["reason"] = "cancellation_requested" if moment else None
    if moment and not subscription["cancel_at_period_end"] and moment != end:
        world.store.schedule("cancel_at", subscription["id"], moment, subscription["test_clock"])
    world.store.save(subscription)


def _end_trial(world: World, subscription: Json, trial_end: int | str) -> None:
    """Move or end a running trial: the period's end moves with it."""
    if subscription["status"] != "trialing":
        raise invalid("This sandbox starts trials only with a new subscription.", "trial_end")
    moment = world.now(subscription) if trial_end == "now" else int(trial_end)
    subscription.update(trial_end=moment, billing_cycle_anchor=moment)
    for item in lifecycle.items_of(world.store, subscription):
        item["current_period_end"] = moment
        world.store.save(item)
    world.store.schedule("period_end", subscription["id"], moment, subscription["test_clock"])


@route("delete", "/v1/subscriptions/{subscription_exposed_id}")
def cancel_subscription(call: Call) -> Json:
    given, world = call.params, call.world
    subscription = world.get("subscription", call.id)
    if subscription["status"] in status.ENDED:
        raise invalid(f"No such subscription: '{call.id}'", "id", "resource_missing")
    _set_simple(subscription, {"cancellation_details": given.get("cancellation_details")})
    cycle.cancel_now(world, subscription, invoice_now=given.get("invoice_now", False), prorate=given.get("prorate", False))
    return call.show(subscription)


# --- items ---


@route("get", "/v1/subscription_items")
def list_items(call: Call) -> Json:
    subscription = call.world.get("subscription", call.params["subscription"], "subscription")
    items = [call.show(item) for item in lifecycle.items_of(call.world.store, subscription)]
    return page(items, call.path)


@route("get", "/v1/subscription_items/{item}")
def retrieve_item(call: Call) -> Json:
    return call.show(call.world.get("subscription_item", call.id, "item"))


@route("post", "/v1/subscription_items")
def create_item(call: Call) -> Json:
    given = dict(call.params)
    subscription = call.world.get("subscription", given.pop("subscription"), "subscription", status=400)
    before = {item["id"] for item in lifecycle.items_of(call.world.store, subscription)}
    _apply(call, subscription, given)
    added = [item for item in lifecycle.items_of(call.world.store, subscription) if item["id"] not in before]
    return call.show(added[0])


@route("post", "/v1/subscription_items/{item}")
def update_item(call: Call) -> Json:
    item = call.world.get("subscription_item", call.id, "item")
    _apply(call, call.world.get("subscription", item["subscription"]), {**call.params, "id": item["id"]})
    return call.show(item)


@route("delete", "/v1/subscription_items/{item}")
def delete_item(call: Call) -> Json:
    item = call.world.get("subscription_item", call.id, "item")
    _apply(call, call.world.get("subscription", item["subscription"]), {**call.params, "id": item["id"], "deleted": True})
    return {"id": item["id"], "object": "subscription_item", "deleted": True}


def _apply(call: Call, subscription: Json, given: Json) -> None:
    behavior, moment = given.pop("proration_behavior", "create_prorations"), given.pop("proration_date", None)
    with call.world.changing(subscription, "customer.subscription.updated"):
        changes.apply(call.world, subscription, [given], behavior, moment)
