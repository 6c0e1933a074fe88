"""Invoice items: amounts added by hand, to a draft or for the next invoice."""

from sandbox_stripe import changes, invoicing
from sandbox_stripe.calls import Call, route
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.rating import rate, text_of
from sandbox_stripe.world import World, merge_metadata


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
        line = rate(flat, quantity)[0]
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
