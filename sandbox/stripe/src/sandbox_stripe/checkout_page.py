"""The Checkout page: what is bought, what is due today, and a card to pay with."""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sandbox_stripe import checkout, lifecycle, lines, money, rating
from sandbox_stripe.cards import CARDS
from sandbox_stripe.errors import Json, StripeError
from sandbox_stripe.forms_page import check_email, read_card, read_form
from sandbox_stripe.service import Sandbox
from sandbox_stripe.store import Store
from sandbox_stripe.world import Request as ApiRequest
from turnpike_ui.errors import PageError
from turnpike_ui.pages import Pages
from turnpike_ui.security import security_headers


def product_name(store: Store, price_id: str) -> str:
    price = store.find(price_id, "price", deleted=True)
    product = store.find(price["product"], "product", deleted=True) if price else None
    return str(product["name"]) if product else "Product"


def terms(price: Json) -> list[str]:
    """Say what a price costs, one sentence a tier."""
    currency, recurring = price["currency"], price["recurring"]
    metered = lines.is_metered(price)
    if price["billing_scheme"] == "tiered":
        return _tier_terms(price)
    transform = price.get("transform_quantity")
    rate = money.show(rating.amount_of(price, "unit_amount"), currency)
    per = f"{transform['divide_by']:,} units" if transform else "unit"
    if not metered:
        every = f" every {recurring['interval']}" if recurring and recurring["interval_count"] == 1 else ""
        return [f"{rate}{every}"]
    started = "each started" if transform and transform["round"] == "up" else "each"
    return [f"{rate} for {started} {per}, billed at the end of the {recurring['interval']}"]


def _tier_terms(price: Json) -> list[str]:
    found, below = [], 0
    for tier in price["_tiers"]:
        unit = money.show(rating.amount_of(tier, "unit_amount"), price["currency"])
        flat = rating.amount_of(tier, "flat_amount")
        span = f"units {below + 1:,} to {tier['up_to']:,}" if tier["up_to"] else f"units above {below:,}" if below else "every unit"
        free = rating.amount_of(tier, "unit_amount") == 0
        sentence = f"{span}: {'included' if free else unit + ' each'}"
        found.append(sentence + (f" plus {money.show(flat, price['currency'])}" if flat else ""))
        below = tier["up_to"] or below
    return found


def _find(request: Request) -> tuple[Sandbox, Json]:
    sandbox: Sandbox = request.app.state.sandbox
    session = sandbox.world.store.find(request.path_params["id"], "checkout.session")
    if session is None:
        raise PageError(404, "There is no such checkout", "The link may be mistyped. Start again where you came from.")
    if session["status"] == "expired":
        back = ("Go back", session["cancel_url"]) if session["cancel_url"] else None
        raise PageError(
            410, "This checkout has ended", "It was open for a while and nothing was paid. Start again where you came from.", action=back
        )
    return sandbox, session


def _show(
    request: Request, sandbox: Sandbox, session: Json, values: dict[str, str], errors: dict[str, str], *, decline: str | None = None
) -> Response:
    world = sandbox.world
    customer = world.store.find(session["customer"], "customer") if session["customer"] else None
    order = checkout.order_of(world, session, customer)
    plan = lifecycle.plan_first_period(order, world.now(customer))
    stand_ins = [{"id": None, "quantity": item["quantity"]} for item in order.items]
    due = sum(one["amount"] for one in lifecycle.first_lines(world, order, plan, stand_ins))
    rows = []
    for item in [*order.items, *order.one_time]:
        price = lines.price_in(item["price"], order.currency)
        rows.append(
            {"name": lines.name_of(world, price), "quantity": item["quantity"], "terms": terms(price), "metered": lines.is_metered(price)}
        )
    context = {
        "session": session, "rows": rows, "due": due, "plan": plan, "values": values, "errors": errors, "decline": decline,
        "locked_email": customer["email"] if customer else None, "needs_card": checkout.needs_card(session),
        "cards": CARDS[:1] + CARDS[5:8],
    }  # fmt: skip
    pages: Pages = request.app.state.pages
    return pages.render(request, "checkout.html", context, 422 if errors or decline else 200, _policy(sandbox, session))


def _policy(sandbox: Sandbox, session: Json) -> dict[str, str]:
    """Name the shop's origin: Chromium applies form-action to the redirect after paying too."""
    parts = urlsplit(session["success_url"])
    return security_headers([f"{parts.scheme}://{parts.netloc}"], sandbox.settings.public_url or None)


async def show_checkout(request: Request) -> Response:
    sandbox, session = _find(request)
    if session["status"] == "complete":
        return RedirectResponse(checkout.success_address(session), 303)
    return _show(request, sandbox, session, {"email": session["customer_email"] or ""}, {})


async def pay(request: Request) -> Response:
    """Pay once. A second click finds the session complete and goes on to where the first one went."""
    form = await read_form(request)
    sandbox, session = _find(request)
    if session["status"] == "complete":
        return RedirectResponse(checkout.success_address(session), 303)
    world = sandbox.world
    customer = world.store.find(session["customer"], "customer") if session["customer"] else None
    email = (customer or {}).get("email") or form.get("email", "")
    errors: dict[str, str] = {}
    wrong_email = check_email(email)
    if wrong_email:
        errors["email"] = wrong_email
    card, expiry = None, (1, 1970)
    if checkout.needs_card(session) or form.get("number"):
        typed = read_card(form, world.now(customer))
        card, expiry = typed.card, typed.expiry
        errors.update(typed.errors)
    if not form.get("name"):
        errors["name"] = "Enter the name on the card"
    kept = {name: form.get(name, "") for name in ("email", "name")}
    if errors:
        return _show(request, sandbox, session, kept, errors)
    try:
        with world.store.transaction():
            session = world.get("checkout.session", session["id"])
            world.request = ApiRequest()
            address = checkout.complete(world, session, email=email, name=form["name"], card=card, expiry=expiry)
    except StripeError as error:
        return _show(request, sandbox, session, kept, {}, decline=str(error))
    sandbox.changed()
    return RedirectResponse(address, 303)


ROUTES = [Route("/c/pay/{id}", show_checkout, methods=["GET"]), Route("/c/pay/{id}", pay, methods=["POST"])]
