"""Invoices, their lines, payments and items over the API, and previews."""

from sandbox_stripe import cycle, invoicing, payments
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.catalogue import set_fields
from sandbox_stripe.customers import usable_method
from sandbox_stripe.errors import Json, declined, invalid
from sandbox_stripe.world import World, merge_metadata


@route("get", "/v1/invoices")
def list_invoices(call: Call) -> Json:
    given = call.params
    same = equal(given, "status", "collection_method")
    columns = {"customer": given["customer"]} if given.get("customer") else {}
    if given.get("subscription"):
        columns["parent"] = given["subscription"]
    return call.page("invoice", keep=same, **columns)


@route("get", "/v1/invoices/{invoice}")
def retrieve_invoice(call: Call) -> Json:
    return call.show(call.world.get("invoice", call.id, "invoice"))


@route("get", "/v1/invoices/{invoice}/lines")
def list_lines(call: Call) -> Json:
    invoice = call.world.get("invoice", call.id, "invoice")
    store = call.world.store
    limit = call.params.get("limit", 10)
    if not 1 <= limit <= 100:
        raise invalid("Limit must be between 1 and 100.", "limit")
    after, before = call.params.get("starting_after"), call.params.get("ending_before")
    rows = list(store.select("line_item", parent=invoice["id"], after=after, before=before))
    chosen = rows[-limit:] if before else rows[:limit]
    data = [call.show(line) for line in chosen]
    return {"object": "list", "data": data, "has_more": len(rows) > limit, "url": call.path}


@route("post", "/v1/invoices")
def create_invoice(call: Call) -> Json:
    """Make a manual draft, with the customer's pending items if asked for."""
    given, world = call.params, call.world
    call.require("customer")
    customer = world.get("customer", given["customer"], "customer", status=400)
    subscription = world.get("subscription", given["subscription"], "subscription", status=400) if given.get("subscription") else None
    now = world.now(customer)
    auto, waiting = given.get("auto_advance", False), given.get("pending_invoice_items_behavior") == "include"
    invoice = invoicing.draft(world, customer, subscription, reason="manual", period=(now, now), specs=[], auto=auto, with_waiting=waiting)
    invoice["currency"] = given.get("currency") or invoice["currency"]
    set_fields(invoice, given, "description", "footer", "default_payment_method")
    merge_metadata(invoice, given)
    return call.show(world.store.save(invoice))


@route("post", "/v1/invoices/{invoice}")
def update_invoice(call: Call) -> Json:
    given, world = call.params, call.world
    invoice = world.get("invoice", call.id, "invoice")
    if invoice["status"] != "draft" and set(given) - {"metadata", "description", "footer", "default_payment_method", "auto_advance"}:
        raise invalid("This invoice is no longer a draft and can't be changed.", None, "invoice_not_editable")
    if given.get("default_payment_method"):
        world.get("payment_method", given["default_payment_method"], "default_payment_method", status=400)
    with world.changing(invoice, "invoice.updated"):
        set_fields(invoice, given, "description", "footer", "default_payment_method", "auto_advance", "automatically_finalizes_at")
        merge_metadata(invoice, given)
        if invoice["status"] == "draft":
            _reschedule(world, invoice, given)
    return call.show(invoice)


def _reschedule(world: World, invoice: Json, given: Json) -> None:
    if given.get("auto_advance") is False:
        invoice["automatically_finalizes_at"] = None
        world.store.unschedule(invoice["id"], "finalize")
    elif given.get("auto_advance") or given.get("automatically_finalizes_at"):
        moment = given.get("automatically_finalizes_at") or world.now(invoice) + world.settings.draft_seconds
        invoice["automatically_finalizes_at"] = moment
        world.store.schedule("finalize", invoice["id"], moment, invoice["test_clock"])


@route("delete", "/v1/invoices/{invoice}")
def delete_invoice(call: Call) -> Json:
    invoice = call.world.get("invoice", call.id, "invoice")
    if invoice["status"] != "draft" or invoice["_subscription"]:
        raise invalid("You can only delete draft invoices that do not belong to a subscription.", None, "invoice_not_editable")
    call.world.store.unschedule(invoice["id"], "finalize")
    call.world.emit("invoice.deleted", invoice)
    call.world.store.delete(invoice["id"])
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def _in_status(call: Call, *allowed: str) -> Json:
    invoice = call.world.get("invoice", call.id, "invoice")
    if invoice["status"] not in allowed:
        raise invalid(f"This invoice is {invoice['status']}; that is not possible any more.", None, "invoice_not_editable")
    return invoice


@route("post", "/v1/invoices/{invoice}/finalize")
def finalize_invoice(call: Call) -> Json:
    """Make a draft final. With `auto_advance` it is charged too."""
    invoice = _in_status(call, "draft")
    auto = call.params.get("auto_advance", invoice["auto_advance"])
    invoicing.finalize(call.world, invoice)
    if invoice["amount_due"] == 0 or (auto and invoice["collection_method"] == "charge_automatically"):
        payments.collect(call.world, invoice)
    return call.show(invoice)


@route("post", "/v1/invoices/{invoice}/pay")
def pay_invoice(call: Call) -> Json:
    """Charge now: a draft is made final first; a decline is a 402, and counts as an attempt."""
    given, world = call.params, call.world
    invoice = world.get("invoice", call.id, "invoice")
    if invoice["status"] in {"paid", "void"}:
        raise invalid("Invoice is already paid" if invoice["status"] == "paid" else "This invoice is void.", None, "invoice_already_paid")
    method = usable_method(world, given["payment_method"]) if given.get("payment_method") else payments.method_for(world, invoice)
    if invoice["status"] == "draft":
        invoicing.finalize(world, invoice)
    if invoice["amount_due"] == 0 or given.get("paid_out_of_band"):
        payments.mark_paid(world, invoice, None)
        return call.show(invoice)
    refusal = payments.charge(world, invoice, method)
    if refusal:
        world.emit("invoice.payment_failed", invoice)
        raise declined(refusal.code, refusal.decline_code, refusal.message)
    return call.show(invoice)


@route("post", "/v1/invoices/{invoice}/void")
def void_invoice(call: Call) -> Json:
    invoice = _in_status(call, "open", "uncollectible")
    cycle.void(call.world, invoice)
    return call.show(invoice)


@route("post", "/v1/invoices/{invoice}/mark_uncollectible")
def mark_uncollectible(call: Call) -> Json:
    invoice = _in_status(call, "open")
    invoice.update(status="uncollectible", next_payment_attempt=None, auto_advance=False)
    invoice["status_transitions"]["marked_uncollectible_at"] = call.world.now(invoice)
    call.world.store.unschedule(invoice["id"], "retry")
    call.world.store.save(invoice)
    call.world.emit("invoice.marked_uncollectible", invoice)
    return call.show(invoice)


@route("get", "/v1/invoice_payments")
def list_invoice_payments(call: Call) -> Json:
    given = call.params
    columns = {"parent": given["invoice"]} if given.get("invoice") else {}
    wanted = (given.get("payment") or {}).get("payment_intent")
    same = equal(given, "status")
    return call.page("invoice_payment", keep=lambda one: same(one) and wanted in {None, one["payment"]["payment_intent"]}, **columns)


@route("get", "/v1/invoice_payments/{invoice_payment}")
def retrieve_invoice_payment(call: Call) -> Json:
    return call.show(call.world.get("invoice_payment", call.id, "invoice_payment"))


@route("get", "/v1/payment_intents/{intent}")
def retrieve_payment_intent(call: Call) -> Json:
    return call.show(call.world.get("payment_intent", call.id, "intent"))


@route("get", "/v1/payment_intents")
def list_payment_intents(call: Call) -> Json:
    return call.page("payment_intent", **({"customer": call.params["customer"]} if call.params.get("customer") else {}))
