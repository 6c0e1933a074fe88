"""The billing portal: configurations, sessions, and what a customer does on its page."""

from typing import Any

from sandbox_stripe import cards, customers, status, subscriptions
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.catalogue import set_fields
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.world import World, draw, merge_metadata

SESSION_SECONDS = 3_600
REASONS = ["too_expensive", "missing_features", "switched_service", "unused", "other"]


def _features(given: Json) -> Json:
    """Fill in what was left out, as Stripe answers it."""

    def part(name: str) -> Json:
        found: Json = given.get(name) or {}
        return found

    cancel, pause, update = part("subscription_cancel"), part("subscription_pause"), part("subscription_update")
    reason = cancel.get("cancellation_reason") or {}
    conditions = (update.get("schedule_at_period_end") or {}).get("conditions") or []
    return {
        "customer_update": {"allowed_updates": part("customer_update").get("allowed_updates") or [],
        "enabled": part("customer_update").get("enabled", False)},
        "invoice_history": {"enabled": part("invoice_history").get("enabled", False)},
        "payment_method_update": {"enabled": part("payment_method_update").get("enabled", False), "payment_method_configuration": None},
        "subscription_cancel": {
            "cancellation_reason": {"enabled": reason.get("enabled", False), "options": reason.get("options") or REASONS},
            "enabled": cancel.get("enabled", False), "mode": cancel.get("mode", "at_period_end"),
            "proration_behavior": cancel.get("proration_behavior", "none"),
        },
        "subscription_pause": {
            "duration": pause.get("duration") or {"interval_options": [], "type": "indefinite"}, "enabled": pause.get("enabled", False),
        },
        "subscription_update": {
            "billing_cycle_anchor": None, "default_allowed_updates": update.get("default_allowed_updates") or [],
            "enabled": update.get("enabled", False),
            "products": update.get("products") or [], "proration_behavior": update.get("proration_behavior", "none"),
            "schedule_at_period_end": {"conditions": conditions}, "trial_update_behavior": update.get("trial_update_behavior", "end_trial"),
        },
    }  # fmt: skip


DEFAULTS: Json = {
    "invoice_history": {"enabled": True}, "payment_method_update": {"enabled": True}, "subscription_cancel": {"enabled": True},
}  # fmt: skip


def add_configuration(world: World, given: Json, *, is_default: bool) -> Json:
    profile = given.get("business_profile") or {}
    fields: Json = {
        "active": True, "application": None, "default_return_url": given.get("default_return_url") or None,
        "features": _features(given["features"]),
        "business_profile": {name: profile.get(name) or None for name in ("headline", "privacy_policy_url", "terms_of_service_url")},
        "is_default": is_default, "login_page": {"enabled": False, "url": None}, "metadata": {}, "name": given.get("name") or None,
        "updated": world.business_now(),
    }  # fmt: skip
    merge_metadata(fields, given)
    return world.new("billing_portal.configuration", fields)


@route("post", "/v1/billing_portal/configurations")
def create_configuration(call: Call) -> Json:
    first = call.world.store.count("billing_portal.configuration") == 0
    configuration = add_configuration(call.world, call.params, is_default=first)
    call.world.emit("billing_portal.configuration.created", configuration)
    return call.show(configuration)


@route("get", "/v1/billing_portal/configurations")
def list_configurations(call: Call) -> Json:
    return call.page("billing_portal.configuration", keep=equal(call.params, "active", "is_default"))


@route("get", "/v1/billing_portal/configurations/{configuration}")
def retrieve_configuration(call: Call) -> Json:
    return call.show(call.world.get("billing_portal.configuration", call.id, "configuration"))


@route("post", "/v1/billing_portal/configurations/{configuration}")
def update_configuration(call: Call) -> Json:
    given, world = call.params, call.world
    configuration = world.get("billing_portal.configuration", call.id, "configuration")
    with world.changing(configuration, "billing_portal.configuration.updated"):
        set_fields(configuration, given, "active", "default_return_url", "name")
        merge_metadata(configuration, given)
        if given.get("features"):
            configuration["features"] = _features({**configuration["features"], **given["features"]})
        configuration["updated"] = world.business_now()
    return call.show(configuration)


@route("post", "/v1/billing_portal/sessions")
def create_portal_session(call: Call) -> Json:
    given, world = call.params, call.world
    call.require("customer")
    customer = world.get("customer", given["customer"], "customer", status=400)
    configuration = _configuration(world, given.get("configuration"))
    flow = _flow(world, customer, given.get("flow_data"))
    secret = draw(40)
    session = world.new("billing_portal.session", {
        "configuration": configuration["id"], "customer": customer["id"], "customer_account": None, "flow": flow,
        "locale": given.get("locale"),
        "on_behalf_of": None, "return_url": given.get("return_url") or configuration["default_return_url"],
        "url": f"{(world.settings.portal_base.rstrip('/') or world.base_url)}/p/session/{secret}", "_lookup": secret,
        "_expires_wall": int(world.wall()) + SESSION_SECONDS,
    })  # fmt: skip
    world.emit("billing_portal.session.created", session)
    return call.show(session)


def _configuration(world: World, id_: str | None) -> Json:
    if id_:
        return world.get("billing_portal.configuration", id_, "configuration", status=400)
    found = next(world.store.select("billing_portal.configuration", keep=lambda one: bool(one["is_default"])), None)
    return found or add_configuration(world, {"features": DEFAULTS}, is_default=True)


def _flow(world: World, customer: Json, given: Json | None) -> Json | None:
    if not given:
        return None
    kind = given["type"]
    after = given.get("after_completion") or {"type": "portal_homepage"}
    flow: dict[str, Any] = {
        "after_completion": {"hosted_confirmation": after.get("hosted_confirmation"), "redirect": after.get("redirect"),
        "type": after["type"]},
        "subscription_cancel": None, "subscription_update": None, "subscription_update_confirm": None, "type": kind,
    }  # fmt: skip
    if kind == "subscription_cancel":
        id_ = (given.get("subscription_cancel") or {}).get("subscription", "")
        found = world.get("subscription", id_, "flow_data[subscription_cancel][subscription]", status=400)
        if found["customer"] != customer["id"]:
            raise invalid("The subscription does not belong to this customer.", "flow_data[subscription_cancel][subscription]")
        flow["subscription_cancel"] = {"retention": None, "subscription": id_}
    elif kind not in {"payment_method_update", "customer_update"}:
        raise invalid("This sandbox's portal offers the flows payment_method_update and subscription_cancel.", "flow_data[type]")
    return flow


# --- the page's side ---


def find_session(world: World, secret: str) -> Json | None:
    """Return an unexpired session by the secret of its address."""
    found = next(world.store.select("billing_portal.session", lookup=secret), None)
    return found if found and found["_expires_wall"] > world.wall() else None


def update_card(world: World, customer: Json, card: cards.Card, expiry: tuple[int, int]) -> None:
    """Attach a card and make it the default of the customer and of the subscriptions that had another."""
    method = customers.new_card(world, card, exp_month=expiry[0], exp_year=expiry[1], email=customer["email"], name=customer["name"])
    customers.attach(world, method, customer)
    with world.changing(customer, "customer.updated"):
        customer["invoice_settings"]["default_payment_method"] = method["id"]
    for subscription in list(world.store.select("subscription", customer=customer["id"])):
        if subscription["default_payment_method"] and subscription["status"] not in status.ENDED:
            with world.changing(subscription, "customer.subscription.updated"):
                subscription["default_payment_method"] = method["id"]


def set_cancellation(world: World, subscription: Json, *, at_period_end: bool) -> None:
    with world.changing(subscription, "customer.subscription.updated"):
        subscriptions.set_cancellation(world, subscription, {"cancel_at_period_end": at_period_end})
