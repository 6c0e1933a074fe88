"""Invoice previews: the real thing, done and undone."""

from typing import Any

from sandbox_stripe import changes, cycle, invoicing, lifecycle, status, subscriptions
from sandbox_stripe.calls import Call, route
from sandbox_stripe.errors import Json, StripeError, invalid
from sandbox_stripe.world import World


@route("post", "/v1/invoices/create_preview")
def create_preview(call: Call) -> Json:
    """Do it for real, look, and undo it: a preview can then never differ from the invoice."""
    world = call.world
    world.store.execute("SAVEPOINT preview")
    try:
        invoice = _upcoming(world, call.params)
        shown = call.show(invoice)
    finally:
        world.store.execute("ROLLBACK TO preview")
        world.store.execute("RELEASE preview")
        world.store.forget()
    shown.update(id=f"upcoming_{shown['id']}", billing_reason="upcoming", status="draft", number=None, hosted_invoice_url=None)
    return shown


def _upcoming(world: World, given: Json) -> Json:
    details: dict[str, Any] = given.get("subscription_details") or {}
    if not given.get("subscription"):
        if not given.get("customer") or not details.get("items"):
            raise invalid(
                "You must specify `subscription`, or `customer` and `subscription_details[items]`.", "subscription", "parameter_missing"
            )
        customer = world.get("customer", given["customer"], "customer", status=400)
        order = subscriptions.order_from(world, customer, {**details, "currency": given.get("currency")}, "subscription_details[items]")
        started = lifecycle.start(world, order)
        if not started["latest_invoice"]:
            raise _nothing_upcoming()
        return world.get("invoice", started["latest_invoice"])
    subscription = world.get("subscription", given["subscription"], "subscription", status=400)
    if subscription["status"] in status.ENDED:
        raise _nothing_upcoming()
    if details.get("items"):
        behavior = details.get("proration_behavior", "create_prorations")
        made = changes.apply(world, subscription, details["items"], behavior, details.get("proration_date"))
        if made:
            return made
    if details.get("cancel_now"):
        cycle.cancel_now(world, subscription, invoice_now=True, prorate=details.get("proration_behavior") != "none")
        return world.get("invoice", subscription["latest_invoice"])
    return _next_invoice(world, subscription, ends=bool(details.get("cancel_at_period_end", subscription["cancel_at_period_end"])))


def _next_invoice(world: World, subscription: Json, *, ends: bool) -> Json:
    items = lifecycle.items_of(world.store, subscription)
    end = items[0]["current_period_end"]
    following = None if ends else lifecycle.next_period(subscription, end)
    specs = cycle.cycle_lines(world, subscription, end, following)
    customer = world.get("customer", subscription["customer"])
    with world.at(end):
        return invoicing.draft(
            world,
            customer,
            subscription,
            reason="subscription_cycle",
            period=(items[0]["current_period_start"], end),
            specs=specs,
            auto=True,
        )


def _nothing_upcoming() -> StripeError:
    return StripeError(404, "No upcoming invoices for this subscription.", code="invoice_upcoming_none")
