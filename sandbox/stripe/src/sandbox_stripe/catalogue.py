"""Products, prices and billing meters."""

from decimal import Decimal

from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.errors import Json, StripeError, invalid, missing_parameter
from sandbox_stripe.rating import text_of
from sandbox_stripe.world import World, merge_metadata

LOOKUP_KEYS_MAX = 10
TIERS_MAX = 1_000
UNIT_AMOUNT_DECIMALS_MAX = 12
YEARS_MAX = {"day": 1095, "week": 156, "month": 36, "year": 3}


# --- products ---


@route("post", "/v1/products")
def create_product(call: Call) -> Json:
    given = call.params
    if given.get("id") and call.world.store.find(given["id"], deleted=True):
        raise StripeError(400, f"Product already exists: {given['id']}", code="resource_already_exists", param="id")
    product = add_product(call.world, given)
    default = given.get("default_price_data")
    if default:
        price = new_price(call.world, {**default, "product": product["id"]})
        product["default_price"] = price["id"]
        call.world.store.save(product)
        call.world.emit("price.created", price)
    call.world.emit("product.created", product)
    return call.show(product)


def add_product(world: World, given: Json) -> Json:
    fields = {
        "active": given.get("active", True), "default_price": None, "description": given.get("description") or None,
        "images": given.get("images", []), "marketing_features": given.get("marketing_features", []), "metadata": {},
        "name": given["name"], "package_dimensions": None, "shippable": given.get("shippable"),
        "statement_descriptor": given.get("statement_descriptor"), "tax_code": given.get("tax_code"), "type": "service",
        "unit_label": given.get("unit_label"), "updated": world.now(), "url": given.get("url"),
    }  # fmt: skip
    merge_metadata(fields, given)
    return world.new("product", {**fields, **({"id": given["id"]} if given.get("id") else {})})


@route("get", "/v1/products/{id}")
def retrieve_product(call: Call) -> Json:
    return call.show(call.world.get("product", call.id))


@route("get", "/v1/products")
def list_products(call: Call) -> Json:
    ids = call.params.get("ids")
    same = equal(call.params, "active", "shippable", "url")
    return call.page("product", keep=lambda one: same(one) and (not ids or one["id"] in ids))


@route("post", "/v1/products/{id}")
def update_product(call: Call) -> Json:
    product = call.world.get("product", call.id)
    given = call.params
    if given.get("default_price"):
        call.world.get("price", given["default_price"], "default_price", status=400)
    with call.world.changing(product, "product.updated"):
        set_fields(product, given, "active", "name", "images", "marketing_features", "shippable")
        set_fields(product, given, "default_price", "description", "statement_descriptor", "tax_code", "unit_label", "url")
        merge_metadata(product, given)
        product["updated"] = call.world.now()
    return call.show(product)


@route("delete", "/v1/products/{id}")
def delete_product(call: Call) -> Json:
    product = call.world.get("product", call.id)
    if next(call.world.store.select("price", parent=product["id"]), None):
        raise invalid("This product cannot be deleted because it has one or more user-created prices.", "id")
    call.world.emit("product.deleted", product)
    call.world.store.delete(product["id"])
    return {"id": product["id"], "object": "product", "deleted": True}


def set_fields(body: Json, given: Json, *names: str) -> None:
    """Copy what was given; an empty string clears."""
    for name in names:
        if name in given:
            body[name] = None if given[name] == "" else given[name]


# --- prices ---


@route("post", "/v1/prices")
def create_price(call: Call) -> Json:
    given = dict(call.params)
    if "product_data" in given:
        product = add_product(call.world, given.pop("product_data"))
        call.world.emit("product.created", product)
        given["product"] = product["id"]
    if not given.get("product"):
        raise missing_parameter("product")
    call.world.get("product", given["product"], "product", status=400)
    price = new_price(call.world, given)
    call.world.emit("price.created", price)
    return call.show(price)


def new_price(world: World, given: Json) -> Json:
    """Insert a price after the checks that the contract cannot express."""
    tiered = given.get("billing_scheme") == "tiered"
    amounts = {"unit_amount": None, "unit_amount_decimal": None} if tiered else _unit_amounts(given, "")
    recurring = _recurring(world, given["recurring"]) if given.get("recurring") else None
    if not tiered and (given.get("tiers") or given.get("tiers_mode")):
        raise invalid("`tiers` and `tiers_mode` can only be set when `billing_scheme=tiered`.", "tiers")
    if tiered and given.get("transform_quantity"):
        raise invalid("`transform_quantity` cannot be combined with `tiers`.", "transform_quantity", "parameters_exclusive")
    if tiered and not given.get("tiers_mode"):
        raise missing_parameter("tiers_mode")
    if given.get("transform_quantity", {}).get("divide_by", 1) < 1:
        raise invalid("This value must be greater than or equal to 1.", "transform_quantity[divide_by]")
    fields = {
        "active": given.get("active", True), "billing_scheme": given.get("billing_scheme", "per_unit"),
        "currency": _currency(given["currency"]), "custom_unit_amount": None, "lookup_key": None, "metadata": {},
        "nickname": given.get("nickname") or None, "product": given["product"], "recurring": recurring,
        "tax_behavior": given.get("tax_behavior", "unspecified"), "tiers_mode": given.get("tiers_mode"),
        "transform_quantity": given.get("transform_quantity"), "type": "recurring" if recurring else "one_time", **amounts,
        "_parent": given["product"], "_tiers": _tiers(given.get("tiers") or [], "tiers") if tiered else None,
        "_currency_options": {key: _option(one, key) for key, one in given.get("currency_options", {}).items()},
    }  # fmt: skip
    merge_metadata(fields, given)
    price = world.new("price", fields)
    _set_lookup_key(world, price, given)
    return price


def _currency(text: str) -> str:
    if len(text) != 3 or not text.isascii() or not text.isalpha():
        raise invalid(f"Invalid currency: {text[:20]}", "currency")
    return text.lower()


def _recurring(world: World, given: Json) -> Json:
    usage, meter, count = given.get("usage_type", "licensed"), given.get("meter"), given.get("interval_count", 1)
    if usage == "metered" and not meter:
        raise invalid(
            "You must specify `recurring[meter]` when `recurring[usage_type]` is `metered`.", "recurring[meter]", "parameter_missing"
        )
    if meter and usage != "metered":
        raise invalid("`recurring[meter]` can only be set when `recurring[usage_type]` is `metered`.", "recurring[meter]")
    if meter and world.get("billing.meter", meter, "recurring[meter]", status=400)["status"] != "active":
        raise invalid("The meter is inactive.", "recurring[meter]", "archived_meter")
    if not 1 <= count <= YEARS_MAX[given["interval"]]:
        raise invalid("The maximum interval is three years.", "recurring[interval_count]")
    trial = given.get("trial_period_days")
    return {"interval": given["interval"], "interval_count": count, "meter": meter, "trial_period_days": trial, "usage_type": usage}


def _unit_amounts(given: Json, prefix: str) -> Json:
    if given.get("unit_amount") is not None and given.get("unit_amount_decimal"):
        raise invalid("You may only specify one of these parameters: unit_amount, unit_amount_decimal.", f"{prefix}unit_amount")
    if given.get("unit_amount") is None and not given.get("unit_amount_decimal"):
        raise missing_parameter(f"{prefix}unit_amount")
    return amounts(given, "unit_amount")


def amounts(given: Json, key: str) -> Json:
    """Return `key` and `key_decimal`: the whole number is null when the decimal is not whole."""
    value = given.get(f"{key}_decimal")
    if value in {None, ""}:
        value = given.get(key)
    if value is None:
        return {key: None, f"{key}_decimal": None}
    exact = Decimal(str(value))
    if exact < 0:
        raise invalid("Invalid non-negative integer", key, "parameter_invalid_integer")
    if exact.scaleb(UNIT_AMOUNT_DECIMALS_MAX) % 1:
        raise invalid(f"Invalid decimal: {exact}; must contain at maximum {UNIT_AMOUNT_DECIMALS_MAX} decimal places.", f"{key}_decimal")
    return {key: int(exact) if exact == exact.to_integral_value() else None, f"{key}_decimal": text_of(exact)}


def _tiers(given: list[Json], name: str) -> list[Json]:
    if not given:
        raise missing_parameter(name)
    if len(given) > TIERS_MAX:
        raise invalid(f"A price can have at most {TIERS_MAX} tiers.", name)
    tiers: list[Json] = []
    below = 0
    for index, one in enumerate(given):
        where = f"{name}[{index}]"
        up_to = None if one["up_to"] == "inf" else one["up_to"]
        if (up_to is None) != (index == len(given) - 1):
            raise invalid("The last tier must have `up_to` set to `inf`, and only the last one.", f"{where}[up_to]")
        if up_to is not None and up_to <= below:
            raise invalid("Tiers must be in ascending order of `up_to`.", f"{where}[up_to]")
        tier = {**amounts(one, "flat_amount"), **amounts(one, "unit_amount"), "up_to": up_to}
        if tier["flat_amount_decimal"] is None and tier["unit_amount_decimal"] is None:
            raise invalid("An entry in the tiers array is missing an amount.", where, "parameter_missing")
        if tier["flat_amount_decimal"] is not None and tier["flat_amount"] is None:
            raise invalid("A flat amount must be a whole number of the currency's minor unit.", f"{where}[flat_amount_decimal]")
        tiers.append(tier)
        below = up_to or below
    return tiers


def _option(given: Json, currency: str) -> Json:
    where = f"currency_options[{currency}]"
    tiers = {"tiers": _tiers(given["tiers"], f"{where}[tiers]")} if given.get("tiers") else {}
    found = amounts(given, "unit_amount") if tiers else _unit_amounts(given, where)
    return {"custom_unit_amount": None, "tax_behavior": given.get("tax_behavior", "unspecified"), **found, **tiers}


def _set_lookup_key(world: World, price: Json, given: Json) -> None:
    key = given.get("lookup_key")
    if key is None:
        return
    if len(key) > 200:
        raise invalid("Invalid string: must be at most 200 characters", "lookup_key")
    holder = next(world.store.select("price", lookup=key), None) if key else None
    if holder and holder["id"] != price["id"]:
        if not given.get("transfer_lookup_key"):
            message = f"A price (`{holder['id']}`) already uses that lookup key."
            raise StripeError(400, message, code="resource_already_exists", param="lookup_key")
        with world.changing(holder, "price.updated"):
            holder["lookup_key"] = holder["_lookup"] = None
    price["lookup_key"] = price["_lookup"] = key or None
    world.store.save(price)


@route("get", "/v1/prices/{price}")
def retrieve_price(call: Call) -> Json:
    return call.show(call.world.get("price", call.id, "price"))


@route("get", "/v1/prices")
def list_prices(call: Call) -> Json:
    keys, recurring = call.params.get("lookup_keys"), call.params.get("recurring") or {}
    if keys and len(keys) > LOOKUP_KEYS_MAX:
        raise invalid(f"You can pass at most {LOOKUP_KEYS_MAX} lookup keys.", "lookup_keys")
    same, same_recurring = equal(call.params, "active", "currency", "product", "type"), equal(recurring, "interval", "usage_type", "meter")

    def keep(one: Json) -> bool:
        return same(one) and (not keys or one["lookup_key"] in keys) and (not recurring or same_recurring(one["recurring"] or {}))

    columns = {"parent": call.params["product"]} if call.params.get("product") else {}
    if keys and len(keys) == 1:
        columns = {"lookup": keys[0]}
    return call.page("price", keep=keep, **columns)


@route("post", "/v1/prices/{price}")
def update_price(call: Call) -> Json:
    price = call.world.get("price", call.id, "price")
    given = call.params
    with call.world.changing(price, "price.updated"):
        set_fields(price, given, "active", "nickname", "tax_behavior")
        merge_metadata(price, given)
        for currency, option in (given.get("currency_options") or {}).items():
            price["_currency_options"][currency] = _option(option, currency)
        _set_lookup_key(call.world, price, given)
    return call.show(price)
