"""Customers and their payment methods."""

from datetime import UTC, datetime

from sandbox_stripe import cards, status
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.catalogue import set_fields
from sandbox_stripe.errors import Json, declined, invalid, missing_parameter
from sandbox_stripe.render import page
from sandbox_stripe.world import World, merge_metadata

ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
CLEARABLE = ("description", "email", "name", "phone", "business_name", "individual_name", "address", "shipping")


@route("post", "/v1/customers")
def create_customer(call: Call) -> Json:
    given = call.params
    world = call.world
    clock = given.get("test_clock")
    if clock:
        world.get("test_helpers.test_clock", clock, "test_clock", status=400)
    customer = add_customer(world, given)
    method = given.get("payment_method")
    if method:
        attach(world, usable_method(world, method), customer)
    default = (given.get("invoice_settings") or {}).get("default_payment_method")
    if default:
        _set_default(world, customer, default)
    world.store.save(customer)
    world.emit("customer.created", customer)
    return call.show(customer)


def add_customer(world: World, given: Json) -> Json:
    fields: Json = {
        "address": _address(given.get("address")), "balance": given.get("balance", 0), "currency": None, "default_source": None,
        "delinquent": False, "description": given.get("description") or None, "discount": None, "email": given.get("email") or None,
        "invoice_prefix": given.get("invoice_prefix") or f"TP{world.store.bump('customers'):06d}",
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None},
        "metadata": {}, "name": given.get("name") or None, "next_invoice_sequence": given.get("next_invoice_sequence", 1),
        "phone": given.get("phone") or None, "preferred_locales": given.get("preferred_locales", []), "shipping": given.get("shipping"),
        "tax_exempt": given.get("tax_exempt") or "none", "test_clock": given.get("test_clock"), "_lookup": given.get("email") or None,
        "_parent": given.get("test_clock"),
    }  # fmt: skip
    for name in ("business_name", "individual_name"):
        if given.get(name):
            fields[name] = given[name]
    merge_metadata(fields, given)
    return world.new("customer", fields)


def _address(given: Json | str | None) -> Json | None:
    if not isinstance(given, dict):
        return None
    return {name: given.get(name) or None for name in ADDRESS}


@route("get", "/v1/customers/{customer}")
def retrieve_customer(call: Call) -> Json:
    if call.world.store.is_deleted(call.id):
        return {"id": call.id, "object": "customer", "deleted": True}
    return call.show(call.world.get("customer", call.id))


@route("get", "/v1/customers")
def list_customers(call: Call) -> Json:
    columns = {"lookup": call.params["email"]} if call.params.get("email") else {}
    return call.page("customer", keep=equal(call.params, "test_clock"), **columns)


@route("post", "/v1/customers/{customer}")
def update_customer(call: Call) -> Json:
    world, given = call.world, call.params
    customer = world.get("customer", call.id, "customer")
    with world.changing(customer, "customer.updated"):
        set_fields(customer, given, *CLEARABLE)
        set_fields(customer, given, "balance", "invoice_prefix", "next_invoice_sequence", "preferred_locales")
        customer["_lookup"] = customer["email"]
        if isinstance(given.get("address"), dict):
            customer["address"] = _address(given["address"])
        if "tax_exempt" in given:
            customer["tax_exempt"] = given["tax_exempt"] or "none"
        merge_metadata(customer, given)
        settings = given.get("invoice_settings") or {}
        if "default_payment_method" in settings:
            _set_default(world, customer, settings["default_payment_method"])
        set_fields(customer["invoice_settings"], settings, "footer", "custom_fields")
    return call.show(customer)


def _set_default(world: World, customer: Json, method: str) -> None:
    if method:
        found = world.get("payment_method", method, "invoice_settings[default_payment_method]", status=400)
        if found["customer"] != customer["id"]:
            message = (
                "The customer does not have a payment method with the ID "
                + method
                + ". The payment method must be attached to the customer."
            )
            raise invalid(message, "invoice_settings[default_payment_method]", "resource_missing")
    customer["invoice_settings"]["default_payment_method"] = method or None


# --- payment methods ---


def new_card(world: World, card: cards.Card, *, exp_month: int, exp_year: int, email: str | None = None, name: str | None = None) -> Json:
    address = dict.fromkeys(ADDRESS)
    return world.new("payment_method", {
        "allow_redisplay": "unspecified", "customer": None, "metadata": {}, "type": "card",
        "billing_details": {"address": address, "email": email, "name": name, "phone": None, "tax_id": None},
        "card": {
            "brand": card.brand, "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US", "display_brand": card.brand, "exp_month": exp_month, "exp_year": exp_year,
            "fingerprint": f"fp{card.last4}sandbox",
            "funding": "credit", "generated_from": None, "last4": card.last4, "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated", "three_d_secure_usage": {"supported": True}, "wallet": None,
        },
        "_number": card.number,
    })  # fmt: skip


def card_of(method: Json) -> cards.Card:
    return cards.find_card(method["_number"])


def usable_method(world: World, id_: str, param: str = "payment_method") -> Json:
    """Return a payment method; `pm_card_visa` and its kin are made on the spot."""
    if id_ in cards.BY_TOKEN:
        return new_card(world, cards.BY_TOKEN[id_], exp_month=12, exp_year=datetime.fromtimestamp(world.now(), UTC).year + 4)
    return world.get("payment_method", id_, param, status=400)


def attach(world: World, method: Json, customer: Json) -> Json:
    if method["customer"] == customer["id"]:
        return method
    if method["customer"]:
        raise invalid("This PaymentMethod is already attached to another customer.", "payment_method", "payment_method_already_attached")
    refusal = card_of(method).on_attach
    if refusal:
        raise declined(refusal.code, refusal.decline_code, refusal.message)
    method["customer"] = customer["id"]
    world.store.save(method)
    world.emit("payment_method.attached", method)
    return method


@route("post", "/v1/payment_methods")
def create_payment_method(call: Call) -> Json:
    given = call.params
    if given.get("type") != "card":
        raise invalid("This sandbox takes cards only: `type` must be `card`.", "type")
    card = given.get("card") or {}
    if card.get("token"):
        if card["token"] not in cards.BY_TOKEN:
            raise invalid(f"No such token: '{card['token']}'", "card[token]", "resource_missing")
        return call.show(usable_method(call.world, card["token"]))
    for name in ("number", "exp_month", "exp_year"):
        if not card.get(name):
            raise missing_parameter(f"card[{name}]")
    if not cards.is_card_number(cards.digits_of(card["number"])):
        raise declined("incorrect_number", None, "Your card number is incorrect.")
    details = given.get("billing_details") or {}
    found = cards.find_card(card["number"])
    method = new_card(
        call.world,
        found,
        exp_month=card["exp_month"],
        exp_year=card["exp_year"],
        email=details.get("email") or None,
        name=details.get("name") or None,
    )
    merge_metadata(method, given)
    return call.show(call.world.store.save(method))


@route("get", "/v1/payment_methods/{payment_method}")
def retrieve_payment_method(call: Call) -> Json:
    return call.show(call.world.get("payment_method", call.id, "payment_method"))


@route("get", "/v1/payment_methods")
def list_payment_methods(call: Call) -> Json:
    if not call.params.get("customer"):
        return page([], call.path)
    return call.page("payment_method", keep=equal(call.params, "type"), customer=call.params["customer"])


@route("get", "/v1/customers/{customer}/payment_methods")
def list_customer_payment_methods(call: Call) -> Json:
    customer = call.world.get("customer", call.id, "customer")
    return call.page("payment_method", keep=equal(call.params, "type"), customer=customer["id"])


@route("get", "/v1/customers/{customer}/payment_methods/{payment_method}")
def retrieve_customer_payment_method(call: Call) -> Json:
    method = call.world.get("payment_method", call.ids["payment_method"], "payment_method")
    if method["customer"] != call.ids["customer"]:
        raise invalid("The payment method is not attached to this customer.", "payment_method", "resource_missing")
    return call.show(method)


@route("post", "/v1/payment_methods/{payment_method}")
def update_payment_method(call: Call) -> Json:
    method = call.world.get("payment_method", call.id, "payment_method")
    with call.world.changing(method, "payment_method.updated"):
        merge_metadata(method, call.params)
        set_fields(method["card"], call.params.get("card") or {}, "exp_month", "exp_year")
    return call.show(method)


@route("post", "/v1/payment_methods/{payment_method}/attach")
def attach_payment_method(call: Call) -> Json:
    call.require("customer")
    method = usable_method(call.world, call.id)
    return call.show(attach(call.world, method, call.world.get("customer", call.params["customer"], "customer", status=400)))


@route("post", "/v1/payment_methods/{payment_method}/detach")
def detach_payment_method(call: Call) -> Json:
    world = call.world
    method = world.get("payment_method", call.id, "payment_method")
    if not method["customer"]:
        raise invalid("The payment method you provided is not attached to a customer so detachment is impossible.", "payment_method")
    customer = world.get("customer", method["customer"], "customer")
    before = {"customer": method["customer"]}
    method["customer"] = None
    world.store.save(method)
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        with world.changing(customer, "customer.updated"):
            customer["invoice_settings"]["default_payment_method"] = None
    for one in list(world.store.select("subscription", customer=customer["id"])):
        if one["default_payment_method"] == method["id"]:
            one["default_payment_method"] = None
            world.store.save(one)
    world.emit("payment_method.detached", method, before)
    return call.show(method)


@route("delete", "/v1/customers/{customer}")
def delete_customer(call: Call) -> Json:
    """Delete a customer; its subscriptions end at once and unbilled usage is lost."""
    world = call.world
    customer = world.get("customer", call.id, "customer")
    for subscription in list(world.store.select("subscription", customer=customer["id"])):
        if subscription["status"] not in status.ENDED:
            status.end(world, subscription, "cancellation_requested")
    world.emit("customer.deleted", customer)
    world.store.delete(customer["id"])
    return {"id": customer["id"], "object": "customer", "deleted": True}
