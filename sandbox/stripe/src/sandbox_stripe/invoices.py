"""Invoices, their lines, payments and items over the API, and previews."""

from typing import Any

from sandbox_stripe import changes, invoicing, lifecycle, payments, status, subscriptions
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.catalogue import set_fields
from sandbox_stripe.customers import usable_method
from sandbox_stripe.errors import Json, StripeError, declined, invalid
from sandbox_stripe.rating import text_of
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
    """Make a manual draft from the customer's pending items."""
    given, world = call.params, call.world
    call.require("customer")
    customer = world.get("customer", given["customer"], "customer", status=400)
    subscription = world.get("subscription", given["subscription"], "subscription", status=400) if given.get("subscription") else None
    now = world.now(customer)
    invoice = invoicing.draft(world, customer, subscription, "manual", (now, now), [], auto=given.get("auto_advance", False))
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
    lifecycle.void(call.world, invoice)
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


# --- invoice items ---


@route("post", "/v1/invoiceitems")
def create_invoice_item(call: Call) -> Json:
    given, world = call.params, call.world
    call.require("customer")
    customer = world.get("customer", given["customer"], "customer", status=400)
    invoice = world.get("invoice", given["invoice"], "invoice", status=400) if given.get("invoice") else None
    if invoice and invoice["status"] != "draft":
        raise invalid("You can only add invoice items to draft invoices.", "invoice", "invoice_not_editable")
    subscription = given.get("subscription") or (invoice["_subscription"] if invoice else None)
    item = _new_item(world, customer, given, subscription, invoice)
    world.emit("invoiceitem.created", item)
    if invoice:
        item["invoice"] = item["_parent"] = invoice["id"]
        world.store.save(item)
        with world.changing(invoice, "invoice.updated"):
            invoicing.add_line(world, invoice, invoicing.item_spec(item))
            invoicing.retotal(world, invoice)
    return call.show(item)


def _new_item(world: World, customer: Json, given: Json, subscription: str | None, invoice: Json | None) -> Json:
    """Store an item: an amount, or a price (stored or given inline) times a quantity."""
    price = changes.chosen_price(world, given["pricing"]["price"], "pricing[price]") if (given.get("pricing") or {}).get("price") else None
    inline = given.get("price_data") or (
        {"unit_amount_decimal": given["unit_amount_decimal"]} if given.get("unit_amount_decimal") else None
    )
    quantity = given.get("quantity", 1)
    currency = given.get("currency") or (price or inline or {}).get("currency") or (invoice or customer)["currency"] or "usd"
    if price or inline:
        flat: Json = {"billing_scheme": "per_unit", "unit_amount": None, **(price or inline or {})}
        line = lifecycle.lines.rating.rate(flat, quantity)[0]
        amount, unit = line.amount_minor, text_of(line.unit_amount)
    else:
        call_amount = given.get("amount")
        if call_amount is None:
            raise invalid("You must specify `amount`, `price_data` or `pricing[price]`.", "amount", "parameter_missing")
        amount, unit = call_amount, str(call_amount)
    now = world.now(customer)
    product = price["product"] if price else (inline or {}).get("product")
    details = {"price": price["id"] if price else None, "product": product} if price or product else None
    parent = {"type": "subscription_details", "subscription_details": {"subscription": subscription}} if subscription else None
    item = world.new("invoiceitem", {
        "amount": amount, "currency": currency, "customer": customer["id"], "customer_account": None, "date": now,
        "description": given.get("description"), "discountable": given.get("discountable", True), "discounts": [], "invoice": None,
        "metadata": {}, "net_amount": amount, "parent": parent, "period": given.get("period") or {"start": now, "end": now},
        "pricing": {"type": "price_details", "price_details": details, "unit_amount_decimal": unit} if details and price else None,
        "proration": False, "proration_details": None, "quantity": quantity, "quantity_decimal": str(quantity), "tax_rates": [],
        "test_clock": customer["test_clock"], "_subscription": subscription,
    })  # fmt: skip
    item.pop("created")
    merge_metadata(item, given)
    return world.store.save(item)


@route("get", "/v1/invoiceitems/{invoiceitem}")
def retrieve_invoice_item(call: Call) -> Json:
    return call.show(call.world.get("invoiceitem", call.id, "invoiceitem"))


@route("get", "/v1/invoiceitems")
def list_invoice_items(call: Call) -> Json:
    given = call.params
    columns = {"customer": given["customer"]} if given.get("customer") else {}
    if given.get("invoice"):
        columns["parent"] = given["invoice"]
    return call.page(
        "invoiceitem", keep=lambda one: not given.get("pending") or one["invoice"] is None, params={**given, "created": None}, **columns
    )


@route("delete", "/v1/invoiceitems/{invoiceitem}")
def delete_invoice_item(call: Call) -> Json:
    world = call.world
    item = world.get("invoiceitem", call.id, "invoiceitem")
    if item["invoice"]:
        invoice = world.get("invoice", item["invoice"])
        if invoice["status"] != "draft":
            raise invalid("This invoice item is on an invoice that is no longer a draft.", None, "invoice_not_editable")
        for line in list(world.store.select("line_item", parent=invoice["id"])):
            if line["_spec"].get("invoice_item") == item["id"]:
                world.store.erase(line["id"])
        invoicing.retotal(world, invoice)
    world.store.delete(item["id"])
    world.emit("invoiceitem.deleted", item)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


# --- previews ---


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
        lifecycle.cancel_now(world, subscription, invoice_now=True, prorate=details.get("proration_behavior") != "none")
        return world.get("invoice", subscription["latest_invoice"])
    return _next_invoice(world, subscription, ends=details.get("cancel_at_period_end", subscription["cancel_at_period_end"]))


def _next_invoice(world: World, subscription: Json, *, ends: bool) -> Json:
    items = lifecycle.items_of(world.store, subscription)
    end = items[0]["current_period_end"]
    following = None if ends else lifecycle.next_period(subscription, end)
    specs = lifecycle.cycle_lines(world, subscription, end, following)
    customer = world.get("customer", subscription["customer"])
    with world.at(end):
        return invoicing.draft(
            world, customer, subscription, "subscription_cycle", (items[0]["current_period_start"], end), specs, auto=True
        )


def _nothing_upcoming() -> StripeError:
    return StripeError(404, "No upcoming invoices for this subscription.", code="invoice_upcoming_none")
