"""Invoices from draft to open: lines, totals, numbers. Who pays them stands in `payments`."""

from sandbox_stripe import lines, money
from sandbox_stripe.errors import Json
from sandbox_stripe.world import World

POSTPONE_SECONDS = 3_600


def draft(
    world: World,
    customer: Json,
    subscription: Json | None,
    *,
    reason: str,
    period: tuple[int, int],
    specs: list[Json],
    auto: bool = True,
    with_waiting: bool = True,
) -> Json:
    """Store a draft and announce it: what waited comes first, then its own lines. `auto` drafts turn final after the draft time."""
    invoice = build(customer, subscription, reason, period)
    now = world.now(customer)
    invoice["auto_advance"] = auto
    invoice["automatically_finalizes_at"] = now + world.settings.draft_seconds if auto else None
    stored = world.new("invoice", invoice)
    if with_waiting:
        take_pending_items(world, stored)
    for one in specs:
        add_line(world, stored, one)
    retotal(world, stored)
    if subscription:
        subscription["latest_invoice"] = stored["id"]
        world.store.save(subscription)
    world.emit("invoice.created", stored)
    if auto:
        world.store.schedule("finalize", stored["id"], stored["automatically_finalizes_at"], customer["test_clock"])
    return stored


def build(customer: Json, subscription: Json | None, reason: str, period: tuple[int, int]) -> Json:
    """Return a draft that is not stored yet."""
    currency = subscription["currency"] if subscription else customer["currency"] or "usd"
    parent = None
    if subscription:
        details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"], "subscription_proration_date": None}
        parent = {"type": "subscription_details", "quote_details": None, "subscription_details": details}
    zero = dict.fromkeys(("amount_due", "amount_overpaid", "amount_paid", "amount_remaining", "amount_shipping", "subtotal", "total"), 0)
    nothing = dict.fromkeys((
        "account_name", "account_tax_ids", "application", "confirmation_secret", "custom_fields", "customer_shipping",
        "default_payment_method",
        "default_source", "description", "due_date", "effective_at", "ending_balance", "footer", "from_invoice", "hosted_invoice_url",
        "invoice_pdf", "last_finalization_error", "latest_revision", "next_payment_attempt", "number", "on_behalf_of", "receipt_number",
        "rendering", "shipping_cost", "shipping_details", "statement_descriptor", "webhooks_delivered_at", "customer_account",
    ))  # fmt: skip
    return {
        **zero, **nothing, "account_country": "US", "attempt_count": 0, "attempted": False, "auto_advance": False,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None},
        "automatically_finalizes_at": None, "billing_reason": reason, "currency": currency, "customer": customer["id"],
        "collection_method": subscription["collection_method"] if subscription else "charge_automatically",
        "customer_address": customer["address"], "customer_email": customer["email"], "customer_name": customer["name"],
        "customer_phone": customer["phone"], "customer_tax_exempt": customer["tax_exempt"], "customer_tax_ids": [], "default_tax_rates": [],
        "discounts": [], "issuer": {"type": "self"}, "metadata": {}, "parent": parent, "period_start": period[0], "period_end": period[1],
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "post_payment_credit_notes_amount": 0, "pre_payment_credit_notes_amount": 0, "starting_balance": 0, "status": "draft",
        "status_transitions": {"finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        "subtotal_excluding_tax": 0, "test_clock": customer["test_clock"], "total_discount_amounts": [], "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [], "total_taxes": [], "_parent": subscription["id"] if subscription else None,
        "_subscription": subscription["id"] if subscription else None, "_tries": 0,
    }  # fmt: skip


def line_body(invoice: Json, one: Json) -> Json:
    """Return a stored line from a spec."""
    if one.get("invoice_item"):
        details = {"invoice_item": one["invoice_item"], "proration": one["proration"], "proration_details": {"credited_items": None}}
        details["subscription"] = invoice["_subscription"]
        parent = {"type": "invoice_item_details", "invoice_item_details": details, "subscription_item_details": None}
    else:
        details = {
            "invoice_item": None, "proration": one["proration"], "proration_details": {"credited_items": None},
            "subscription": invoice["_subscription"], "subscription_item": one["item"],
        }  # fmt: skip
        parent = {"type": "subscription_item_details", "invoice_item_details": None, "subscription_item_details": details}
    pricing = {
        "type": "price_details",
        "price_details": {"price": one["price"], "product": one["product"]},
        "unit_amount_decimal": one["unit_amount_decimal"],
    }
    metadata = one.get("metadata") or ((invoice["parent"] or {}).get("subscription_details") or {}).get("metadata") or {}
    return {
        "amount": one["amount"], "currency": invoice["currency"], "description": one["description"], "discount_amounts": [],
        "discountable": not one["proration"], "discounts": [], "invoice": invoice["id"], "metadata": dict(metadata), "parent": parent,
        "period": one["period"], "pretax_credit_amounts": [], "pricing": pricing if one["price"] else None, "quantity": one["quantity"],
        "quantity_decimal": None if one["quantity"] is None else str(one["quantity"]), "subscription": invoice["_subscription"],
        "subtotal": one["amount"], "taxes": [], "_parent": invoice["id"], "_spec": one,
    }  # fmt: skip


def add_line(world: World, invoice: Json, one: Json) -> Json:
    line = world.new("line_item", line_body(invoice, one))
    line.pop("created")  # lines have no such field
    return world.store.save(line)


def pending_items(world: World, customer: str, subscription: str | None, currency: str) -> list[Json]:
    """Return the invoice items that wait for the next invoice: the newest first, those of one moment as they were made."""

    def waits(item: Json) -> bool:
        return item["invoice"] is None and item["_subscription"] in {None, subscription} and item["currency"] == currency

    found = list(world.store.select("invoiceitem", customer=customer, keep=waits))
    return sorted(found, key=lambda item: int(item["date"]), reverse=True)


def take_pending_items(world: World, invoice: Json) -> None:
    """Put the customer's waiting invoice items on a new draft."""
    for item in pending_items(world, invoice["customer"], invoice["_subscription"], invoice["currency"]):
        item["invoice"] = item["_parent"] = invoice["id"]
        world.store.save(item)
        add_line(world, invoice, item_spec(item))


def item_spec(item: Json) -> Json:
    details = (item["pricing"] or {}).get("price_details") or {}
    return {
        "amount": item["amount"], "description": item["description"], "quantity": item["quantity"], "period": item["period"],
        "unit_amount_decimal": (item["pricing"] or {}).get("unit_amount_decimal"), "price": details.get("price"),
        "product": details.get("product"),
        "currency": item["currency"], "item": None, "proration": item["proration"], "usage": False, "invoice_item": item["id"],
        "metadata": item["metadata"],
    }  # fmt: skip


def retotal(world: World, invoice: Json) -> None:
    total = sum(line["amount"] for line in world.store.select("line_item", parent=invoice["id"]))
    set_totals(invoice, total)
    world.store.save(invoice)


def set_totals(invoice: Json, total: int) -> None:
    due = max(total, 0)
    invoice.update(
        subtotal=total, total=total, subtotal_excluding_tax=total, total_excluding_tax=total, amount_due=due, amount_remaining=due
    )


def recount(world: World, invoice: Json) -> None:
    """Read the meters once more for the usage lines; lines keep their places and, where nothing moved, their ids."""
    before = list(world.store.select("line_item", parent=invoice["id"]))
    fresh: list[Json] = []
    done: set[tuple[str, int]] = set()
    for line in before:
        one = line["_spec"]
        if not one["usage"]:
            fresh.append(one)
            continue
        place = (one["item"], one["period"]["start"])
        if place in done:
            continue
        done.add(place)
        item = world.store.find(one["item"], deleted=True)
        price = world.store.find(one["price"], "price", deleted=True)
        assert item is not None
        assert price is not None
        period = (one["period"]["start"], one["period"]["end"])
        fresh.extend(lines.usage(world, lines.price_in(price, invoice["currency"]), item, invoice["customer"], period))
    if fresh != [line["_spec"] for line in before]:
        for line in before:
            world.store.erase(line["id"])
        for one in fresh:
            add_line(world, invoice, one)
        retotal(world, invoice)


def finalize(world: World, invoice: Json) -> None:
    """Turn a draft into an open invoice: usage counted once more, number given, the customer's balance applied."""
    recount(world, invoice)
    customer = world.get("customer", invoice["customer"])
    now = world.now(invoice)
    sequence = customer["next_invoice_sequence"]
    customer["next_invoice_sequence"] = sequence + 1
    apply_balance(world, invoice, customer)
    world.store.save(customer)
    url = f"{world.base_url}/invoices/{invoice['id']}"
    invoice.update(
        status="open", number=f"{customer['invoice_prefix']}-{sequence:04d}", automatically_finalizes_at=None, effective_at=now,
        hosted_invoice_url=url, invoice_pdf=f"{url}/pdf", auto_advance=invoice["auto_advance"],
    )  # fmt: skip
    invoice["status_transitions"]["finalized_at"] = now
    world.store.unschedule(invoice["id"], "finalize")
    world.store.save(invoice)
    world.emit("invoice.finalized", invoice)


def apply_balance(world: World, invoice: Json, customer: Json) -> None:
    """Add what the customer owes or has; totals too small to charge, fractions that cannot be, and credits, stay on the balance."""
    start, total = customer["balance"], invoice["total"]
    payable = total + start
    minimum = world.settings.minimum_charge_minor.get(invoice["currency"], 0)
    due = money.chargeable(payable, invoice["currency"]) if payable >= max(minimum, 1) else 0
    ending = payable - due
    invoice.update(starting_balance=start, ending_balance=ending, amount_due=due, amount_remaining=due)
    customer["balance"] = ending


def is_held_back(world: World, invoice: Json) -> bool:
    """Tell whether `invoice.created` failed at an endpoint: Stripe then waits with the final invoice, for three days at most."""
    if world.now(invoice) >= invoice["created"] + world.settings.draft_postponed_max_seconds:
        return False
    failed = "state = 'held' OR (state = 'pending' AND attempts > 0)"
    sql = f"SELECT 1 FROM deliveries WHERE object = ? AND event_type = 'invoice.created' AND ({failed})"  # noqa: S608 - constants only
    return world.store.execute(sql, invoice["id"]).fetchone() is not None


def postpone(world: World, invoice: Json) -> None:
    due = world.now(invoice) + POSTPONE_SECONDS
    invoice["automatically_finalizes_at"] = due
    world.store.save(invoice)
    world.store.schedule("finalize", invoice["id"], due, invoice["test_clock"])
