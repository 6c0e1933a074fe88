"""Who pays an invoice and what follows: payment intents, retries, and the subscription's status."""

from sandbox_stripe import status
from sandbox_stripe.cards import Decline
from sandbox_stripe.customers import card_of
from sandbox_stripe.errors import Json
from sandbox_stripe.world import World, draw

NO_METHOD = Decline(
    "invoice_no_payment_method_types",
    None,
    "There is no default payment method on the subscription or the customer to charge the invoice with.",
)
DAY = 86_400


def method_for(world: World, invoice: Json) -> Json | None:
    """Return what to charge: the invoice's own method, else the subscription's, else the customer's."""
    subscription = status.subscription_of(world, invoice) or {}
    customer = world.store.find(invoice["customer"], "customer") or {}
    settings = customer.get("invoice_settings") or {}
    for id_ in (invoice["default_payment_method"], subscription.get("default_payment_method"), settings.get("default_payment_method")):
        found = world.store.find(id_, "payment_method") if id_ else None
        if found:
            return found
    return None


def collect(world: World, invoice: Json) -> Decline | None:
    """Try to pay an open invoice by itself, as the draft's end and each retry do. Returns why not, if not."""
    if invoice["amount_due"] == 0:
        mark_paid(world, invoice, None)
        return None
    refusal = charge(world, invoice, method_for(world, invoice))
    if refusal is None:
        return None
    tries = invoice["_tries"] = invoice["_tries"] + 1
    days = world.settings.dunning_days
    again = world.now(invoice) + int(days[tries - 1] * DAY) if tries <= len(days) else None
    subscription = status.subscription_of(world, invoice)
    if subscription and subscription["status"] in {"incomplete", *status.ENDED}:
        again = None
    _failed(world, invoice, again)
    if subscription and subscription["status"] not in {"incomplete", *status.ENDED}:
        _fall_behind(world, subscription, last=again is None)
    return refusal


def _fall_behind(world: World, subscription: Json, *, last: bool) -> None:
    if not last:
        if subscription["status"] in {"active", "trialing"}:
            status.set_status(world, subscription, "past_due")
    elif world.settings.dunning_end == "canceled":
        status.end(world, subscription, "payment_failed")
    else:
        status.set_status(world, subscription, world.settings.dunning_end)


def _failed(world: World, invoice: Json, again: int | None) -> None:
    invoice["next_payment_attempt"] = again
    world.store.save(invoice)
    if again is None:
        world.store.unschedule(invoice["id"], "retry")
    else:
        world.store.schedule("retry", invoice["id"], again, invoice["test_clock"])
    world.emit("invoice.payment_failed", invoice)
    status.set_delinquent(world, invoice["customer"], delinquent=True)


def charge(world: World, invoice: Json, method: Json | None) -> Decline | None:
    """Charge one payment method for an invoice, once. On success the invoice is paid."""
    refusal = refusal_of(method)
    intent, payment = _payment(world, invoice)
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    intent["payment_method"] = method["id"] if method else None
    if refusal is None:
        mark_paid(world, invoice, (intent, payment))
        return None
    error = {"type": "card_error", "code": refusal.code, "message": refusal.message}
    if refusal.decline_code:
        error["decline_code"] = refusal.decline_code
    intent.update(status="requires_payment_method", last_payment_error=error)
    world.store.save(intent)
    world.store.save(invoice)
    world.emit("payment_intent.payment_failed", intent)
    return refusal


def refusal_of(method: Json | None) -> Decline | None:
    """Return why a payment method does not pay, if it does not."""
    return (card_of(method).on_charge or card_of(method).on_attach) if method else NO_METHOD


def _payment(world: World, invoice: Json) -> tuple[Json, Json]:
    """Return the invoice's payment intent and invoice payment, made at the first attempt."""
    payment = next(world.store.select("invoice_payment", parent=invoice["id"]), None)
    if payment:
        intent = world.store.find(payment["payment"]["payment_intent"], "payment_intent")
        assert intent is not None
        return intent, payment
    amount, now = invoice["amount_remaining"], world.now(invoice)
    intent = world.new("payment_intent", {
        "amount": amount, "amount_capturable": 0, "amount_received": 0, "canceled_at": None, "cancellation_reason": None,
        "capture_method": "automatic", "client_secret": f"pi_{draw()}_secret_{draw()}", "confirmation_method": "automatic", "created": now,
        "currency": invoice["currency"], "customer": invoice["customer"], "description": "Subscription invoice", "last_payment_error": None,
        "latest_charge": None, "metadata": {}, "next_action": None, "payment_method": None, "payment_method_types": ["card"],
        "setup_future_usage": None, "status": "requires_payment_method", "_parent": invoice["id"],
    })  # fmt: skip
    payment = world.new("invoice_payment", {
        "amount_paid": None, "amount_requested": amount, "created": now, "currency": invoice["currency"], "invoice": invoice["id"],
        "is_default": True, "payment": {"type": "payment_intent", "payment_intent": intent["id"]}, "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None}, "_parent": invoice["id"],
    })  # fmt: skip
    return intent, payment


def mark_paid(world: World, invoice: Json, paid_by: tuple[Json, Json] | None) -> None:
    """Close an invoice as paid and let its subscription recover."""
    now, amount = world.now(invoice), invoice["amount_remaining"]
    if paid_by:
        intent, payment = paid_by
        intent.update(status="succeeded", amount_received=amount, last_payment_error=None)
        payment.update(status="paid", amount_paid=amount, status_transitions={"canceled_at": None, "paid_at": now})
        world.store.save(intent)
        world.store.save(payment)
        world.emit("payment_intent.succeeded", intent)
        world.emit("invoice_payment.paid", payment)
    invoice.update(
        status="paid", amount_paid=invoice["amount_due"], amount_remaining=0, attempted=True, next_payment_attempt=None, auto_advance=False
    )
    invoice["status_transitions"]["paid_at"] = now
    world.store.unschedule(invoice["id"], "retry")
    world.store.save(invoice)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    _recover(world, invoice)


def _recover(world: World, invoice: Json) -> None:
    def owes(one: Json) -> bool:
        return bool(one["attempted"])

    if not any(world.store.select("invoice", customer=invoice["customer"], status="open", keep=owes)):
        status.set_delinquent(world, invoice["customer"], delinquent=False)
    subscription = status.subscription_of(world, invoice)
    if subscription is None or subscription["status"] not in {"past_due", "unpaid", "incomplete"}:
        return
    if not any(world.store.select("invoice", parent=subscription["id"], status="open", keep=owes)):
        world.store.unschedule(subscription["id"], "expire_incomplete")
        status.set_status(world, subscription, "active")
