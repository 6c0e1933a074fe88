"""From "Subscribe" to the payment page: what it costs, its name, consent, then checkout or, for a free product, the key."""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import asyncpg
import structlog
from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.events import SubscriptionRequested, derive_id
from billing_common.outbox import announce
from delegation_gateway import domain, subscriptions_store
from delegation_gateway.checkout_gateway import CheckoutRefusedError, CheckoutRequest
from delegation_gateway.domain import Subscription
from delegation_gateway.parts import SUBSCRIPTIONS, HereParts, Parts, SignedIn, check_form, no_such_subscription, other_user
from delegation_gateway.plans import example_costs, plan_of
from delegation_gateway.sessions import Visitor
from delegation_gateway.signature import Link, make_link
from turnpike_ui import PageError

router = APIRouter()
log = structlog.get_logger(__name__)
VERSION_DIGITS_MAX = 10  # more is not a number of the column


@dataclass(frozen=True)
class Offer:
    """A product as it is on sale now."""

    version: int
    catalogue: Catalogue
    product: Product


async def ask_for_subscription(request: Request, parts: Parts, visitor: Visitor, link: Link) -> Response:
    """Show the price and the form, unless the link was used, is another's or the account has the product."""
    offer = await _offer(parts, visitor, link)
    catalogue, product = offer.catalogue, offer.product
    used = await subscriptions_store.request_of_link(parts.pool, link.link_id)
    if used is not None:
        raise used_link()
    await _refuse_second(parts, visitor, product)
    context = {
        "display_name": product.name,
        "consent": False,
        "currency": catalogue.currency_of(product),
        "form_id": secrets.token_urlsafe(16),
    }
    return _page(request, parts, visitor, link, offer=offer, context=context)


async def make_subscription(request: Request, parts: Parts, visitor: Visitor, link: Link, given: dict[str, str]) -> Response:
    """Note the request once and lead on; the same form sent again leads to the same place."""
    offer = await _offer(parts, visitor, link)
    catalogue, product = offer.catalogue, offer.product
    currency = given.get("currency") or catalogue.currency_of(product)
    context = {
        "display_name": given.get("display_name", "")[:200],
        "consent": given.get("consent") == "yes",
        "currency": currency,
        "form_id": given.get("form_id", "")[:64],
    }
    errors = domain.subscribe_errors(given.get("display_name", ""), consent=given.get("consent") == "yes")
    if not product.is_free and catalogue.price_of(product, currency) is None:
        errors["currency"] = f"{product.name} is not sold in this currency"
    if not await _is_as_shown(parts, offer, given.get("catalogue_version", "")):
        context["consent"] = False
        errors["consent-yes"] = "The price or its terms have changed since this page was opened: look at them again"
    if errors:
        return _page(request, parts, visitor, link, offer=offer, context=context, errors=errors)
    asked = subscriptions_store.Request(
        subscription_id=str(derive_id("subscription", link.link_id)),
        link_id=link.link_id,
        form_id=str(context["form_id"]),
        account_id=visitor.account_id,
        user_id=visitor.user_id,
        product_id=product.id,
        catalogue_version=offer.version,
        display_name=given["display_name"].strip(),
        currency=None if product.is_free else currency,
        requested_at=parts.clock.now(),
    )
    await _note(parts, visitor, product, asked)
    if product.is_free:
        return RedirectResponse(f"/subscriptions/{asked.subscription_id}/ready", 303)
    return await to_payment(parts, visitor, asked.subscription_id)


async def _offer(parts: Parts, visitor: Visitor, link: Link) -> Offer:
    if link.values["userId"] != visitor.user_id:
        raise other_user()
    async with parts.pool.acquire() as connection:
        applied = await parts.catalogues.latest(connection)
    if applied is None:
        raise PageError(503, "Nothing is on sale yet", "The catalogue has not been applied. Try again in a minute.")
    try:
        return Offer(*applied, applied[1].product(link.values["productId"]))
    except UnknownProductError:
        raise PageError(
            404, "This product is not on sale", "It may have been replaced. See what is offered now.", action=("See prices", "/pricing")
        ) from None


async def _is_as_shown(parts: Parts, offer: Offer, shown_version: str) -> bool:
    """Tell whether the visitor agreed to what is sold now: a catalogue applied meanwhile may have another price."""
    if shown_version == str(offer.version):
        return True
    if not (shown_version.isascii() and shown_version.isdecimal() and len(shown_version) < VERSION_DIGITS_MAX):
        return False
    async with parts.pool.acquire() as connection:
        shown = await parts.catalogues.version(connection, int(shown_version))
    return shown is not None and _terms(shown, offer.product.id) == _terms(offer.catalogue, offer.product.id)


def _terms(catalogue: Catalogue, product_id: str) -> tuple[Any, ...]:
    return catalogue.currency, catalogue.meters, next((product for product in catalogue.products if product.id == product_id), None)


def used_link() -> PageError:
    return PageError(
        410,
        "This link has been used",
        "A subscription was asked for with it, and such a link works once. Start again in the portal for another one.",
        action=SUBSCRIPTIONS,
    )


async def _refuse_second(parts: Parts, visitor: Visitor, product: Product) -> None:
    present = await subscriptions_store.find_by_product(parts.pool, visitor.account_id, product.id)
    if present is not None:
        raise second_subscription(product, present)


def second_subscription(product: Product, present: Subscription) -> PageError:
    page = f"/subscriptions/{present.subscription_id}"
    if present.can_be_paid:
        text = "It has not been paid yet. Go on with that one; nothing was charged."
        return PageError(409, f"You have begun to subscribe to {product.name}", text, action=("Go on with it", page))
    text = "One subscription of a product is enough for an account: it can have several keys."
    return PageError(409, f"You have a subscription to {product.name}", text, action=("Open the subscription", page))


async def _note(parts: Parts, visitor: Visitor, product: Product, asked: subscriptions_store.Request) -> None:
    """Add request and event in one transaction. The same form again is fine; the same link from another page is not."""
    async with parts.pool.acquire() as connection, connection.transaction():
        if await subscriptions_store.add_request(connection, asked):
            event = SubscriptionRequested(
                cause_id=f"link:{asked.link_id}",
                occurred_at=asked.requested_at,
                subscription_id=asked.subscription_id,
                account_id=asked.account_id,
                user_id=asked.user_id,
                product_id=asked.product_id,
                catalogue_version=asked.catalogue_version,
                display_name=asked.display_name,
                currency=asked.currency,
            )
            await announce(connection, event)
            log.info("subscription requested", subscription_id=asked.subscription_id, product_id=product.id, event_id=str(event.event_id))
            return
        used = await subscriptions_store.request_of_link(connection, asked.link_id)
    if used is None:
        await _refuse_second(parts, visitor, product)
        raise PageError(409, "Something changed meanwhile", "Start again in the portal.")
    if used != (asked.subscription_id, asked.form_id, visitor.account_id):
        raise used_link()


def _page(
    request: Request,
    parts: Parts,
    visitor: Visitor,
    link: Link,
    *,
    offer: Offer,
    context: dict[str, Any],
    errors: dict[str, str] | None = None,
) -> Response:
    catalogue, product, currency = offer.catalogue, offer.product, context["currency"]
    shown = currency if catalogue.price_of(product, currency) else catalogue.currency_of(product)
    values = {
        "visitor": visitor,
        "catalogue_version": offer.version,
        "link": link,
        "plan": plan_of(catalogue, product, shown),
        "currencies": [catalogue.currency_of(product), *product.currencies],
        "interval": product.interval,
        "examples": example_costs(catalogue, product, shown),
        "calculator": f"/pricing?{urlencode({'interval': product.interval, 'currency': shown, 'product': product.id})}#calculator",
        "errors": errors or {},
    }
    return parts.pages.render(request, "subscribe.html", values | context, 422 if errors else 200)


async def to_payment(parts: Parts, visitor: Visitor, subscription_id: str) -> Response:
    """Lead to the Checkout page of a request; the same request has the same page. Raises CheckoutUnavailableError."""
    found = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if found is None:
        raise no_such_subscription()
    own = f"{parts.settings.public_url}/subscriptions/{subscription_id}"
    if not found.can_be_paid:
        return RedirectResponse(own, 303)
    asked = CheckoutRequest(
        subscription_id=subscription_id,
        account_id=found.account_id,
        user_id=await subscriptions_store.user_of_request(parts.pool, subscription_id),
        product_id=found.product_id,
        catalogue_version=found.catalogue_version,
        display_name=found.display_name,
        currency=found.requested_currency,
        success_url=f"{own}/ready",
        cancel_url=f"{own}/not-paid",
    )
    try:
        return RedirectResponse(await parts.checkout.payment_page(asked), 303)
    except CheckoutRefusedError as error:
        log.warning("checkout refused a request", subscription_id=subscription_id, detail=str(error)[:200])
        raise PageError(
            409, "This cannot be bought now", "Nothing was charged. See what is on sale and start again.", action=("See prices", "/pricing")
        ) from None


@router.post("/subscriptions/{subscription_id}/pay")
async def pay(parts: HereParts, visitor: SignedIn, subscription_id: str, form_token: Annotated[str, Form()] = "") -> Response:
    """Go on with a request that was not paid; one that expired is opened again, if nothing took its place."""
    check_form(visitor, form_token)
    found = await subscriptions_store.find_subscription(parts.pool, subscription_id, visitor.account_id)
    if found is not None and found.can_be_paid:
        try:
            async with parts.pool.acquire() as connection, connection.transaction():
                await subscriptions_store.reopen_request(connection, found.subscription_id)
        except asyncpg.UniqueViolationError:
            raise PageError(
                409,
                "There is a newer request for this product",
                "Go on with that one.",
                action=SUBSCRIPTIONS,
            ) from None
    return await to_payment(parts, visitor, subscription_id)


@router.get("/subscribe/{product_id}")
async def choose(parts: HereParts, visitor: SignedIn, product_id: str) -> Response:
    """Take a plan of our own pricing page: a link like the portal's, made for this visitor, so that one road leads to a subscription."""
    async with parts.pool.acquire() as connection:
        applied = await parts.catalogues.latest(connection)
    if applied is None or product_id not in {product.id for product in applied[1].products}:
        raise PageError(404, "This product is not on sale", "See what is offered now.", action=("See prices", "/pricing"))
    salt = secrets.token_urlsafe(24)
    query = make_link(parts.settings.validation_keys[0], "Subscribe", salt, productId=product_id, userId=visitor.user_id)
    return RedirectResponse(f"/apim-delegation?{query}", 303)
