"""Checkout sessions: made over the API, completed by a person on the page."""

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from sandbox_stripe import cards, changes, customers, cycle, lifecycle, lines, rating, status, subscriptions
from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.errors import Json, declined, invalid, missing_parameter
from sandbox_stripe.render import page, with_price
from sandbox_stripe.world import World, merge_metadata

OPEN_SECONDS = 24 * 3_600
EXPIRY_SECONDS_MIN, EXPIRY_SECONDS_MAX = 30 * 60, 24 * 3_600
LINE_ITEMS_MAX = 40
NULLS = (
    "adaptive_pricing", "after_expiration", "allow_promotion_codes", "billing_address_collection", "client_secret",
    "collected_information", "consent",
    "consent_collection", "currency_conversion", "customer_account", "customer_creation", "customer_details", "discounts", "invoice",
    "invoice_creation", "locale", "origin_context", "payment_intent", "payment_link", "payment_method_configuration_details",
    "payment_method_options", "permissions", "recovered_from", "saved_payment_method_options", "setup_intent",
    "shipping_address_collection",
    "shipping_cost", "submit_type", "subscription", "wallet_options", "excluded_payment_method_types", "allowed_payment_method_types",
)  # fmt: skip


@route("post", "/v1/checkout/sessions")
def create_session(call: Call) -> Json:
    given, world = call.params, call.world
    _check(given)
    customer = world.get("customer", given["customer"], "customer", status=400) if given.get("customer") else None
    if given.get("customer") and given.get("customer_email"):
        raise invalid("You may only specify one of these parameters: customer, customer_email.", "customer", "parameters_exclusive")
    items = changes.wanted_items(world, _line_items(given), "line_items", given.get("currency"))
    now = world.now(customer)
    expires = given.get("expires_at") or now + OPEN_SECONDS
    if given.get("expires_at") and not now + EXPIRY_SECONDS_MIN - 60 <= expires <= now + EXPIRY_SECONDS_MAX + 60:
        raise invalid("The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", "expires_at")
    order = _order(world, customer, given, items)
    total = amount_due(world, order, now)
    session = _store(world, customer, given, order, total=total, expires=expires)
    for item in items:
        _store_line(world, session, order, item)
    world.store.schedule("expire_session", session["id"], expires, customer["test_clock"] if customer else None)
    return call.show(session)


def _check(given: Json) -> None:
    if given.get("mode") != "subscription":
        raise invalid("This sandbox offers Checkout for subscriptions only: `mode` must be `subscription`.", "mode")
    if not given.get("line_items"):
        raise missing_parameter("line_items")
    if len(given["line_items"]) > LINE_ITEMS_MAX:
        raise invalid("A Checkout Session can have at most 20 recurring and 20 one-time line items.", "line_items")
    if given.get("ui_mode", "hosted_page") != "hosted_page":
        raise invalid("This sandbox shows the hosted page only: `ui_mode` must be `hosted_page`.", "ui_mode")
    if not given.get("success_url"):
        raise missing_parameter("success_url")
    for name in ("success_url", "cancel_url"):
        if given.get(name) and not given[name].startswith(("http://", "https://")):
            raise invalid("Not a valid URL", name, "url_invalid")


def _line_items(given: Json) -> list[Json]:
    found: list[Json] = given["line_items"]
    return found


def _order(world: World, customer: Json | None, given: Json, items: list[Json]) -> lifecycle.Order:
    """Return what will be bought when the page is paid: prices are fixed now, times then."""
    recurring = [item for item in items if item["price"]["recurring"]]
    if not recurring:
        raise invalid("You must provide at least one recurring price in `subscription` mode when using prices.", "line_items")
    buyer = customer or {"id": "", "currency": None, "test_clock": None, "object": "customer"}
    details: dict[str, Any] = given.get("subscription_data") or {}
    named = [{"price": item["price"]["id"], **({} if item["quantity"] is None else {"quantity": item["quantity"]})} for item in recurring]
    order = subscriptions.order_from(world, buyer, {**details, "items": named, "currency": given.get("currency")}, "line_items")
    once = [item for item in items if not item["price"]["recurring"]]
    return replace(order, one_time=once)


def amount_due(world: World, order: lifecycle.Order, now: int) -> int:
    plan = lifecycle.plan_first_period(order, now)
    stand_ins = [{"id": None, "quantity": item["quantity"]} for item in order.items]
    return sum(one["amount"] for one in lifecycle.first_lines(world, order, plan, stand_ins))


def _store(world: World, customer: Json | None, given: Json, order: lifecycle.Order, *, total: int, expires: int) -> Json:
    nothing: Json = dict.fromkeys(NULLS)
    details = given.get("subscription_data") or {}
    session: Json = {
        **nothing, "amount_subtotal": total, "amount_total": total, "cancel_url": given.get("cancel_url"), "currency": order.currency,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None}, "custom_fields": [],
        "client_reference_id": given.get("client_reference_id"), "customer": customer["id"] if customer else None,
        "custom_text": {"after_submit": None, "shipping_address": None, "submit": None, "terms_of_service_acceptance": None},
        "customer_email": given.get("customer_email"), "expires_at": expires, "metadata": {}, "mode": "subscription",
        "payment_method_collection": given.get("payment_method_collection", "always"), "payment_method_types": ["card"],
        "payment_status": "unpaid", "phone_number_collection": {"enabled": False}, "shipping_options": [], "status": "open",
        "success_url": given["success_url"], "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page", "_data": details, "test_clock": customer["test_clock"] if customer else None,
    }  # fmt: skip
    merge_metadata(session, given)
    if customer:
        session["customer_details"] = _details(customer, customer["email"])
    stored = world.new("checkout.session", session)
    stored["_clock"] = stored.pop("test_clock")
    stored["url"] = f"{world.base_url}/c/pay/{stored['id']}"
    return world.store.save(stored)


def _details(customer: Json | None, email: str | None) -> Json:
    known = customer or {}
    details = {
        "address": known.get("address"),
        "business_name": None,
        "individual_name": None,
        "name": known.get("name"),
        "phone": known.get("phone"),
    }
    return {**details, "email": email, "tax_exempt": known.get("tax_exempt", "none"), "tax_ids": []}


def _store_line(world: World, session: Json, order: lifecycle.Order, item: Json) -> None:
    price = lines.price_in(item["price"], order.currency)
    amount = 0 if item["quantity"] is None else rating.total(price, item["quantity"])
    line = world.new("item", {
        "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0, "amount_total": amount, "currency": order.currency,
        "description": lines.name_of(world, price), "price": price["id"], "quantity": item["quantity"], "_parent": session["id"],
    })  # fmt: skip
    line.pop("created")
    line.pop("livemode")
    world.store.save(line)


@route("get", "/v1/checkout/sessions/{session}")
def retrieve_session(call: Call) -> Json:
    return call.show(call.world.get("checkout.session", call.id, "session"))


@route("get", "/v1/checkout/sessions")
def list_sessions(call: Call) -> Json:
    given = call.params
    email = (given.get("customer_details") or {}).get("email")
    same = equal(given, "status", "subscription", "payment_intent")
    columns = {"customer": given["customer"]} if given.get("customer") else {}
    return call.page(
        "checkout.session", keep=lambda one: same(one) and email in {None, (one["customer_details"] or {}).get("email")}, **columns
    )


@route("post", "/v1/checkout/sessions/{session}")
def update_session(call: Call) -> Json:
    session = call.world.get("checkout.session", call.id, "session")
    merge_metadata(session, call.params)
    return call.show(call.world.store.save(session))


@route("get", "/v1/checkout/sessions/{session}/line_items")
def list_line_items(call: Call) -> Json:
    session = call.world.get("checkout.session", call.id, "session")
    items = [with_price(call.world.store, call.show(item)) for item in call.world.store.select("item", parent=session["id"])]
    return page(items, call.path)


@route("post", "/v1/checkout/sessions/{session}/expire")
def expire_session(call: Call) -> Json:
    session = call.world.get("checkout.session", call.id, "session")
    if session["status"] != "open":
        message = f"This Session is not in an expireable state. Its status is {session['status']} but it should be one of `open`."
        raise invalid(message)
    on_expire(call.world, session["id"])
    return call.show(session)


def on_expire(world: World, id_: str) -> None:
    session = world.get("checkout.session", id_)
    if session["status"] != "open":
        return
    session.update(status="expired", url=None)
    world.store.unschedule(id_, "expire_session")
    world.store.save(session)
    world.emit("checkout.session.expired", session)


cycle.TRANSITIONS["expire_session"] = on_expire


# --- the page's side ---


def order_of(world: World, session: Json, customer: Json | None) -> lifecycle.Order:
    wanted = []
    for item in world.store.select("item", parent=session["id"]):
        one = {"price": item["price"]}
        wanted.append(one if item["quantity"] is None else {**one, "quantity": item["quantity"]})
    given = {"subscription_data": session["_data"], "currency": session["currency"]}
    return _order(world, customer, given, changes.wanted_items(world, wanted, "line_items", session["currency"]))


def needs_card(session: Json) -> bool:
    return bool(session["payment_method_collection"] == "always" or session["amount_total"] > 0)


def complete(world: World, session: Json, *, email: str, name: str, card: cards.Card | None, expiry: tuple[int, int]) -> str:
    """Pay: the payment first, then subscription and invoice, then the session. Returns where to send the browser."""
    known = world.store.find(session["customer"], "customer") if session["customer"] else None
    order = order_of(world, session, known)
    now = world.now(known)
    due = amount_due(world, order, now)
    refusal = card and (card.on_attach or (card.on_charge if due else None))
    if refusal:
        raise declined(refusal.code, refusal.decline_code, refusal.message)
    customer = known or customers.add_customer(world, {"email": email, "name": name})
    if known is None:
        world.emit("customer.created", customer)
    elif not known["email"]:
        with world.changing(known, "customer.updated"):
            known["email"] = known["_lookup"] = email
    method = None
    if card:
        method = customers.new_card(world, card, exp_month=expiry[0], exp_year=expiry[1], email=email, name=name)
        customers.attach(world, method, customer)
    order = replace(order, customer=customer, default_payment_method=method["id"] if method else None)
    subscription = lifecycle.start(world, order)
    if subscription["status"] in {"incomplete", *status.ENDED}:
        raise declined("card_declined", "generic_decline", "Your card was declined.")
    session.update(
        status="complete", url=None, subscription=subscription["id"], invoice=subscription["latest_invoice"], customer=customer["id"],
        customer_details={**_details(customer, email), "name": name or customer["name"]}, amount_total=due, amount_subtotal=due,
        payment_status="paid" if due else "no_payment_required" if card is None else "paid",
    )  # fmt: skip
    world.store.unschedule(session["id"], "expire_session")
    world.store.save(session)
    world.emit("checkout.session.completed", session)
    return success_address(session)


def success_address(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", quote(session["id"], safe=""))
