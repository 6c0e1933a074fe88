"""Checkout sessions, step by step: the row with the intent, the call to Stripe, the outcome. Safe to repeat at every point."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from billing_common.catalogue import Product, UnknownProductError
from billing_common.db import Connection
from checkout import changing, domain, store, store_catalogue
from checkout.contact import ContactDoor, UnknownAccountError
from checkout.domain import RefusedError, Request
from checkout.intents import intend
from checkout.store import Session, Subscription
from checkout.store_catalogue import Version
from checkout.stripe_gateway import OpenSession, StripeGateway, StripeRefusedError, StripeUnavailableError

REUSE_MARGIN = timedelta(minutes=2)  # a session that ends sooner is not worth sending a customer to


@dataclass(frozen=True)
class Seller:
    """Everything a sale needs."""

    pool: asyncpg.Pool
    stripe: StripeGateway
    contacts: ContactDoor | None


async def offer(connection: Connection, request: Request, *, version_number: int | None = None) -> tuple[Version, Product]:
    """Return the catalogue version and product that a request is for."""
    version = await store_catalogue.get(connection, version_number) if version_number else None
    version = version or await store_catalogue.latest(connection)
    if version is None:
        raise RefusedError(409, "no_catalogue", "no catalogue has been applied yet")
    try:
        product = version.catalogue.product(request.product_id)
    except UnknownProductError as error:
        raise RefusedError(404, "unknown_product", str(error)) from error
    if request.currency is not None and not product.is_free and version.catalogue.price_of(product, request.currency) is None:
        raise RefusedError(422, "unknown_currency", f'"{product.id}" is not sold in {request.currency.upper()}')
    return version, product


async def start_checkout(
    seller: Seller, request: Request, *, success_url: str, cancel_url: str, now: datetime, version_number: int | None = None
) -> OpenSession:
    """Return the one open session of a subscription; make it when there is none."""
    email = await _email(seller.contacts, request.account_id)
    async with seller.pool.acquire() as connection, connection.transaction():
        subscription, session, version, product = await _prepare(connection, request, now=now, version_number=version_number)
    if session.status == "open" and session.session_id and session.url and session.expires_at:
        return OpenSession(session.session_id, session.url, session.expires_at)
    customer_id = await ensure_customer(seller, request.account_id, email)
    params = domain.session_parameters(
        subscription,
        product,
        version.price_ids(product.id, subscription.currency),
        customer_id=customer_id,
        success_url=success_url,
        cancel_url=cancel_url,
    )
    try:
        opened = await seller.stripe.create_session(params, key=session.idempotency_key)
    except StripeRefusedError:
        await store.give_up_session(seller.pool, session.idempotency_key)
        raise
    except StripeUnavailableError as error:
        if error.replayed:
            await store.give_up_session(seller.pool, session.idempotency_key)
        raise
    async with seller.pool.acquire() as connection:
        await store.open_session(
            connection, session.idempotency_key, session_id=opened.session_id, url=opened.url, expires_at=opened.expires_at
        )
    return opened


async def _prepare(
    connection: Connection, request: Request, *, now: datetime, version_number: int | None
) -> tuple[Subscription, Session, Version, Product]:
    """Decide and write down what is about to be asked of Stripe."""
    await store.lock_account(connection, request.account_id)
    version, product = await offer(connection, request, version_number=version_number)
    if product.is_free:
        raise RefusedError(409, "free_product", "a free product needs no checkout")
    known = await store.get_subscription(connection, request.subscription_id)
    members = await store.members(connection, request.account_id)
    domain.refuse_foreign(request, known, members, closed=await store.is_closed(connection, request.account_id))
    subscription = known or domain.new_subscription(request, version, product, now)
    others = await store.others_of_product(connection, subscription)
    domain.refuse_second(known, others)
    await changing.refuse_coming(connection, request.account_id, product.id)
    if known is None:
        await store.add_subscription(connection, subscription)
    for other in others:
        await give_up(connection, other, now)
    bought_under = await store_catalogue.get(connection, subscription.catalogue_version) or version
    session = await store.last_session(connection, subscription.subscription_id)
    stale = session is None or session.status in {"expired", "complete"} or (session.expires_at and session.expires_at < now + REUSE_MARGIN)
    if session is None or stale:
        await _refuse_old_price(connection, bought_under, product.id, subscription.currency)
        attempt = session.attempt + 1 if session else 1
        key = domain.session_key(subscription.subscription_id, attempt)
        session = await store.add_session(connection, subscription.subscription_id, attempt, key)
    return subscription, session, bought_under, bought_under.catalogue.product(product.id)


async def _refuse_old_price(connection: Connection, version: Version, product_id: str, currency: str) -> None:
    """Stripe opens no session for a price that is archived: whoever looked at it for too long has to look at the new one."""
    latest = await store_catalogue.latest(connection)
    if latest is not None and latest.price_ids(product_id, currency) != version.price_ids(product_id, currency):
        raise RefusedError(409, "price_changed", "the price has changed since this was asked for: look at the new one and ask again")


async def give_up(connection: Connection, other: Subscription, now: datetime) -> None:
    """One open session per account and product: the request before ends, so that nobody pays twice."""
    session = await store.last_session(connection, other.subscription_id)
    if session is not None and await store.is_being_opened(connection, session):
        raise RefusedError(409, "checkout_in_progress", "another checkout of this product is being opened: try again in a moment")
    if session is not None and session.status == "open" and session.session_id:
        await intend(
            connection, "expire_session", key=other.account_id, cause=session.session_id, parameters={"session": session.session_id}
        )
    await store.end_subscription(connection, other.subscription_id, revision=other.revision, at=now)


async def ensure_customer(seller: Seller, account_id: str, email: str | None) -> str:
    """Return the account's Stripe customer, created once."""
    async with seller.pool.acquire() as connection, connection.transaction():
        known = await store.lock_account(connection, account_id)
        attempt = await connection.fetchval("select customer_attempt from account where account_id = $1", account_id)
    if known is not None:
        return known
    try:
        customer_id = await seller.stripe.create_customer(account_id, key=f"turnpike:customer:{account_id}:{attempt}")
    except StripeUnavailableError as error:
        if error.replayed:
            await seller.pool.execute("update account set customer_attempt = customer_attempt + 1 where account_id = $1", account_id)
        raise
    if email:
        await seller.stripe.set_email(customer_id, email)
    async with seller.pool.acquire() as connection:
        await store.set_customer(connection, account_id, customer_id)
    return customer_id


async def _email(contacts: ContactDoor | None, account_id: str) -> str | None:
    if contacts is None:
        return None
    try:
        return await contacts.email_of(account_id)
    except UnknownAccountError as error:
        raise RefusedError(404, "unknown_account", "there is no such account") from error
