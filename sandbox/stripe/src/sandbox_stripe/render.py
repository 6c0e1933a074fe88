"""From stored objects to what Stripe answers: private fields left out, parts put in, `expand` followed."""

from typing import Any

from sandbox_stripe import contract
from sandbox_stripe.errors import Json, StripeError, invalid, missing_resource
from sandbox_stripe.store import Store

LINES_MAX = 10
EXPAND_DEPTH_MAX = 4
INCLUDES = {
    ("price", "tiers"), ("price", "currency_options"), ("checkout.session", "line_items"), ("invoice", "payments"),
    ("customer", "subscriptions"), ("customer", "tax"), ("customer", "sources"), ("customer", "invoice_credit_balance"),
}  # fmt: skip


def page(data: list[Json], url: str, *, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def render(store: Store, body: Json) -> Json:
    """Return the public form of a stored object, with nothing expanded."""
    shown = {key: value for key, value in body.items() if key[0] != "_"}
    match body["object"]:
        case "subscription":
            items = [render(store, item) for item in store.select("subscription_item", parent=body["id"])]
            shown["items"] = page(items, f"/v1/subscription_items?subscription={body['id']}")
        case "subscription_item":
            price = store.find(body["_price"], deleted=True)
            assert price is not None
            shown["price"], shown["plan"] = render(store, price), plan_of(price)
        case "invoice":
            lines = [render(store, line) for line in store.select("line_item", parent=body["id"])]
            shown["lines"] = page(lines[:LINES_MAX], f"/v1/invoices/{body['id']}/lines", has_more=len(lines) > LINES_MAX)
    return shown


def plan_of(price: Json) -> Json:
    """Return the old `plan` view of a price, which subscription items still carry."""
    recurring = price["recurring"]
    return {
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": price["billing_scheme"], "created": price["created"],
        "currency": price["currency"], "interval": recurring["interval"], "interval_count": recurring["interval_count"],
        "livemode": False, "metadata": price["metadata"], "meter": recurring["meter"], "nickname": price["nickname"],
        "product": price["product"], "tiers_mode": price["tiers_mode"], "transform_usage": price["transform_quantity"],
        "trial_period_days": recurring["trial_period_days"], "usage_type": recurring["usage_type"],
    }  # fmt: skip


def expand(store: Store, shown: Json, paths: list[str]) -> Json:
    """Follow every path of `expand`, at most four levels deep."""
    for path in paths:
        segments = path.split(".")
        if len(segments) > EXPAND_DEPTH_MAX:
            message = f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property. Property: {path}"
            raise StripeError(400, message, code="property_expansion_max_depth", param="expand")
        _follow(store, shown, segments, path)
    return shown


def _follow(store: Store, node: Any, segments: list[str], path: str) -> None:
    if not segments or node is None:
        return
    if isinstance(node, list):
        for element in node:
            _follow(store, element, segments, path)
        return
    name = segments[0]
    kind = node.get("object", "")
    if (kind, name) in INCLUDES:
        if name not in node:
            node[name] = include(store, node, name)
    elif isinstance(node.get(name), str):
        if not _expandable(kind, name, node):
            raise invalid(f"This property cannot be expanded ({path}).", "expand")
        node[name] = fetch(store, node[name])
    elif isinstance(node.get(name), list) and node[name] and isinstance(node[name][0], str) and _expandable(kind, name, node):
        node[name] = [fetch(store, id_) for id_ in node[name]]
    elif name not in node and not _known(kind, name):
        raise invalid(f"This property cannot be expanded ({path}).", "expand")
    _follow(store, node.get(name), segments[1:], path)


def _known(kind: str, name: str) -> bool:
    schema = contract.schemas().get(kind)
    return schema is None or name in schema.get("properties", {})


def _expandable(kind: str, name: str, node: Json) -> bool:
    schema = contract.schemas().get(kind)
    if schema is None:  # a part without a name of its own: its ids are those of objects that we hold
        return "_" in str(node[name])
    prop = schema.get("properties", {}).get(name, {})
    return bool(prop.get("x-expandable") or prop.get("items", {}).get("x-expandable"))


def fetch(store: Store, id_: str) -> Json:
    found = store.find(id_, deleted=True)
    if found is None:
        raise missing_resource("object", id_)
    if store.is_deleted(id_):
        return {"id": id_, "object": found["object"], "deleted": True}
    return render(store, found)


def include(store: Store, node: Json, name: str) -> Any:
    """Return a part that only comes when asked for."""
    id_ = node["id"]
    if name == "tiers":
        stored = store.find(id_, deleted=True) or {}
        return stored.get("_tiers")
    if name == "currency_options":
        return _currency_options(store, id_)
    if name == "line_items":
        items = [render(store, item) for item in store.select("item", parent=id_)]
        return page([with_price(store, item) for item in items], f"/v1/checkout/sessions/{id_}/line_items")
    if name == "payments":
        return page(
            [render(store, one) for one in store.select("invoice_payment", parent=id_, newest_first=True)], f"/v1/invoices/{id_}/payments"
        )
    if name == "subscriptions":
        alive = store.select("subscription", customer=id_, newest_first=True, keep=lambda one: one["status"] != "canceled")
        return page([render(store, one) for one in alive], f"/v1/customers/{id_}/subscriptions")
    return None


def with_price(store: Store, item: Json) -> Json:
    if isinstance(item.get("price"), str):
        item["price"] = fetch(store, item["price"])
    return item


def _currency_options(store: Store, id_: str) -> Json:
    price = store.find(id_, deleted=True) or {}
    base = {
        "custom_unit_amount": None, "tax_behavior": price["tax_behavior"], "unit_amount": price["unit_amount"],
        "unit_amount_decimal": price["unit_amount_decimal"],
    }  # fmt: skip
    if price["billing_scheme"] == "tiered":
        base["tiers"] = price["_tiers"]
    return {price["currency"]: base, **price.get("_currency_options", {})}
