"""What follows the end of a paid subscription: where its product says so, the account goes on with the catalogue's Free product."""

import structlog

from billing_common.catalogue import UnknownProductError
from billing_common.db import Connection
from billing_common.events import SubscriptionState, derive_id
from billing_common.outbox import announce
from checkout import domain, store, store_catalogue
from checkout.domain import Request

log = structlog.get_logger(__name__)


async def go_on_free(connection: Connection, event: SubscriptionState) -> None:
    """Announce the free subscription that takes the ended one's place: under a derived id, so with a key of its own, and once."""
    if event.status != "canceled" or event.stripe_subscription_id is None or not await _wants_free(connection, event):
        return
    latest = await store_catalogue.latest(connection)
    catalogue = latest.catalogue if latest else None
    free = next((product for product in catalogue.products if product.is_free), None) if catalogue else None
    if latest is None or free is None or await store.is_closed(connection, event.account_id):
        return
    request = Request(
        subscription_id=str(derive_id("free_after", event.subscription_id)),
        account_id=event.account_id,
        user_id=event.user_id,
        product_id=free.id,
        display_name=event.display_name,
        currency=None,
    )
    subscription = domain.new_subscription(request, latest, free, event.occurred_at)
    if await store.get_subscription(connection, request.subscription_id) or await store.others_of_product(connection, subscription):
        return
    await store.add_subscription(connection, subscription)
    created = domain.free_created(subscription, cause_id=str(event.event_id), at=event.occurred_at)
    await store.apply_state(connection, created, state="live")
    await announce(connection, created)
    log.info("goes on with the free plan", subscription_id=request.subscription_id, after=event.subscription_id)


async def _wants_free(connection: Connection, event: SubscriptionState) -> bool:
    version = await store_catalogue.get(connection, event.catalogue_version)
    try:
        return version is not None and version.catalogue.product(event.product_id).on_end == "free"
    except UnknownProductError:
        return False
