"""Changes of a running subscription's items, and what is owed or credited for the rest of the period."""

from sandbox_stripe import invoicing, lifecycle, lines
from sandbox_stripe.errors import Json, invalid, missing_parameter
from sandbox_stripe.world import World

ITEMS_MAX = 20


def chosen_price(world: World, id_: str, param: str, currency: str | None = None) -> Json:
    """Return an active price that can be sold in a currency."""
    price = world.get("price", id_, param, status=400)
    if not price["active"]:
        raise invalid("The price specified is inactive. This field only accepts active prices.", param)
    if currency and price["currency"] != currency and currency not in price["_currency_options"]:
        raise invalid(
            f"The price specified only supports `{price['currency']}`. This doesn't match the expected currency: `{currency}`.", param
        )
    return price


def wanted_items(world: World, given: list[Json], name: str, currency: str | None) -> list[Json]:
    """Return items ready for an order: metered ones without quantity, licensed ones with one at least."""
    if len(given) > ITEMS_MAX:
        raise invalid(f"You can have at most {ITEMS_MAX} items.", name)
    items = []
    for index, one in enumerate(given):
        param = f"{name}[{index}]"
        if not one.get("price"):
            raise missing_parameter(f"{param}[price]")
        price = chosen_price(world, one["price"], f"{param}[price]", currency)
        items.append({"price": price, "quantity": quantity_for(price, one, param), "metadata": one.get("metadata") or {}})
    return items


def quantity_for(price: Json, one: Json, param: str) -> int | None:
    if lines.is_metered(price):
        if "quantity" in one:
            message = f"Quantity should not be specified where usage_type is `metered`. Remove quantity from `{param}`"
            raise invalid(message, f"{param}[quantity]")
        return None
    quantity = int(one.get("quantity", 1))
    if quantity < 0:
        raise invalid("This value must be greater than or equal to 0.", f"{param}[quantity]", "parameter_invalid_integer")
    return quantity


def check_recurring(items: list[Json], name: str) -> None:
    """All items recur, in one interval, and no price twice."""
    seen: set[str] = set()
    first = items[0]["price"]["recurring"]
    for index, item in enumerate(items):
        price = item["price"]
        if not price["recurring"]:
            message = "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
            raise invalid(message, f"{name}[{index}][price]")
        if (price["recurring"]["interval"], price["recurring"]["interval_count"]) != (first["interval"], first["interval_count"]):
            raise invalid("All items of a subscription must have the same billing interval in this sandbox.", f"{name}[{index}][price]")
        if price["id"] in seen:
            raise invalid(f"Cannot add multiple subscription items with the same price: {price['id']}", f"{name}[{index}][price]")
        seen.add(price["id"])


def apply(world: World, subscription: Json, given: list[Json], behavior: str, moment: int | None = None) -> Json | None:
    """Add, change and remove items. Returns the invoice that was made at once, with `always_invoice`, if there is something on it.

    `moment` is from when fees are prorated. Usage has one boundary only: when the change is made.
    """
    since = moment or world.now(subscription)
    current = lifecycle.items_of(world.store, subscription)
    period = (current[0]["current_period_start"], current[0]["current_period_end"])
    if not period[0] <= since <= period[1]:
        raise invalid("`proration_date` must lie in the current period.", "proration_date")
    for index, one in enumerate(given):
        _change(world, subscription, one, f"items[{index}]", rest=(since, period[1]), period=period, behavior=behavior)
    left = lifecycle.items_of(world.store, subscription)
    if not left:
        raise invalid("A subscription must have at least one active item.", "items")
    check_recurring([{"price": world.get("price", item["_price"])} for item in left], "items")
    if behavior != "always_invoice" or not _waiting(world, subscription):
        return None
    now = world.now(subscription)
    customer = world.get("customer", subscription["customer"])
    invoice = invoicing.draft(world, customer, subscription, reason="subscription_update", period=(now, now), specs=[], auto=False)
    invoice["auto_advance"] = True
    lifecycle.settle_now(world, invoice)
    return invoice


def _waiting(world: World, subscription: Json) -> list[Json]:
    return invoicing.pending_items(world, subscription["customer"], subscription["id"], subscription["currency"])


def _change(
    world: World, subscription: Json, one: Json, param: str, *, rest: tuple[int, int], period: tuple[int, int], behavior: str
) -> None:
    if not one.get("id"):
        wanted = wanted_items(world, [one], "items", subscription["currency"])[0]
        item = lifecycle.add_item(world, subscription, wanted, period)
        item["_usage_from"] = world.now(subscription)
        world.store.save(item)
        _owe(world, subscription, item, rest, period=period, behavior=behavior)
        return
    item = world.get("subscription_item", one["id"], f"{param}[id]", status=400)
    if item["subscription"] != subscription["id"]:
        raise invalid(f"No such subscription item: '{one['id']}'", f"{param}[id]", "resource_missing")
    changes_price = one.get("price") not in {None, item["_price"]}
    if one.get("deleted") or changes_price or one.get("quantity", item["quantity"]) != item["quantity"]:
        _settle(world, subscription, item, rest, period=period, behavior=behavior)
    if one.get("deleted"):
        world.store.delete(item["id"])
        return
    if changes_price:
        price = chosen_price(world, one["price"], f"{param}[price]", subscription["currency"])
        item.update(_price=price["id"], quantity=quantity_for(price, one, param), _usage_from=world.now(subscription))
        _owe(world, subscription, item, rest, period=period, behavior=behavior)
    elif "quantity" in one and one["quantity"] != item["quantity"]:
        item["quantity"] = quantity_for(world.get("price", item["_price"]), one, param)
        _owe(world, subscription, item, rest, period=period, behavior=behavior)
    if one.get("metadata"):
        item["metadata"] = {key: value for key, value in {**item["metadata"], **one["metadata"]}.items() if value != ""}
    world.store.save(item)


def _settle(world: World, subscription: Json, item: Json, rest: tuple[int, int], *, period: tuple[int, int], behavior: str) -> None:
    """Credit what is unused of a base fee; bill the usage so far (flexible mode; classic mode drops it)."""
    price = lines.price_of(world, item, subscription["currency"])
    if behavior == "none" or subscription["status"] == "trialing":
        return
    if not lines.is_metered(price):
        add_pending(world, subscription, lines.part(world, price, item, rest, lifecycle.whole_period(subscription, period[1]), credit=True))
    elif subscription["billing_mode"]["type"] == "flexible":
        begin = max(period[0], item.get("_usage_from", 0))
        for one in lines.usage(world, price, item, subscription["customer"], (begin, world.now(subscription))):
            add_pending(world, subscription, one)


def _owe(world: World, subscription: Json, item: Json, rest: tuple[int, int], *, period: tuple[int, int], behavior: str) -> None:
    price = lines.price_of(world, item, subscription["currency"])
    if behavior != "none" and not lines.is_metered(price) and subscription["status"] != "trialing":
        add_pending(world, subscription, lines.part(world, price, item, rest, lifecycle.whole_period(subscription, period[1])))


def one_offs(world: World, given: list[Json], name: str, currency: str | None) -> list[Json]:
    """Return the one-off prices of `add_invoice_items`; what this sandbox cannot do with them is refused, not ignored."""
    for index, one in enumerate(given):
        unknown = next((field for field in ("discounts", "period", "price_data", "tax_rates") if one.get(field)), None)
        if unknown:
            raise invalid(f"This sandbox does not know `{unknown}` of a one-off price.", f"{name}[{index}][{unknown}]")
    items = wanted_items(world, given, name, currency)
    for index, item in enumerate(items):
        if item["price"]["recurring"]:
            message = "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`."
            raise invalid(message, f"{name}[{index}][price]")
    return items


def add_once(world: World, subscription: Json, once: list[Json], period: tuple[int, int] | None = None) -> None:
    """Store one-off prices as lines that wait for the next invoice: for the items' period, where none is named."""
    items = lifecycle.items_of(world.store, subscription)
    since, until = max(item["current_period_start"] for item in items), min(item["current_period_end"] for item in items)
    for item in once:
        price = lines.price_in(item["price"], subscription["currency"])
        for one in lines.advance(world, price, {"id": None, "quantity": item["quantity"]}, period or (since, until)):
            add_pending(world, subscription, one, item["metadata"])


def add_pending(world: World, subscription: Json, one: Json, metadata: Json | None = None) -> Json:
    """Store a line as an invoice item that waits for the next invoice."""
    pricing = {
        "type": "price_details",
        "price_details": {"price": one["price"], "product": one["product"]},
        "unit_amount_decimal": one["unit_amount_decimal"],
    }
    details = {"subscription": subscription["id"], "subscription_item": one["item"]}
    item = world.new("invoiceitem", {
        "amount": one["amount"], "currency": one["currency"], "customer": subscription["customer"], "customer_account": None,
        "date": world.now(subscription), "description": one["description"], "discountable": False, "discounts": [], "invoice": None,
        "metadata": metadata or {}, "net_amount": one["amount"], "period": one["period"],
        "parent": {"type": "subscription_details", "subscription_details": details},
        "pricing": pricing, "proration": one["proration"], "proration_details": None, "quantity": one["quantity"],
        "quantity_decimal": str(one["quantity"]), "tax_rates": [], "test_clock": subscription["test_clock"],
        "_subscription": subscription["id"],
    })  # fmt: skip
    item.pop("created")
    world.store.save(item)
    world.emit("invoiceitem.created", item)
    return item
