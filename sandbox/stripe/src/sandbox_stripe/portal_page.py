"""The billing portal page: subscriptions, card, invoices."""

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sandbox_stripe import lifecycle, lines, portal, status
from sandbox_stripe.cards import CARDS
from sandbox_stripe.checkout_page import terms
from sandbox_stripe.errors import Json, StripeError
from sandbox_stripe.forms_page import read_card, read_form
from sandbox_stripe.service import Sandbox
from turnpike_ui.errors import PageError
from turnpike_ui.pages import Pages

INVOICES_MAX = 24
NOTES = {
    "card": "The new card is saved. Payments that are due are tried with it.",
    "canceled": "The subscription ends with the period that has been started. You can take that back until then.",
    "kept": "The subscription goes on.",
}


def _find(request: Request) -> tuple[Sandbox, Json, Json]:
    sandbox: Sandbox = request.app.state.sandbox
    session = portal.find_session(sandbox.world, request.path_params["secret"])
    customer = sandbox.world.store.find(session["customer"], "customer") if session else None
    if session is None or customer is None:
        raise PageError(410, "This link has ended", "Links to the billing portal work for one hour. Open a new one where you came from.")
    return sandbox, session, customer


def _subscription(sandbox: Sandbox, one: Json) -> Json:
    items = []
    for item in lifecycle.items_of(sandbox.world.store, one):
        price = lines.price_of(sandbox.world, item, one["currency"])
        items.append(
            {
                "name": lines.name_of(sandbox.world, price),
                "terms": terms(price),
                "quantity": item["quantity"],
                "end": item["current_period_end"],
            }
        )
    return {
        "body": one,
        "rows": items,
        "end": items[0]["end"] if items else one["ended_at"],
        "name": items[0]["name"] if items else "Subscription",
    }


def _methods(sandbox: Sandbox, customer: Json) -> Json | None:
    """Return the card that the next payment takes."""
    store = sandbox.world.store
    ids = [customer["invoice_settings"]["default_payment_method"]]
    ids += [one["default_payment_method"] for one in store.select("subscription", customer=customer["id"], newest_first=True)]
    return next((found for id_ in ids if id_ and (found := store.find(id_, "payment_method"))), None)


def _show(
    request: Request, sandbox: Sandbox, session: Json, customer: Json, errors: dict[str, str], *, decline: str | None = None
) -> Response:
    store = sandbox.world.store
    configuration = store.find(session["configuration"]) or {"features": portal.DEFAULTS}
    subscriptions = [_subscription(sandbox, one) for one in store.select("subscription", customer=customer["id"], newest_first=True)]
    invoices = [one for one in store.select("invoice", customer=customer["id"], newest_first=True) if one["status"] != "draft"][
        :INVOICES_MAX
    ]
    context: dict[str, Any] = {
        "session": session, "customer": customer, "features": configuration["features"], "method": _methods(sandbox, customer),
        "subscriptions": subscriptions, "invoices": invoices, "errors": errors, "decline": decline, "ended": status.ENDED,
        "owing": [one for one in invoices if one["status"] == "open" and one["attempted"]], "cards": CARDS[:1] + CARDS[5:8],
        "note": NOTES.get(request.query_params.get("done", "")), "address": f"/p/session/{session['_lookup']}",
    }  # fmt: skip
    pages: Pages = request.app.state.pages
    return pages.render(request, "portal.html", context, 422 if errors or decline else 200)


async def show_portal(request: Request) -> Response:
    return _show(request, *_find(request), {})


async def save_card(request: Request) -> Response:
    form = await read_form(request)
    sandbox, session, customer = _find(request)
    typed = read_card(form, sandbox.world.now(customer))
    if typed.card is None:
        return _show(request, sandbox, session, customer, typed.errors)
    try:
        with sandbox.world.store.transaction():
            portal.update_card(sandbox.world, sandbox.world.get("customer", customer["id"]), typed.card, typed.expiry)
    except StripeError as error:
        return _show(request, sandbox, session, customer, {}, decline=str(error))
    sandbox.changed()
    return RedirectResponse(f"/p/session/{session['_lookup']}?done=card", 303)


async def change_end(request: Request) -> Response:
    """Cancel at the period's end, or take that back."""
    await read_form(request)
    sandbox, session, customer = _find(request)
    if request.path_params["act"] not in {"cancel", "keep"}:
        raise PageError(404, "There is no such page", "Use the buttons of the billing page.")
    cancels = request.path_params["act"] == "cancel"
    world = sandbox.world
    with world.store.transaction():
        found = world.store.find(request.path_params["id"], "subscription")
        if found is None or found["customer"] != customer["id"] or found["status"] in status.ENDED:
            raise PageError(
                409, "This subscription cannot be changed", "It has ended already.", action=("Back", f"/p/session/{session['_lookup']}")
            )
        portal.set_cancellation(world, found, at_period_end=cancels)
    sandbox.changed()
    return RedirectResponse(f"/p/session/{session['_lookup']}?done={'canceled' if cancels else 'kept'}", 303)


ROUTES = [
    Route("/p/session/{secret}", show_portal, methods=["GET"]),
    Route("/p/session/{secret}/card", save_card, methods=["POST"]),
    Route("/p/session/{secret}/subscriptions/{id}/{act:str}", change_end, methods=["POST"]),
]
