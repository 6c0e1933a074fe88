"""The window in which a quota counts: one answer for the gateway's policy, for what is announced and for what is shown as left."""

from datetime import UTC, datetime, timedelta

from billing_common.catalogue_model import Product, Quota
from billing_common.rating_periods import Period

THIRTY_DAYS = timedelta(days=30)
FIRST_PERIOD_START = datetime(1, 1, 1, tzinfo=UTC)  # of API Management's `quota-by-key`, which knows no subscription


def is_by_key(product: Product) -> bool:
    """Whether the gateway counts 30 days by `quota-by-key`: its `quota` would give each of several keys an allowance of its own."""
    return product.quota is not None and product.quota.beyond == "stop" and product.keys > 1


def window_at(product: Product, quota: Quota, *, started_at: datetime, at: datetime) -> Period:
    """Return the window of a product's quota that holds an instant, for a subscription that began then."""
    if quota.window == "calendar_month":
        start = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return Period(start, (start + timedelta(days=31)).replace(day=1))
    first = FIRST_PERIOD_START if is_by_key(product) else started_at.astimezone(UTC)
    start = first + max(0, (at - first) // THIRTY_DAYS) * THIRTY_DAYS
    return Period(start, start + THIRTY_DAYS)
