"""The pages: Checkout, billing portal, invoices, and an overview of the account."""

from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_stripe import checkout_page, portal_page
from sandbox_stripe.errors import Json
from sandbox_stripe.service import Sandbox
from sandbox_stripe.store import Store
from turnpike_ui.errors import PageError
from turnpike_ui.pages import Brand, NavLink, Pages

NEWEST = 15
DELIVERIES_SHOWN = 60
TEMPLATES = Path(__file__).parent / "templates"
BADGES = {
    "active": "good", "paid": "good", "delivered": "good", "trialing": "accent", "open": "warn", "past_due": "warn", "pending": "accent",
    "held": "warn", "unpaid": "bad", "failed": "bad", "incomplete": "warn", "uncollectible": "bad", "dropped": "bad",
}  # fmt: skip


def install(app: Starlette, sandbox: Sandbox) -> None:
    pages = Pages(
        "Sandbox Stripe", [TEMPLATES], [NavLink("Overview", "/"), NavLink("Webhooks", "/webhooks")],
        brand=Brand("Sandbox Stripe", sandbox=True, note="No real money",
        footer="A Stripe on your machine. Times are UTC, by the business clock."),
        public_origin=sandbox.settings.public_url.rstrip("/") or None, csrf_exempt=["/_sandbox/"],
    )  # fmt: skip
    pages.environment.globals.update(badges=BADGES)
    pages.environment.filters.update(at=at, words=words)
    pages.install(app)
    app.state.pages = pages


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


def words(code: str) -> str:
    """`past_due` reads `Past due`."""
    return code.replace("_", " ").capitalize()


def newest(store: Store, type_: str, limit: int = NEWEST) -> list[Json]:
    found: list[Json] = []
    for one in store.select(type_, newest_first=True):
        found.append(one)
        if len(found) == limit:
            break
    return found


async def overview(request: Request) -> Response:
    sandbox: Sandbox = request.app.state.sandbox
    store = sandbox.world.store
    customers = {one["id"]: one for one in newest(store, "customer", 200)}
    products = {
        item["_parent"]: checkout_page.product_name(store, item["_price"]) for item in newest(store, "subscription_item", 200)
    }  # fmt: skip
    context = {
        "clock": sandbox.clock(), "now": at(sandbox.world.business_now()), "status": sandbox.status(), "address": sandbox.world.base_url,
        "counts": {kind: store.count(kind) for kind in ("customer", "subscription", "invoice", "event")},
        "customers": list(customers.values())[:NEWEST], "subscriptions": newest(store, "subscription"), "invoices": newest(store,
        "invoice"),
        "names": {id_: one["email"] or one["name"] or id_ for id_, one in customers.items()}, "products": products,
    }  # fmt: skip
    pages: Pages = request.app.state.pages
    return pages.render(request, "overview.html", context)


async def webhooks(request: Request) -> Response:
    sandbox: Sandbox = request.app.state.sandbox
    columns = "event_type, endpoint, state, attempts, last_status, last_error, delivered_wall, event"
    sql = f"SELECT {columns} FROM deliveries ORDER BY id DESC LIMIT {DELIVERIES_SHOWN}"  # noqa: S608 - a constant
    names = ("type", "endpoint", "state", "attempts", "status", "error", "delivered", "event")
    rows = [dict(zip(names, row, strict=True)) for row in sandbox.world.store.execute(sql)]
    endpoints = {one["id"]: one for one in sandbox.world.store.select("webhook_endpoint")}
    pages: Pages = request.app.state.pages
    return pages.render(request, "webhooks.html", {"rows": rows, "endpoints": endpoints, "most": DELIVERIES_SHOWN})


async def invoice(request: Request) -> Response:
    sandbox: Sandbox = request.app.state.sandbox
    store = sandbox.world.store
    found = store.find(request.path_params["id"], "invoice")
    if found is None or found["status"] == "draft":
        raise PageError(404, "There is no such invoice", "The address may be mistyped, or the invoice is still a draft.")
    rows = list(store.select("line_item", parent=found["id"]))
    pages: Pages = request.app.state.pages
    return pages.render(request, "invoice.html", {"invoice": found, "rows": rows})


ROUTES = [
    Route("/", overview),
    Route("/webhooks", webhooks),
    Route("/invoices/{id}", invoice),
    *checkout_page.ROUTES,
    *portal_page.ROUTES,
]
