"""What is used of a quota that stops calls, in the window in which API Management counts it: that need not be the billing period."""

from dataclasses import dataclass
from datetime import datetime

from billing_common import quotas
from billing_common.catalogue import Product
from billing_common.rating import Period
from delegation_gateway import read_models
from delegation_gateway.database import Database
from delegation_gateway.domain import Subscription


@dataclass(frozen=True)
class Allowance:
    window: Period
    used: int


async def allowance_at(connection: Database, product: Product, subscription: Subscription, now: datetime) -> Allowance | None:
    """Return None for a product whose calls are never stopped."""
    quota = product.quota
    if quota is None or quota.beyond != "stop":
        return None
    began = subscription.started_at or subscription.requested_at
    window = quotas.window_at(product, quota, started_at=began, at=now)
    used = await read_models.usage_between(connection, subscription.subscription_id, window.start, window.end)
    return Allowance(window, used.by_meter.get(quota.meter, 0))
