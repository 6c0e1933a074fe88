"""What one price at Stripe charges for a quantity of its meter: neither fees nor what Turnpike adds to a draft. Pure."""

from datetime import datetime

from billing_common.catalogue import Catalogue
from billing_common.rating import Facts, Period, period_at, rate


def price_of_usage(
    catalogue: Catalogue, product_id: str, *, meter_id: str, component: str, since: datetime, currency: str, quantity: int
) -> int:
    """Return minor units, rounded line by line as on the invoice. `component` names the price: `unit` or `usage:<meter>`.

    Raises UnknownProductError and RatingError.
    """
    product = catalogue.product(product_id)
    period = Period(since, period_at(product, started_at=since, at=since).end)
    facts = Facts(started_at=since, currency=currency)
    rated = rate(catalogue, product, period=period, usage={meter_id: quantity}, facts=facts)
    return sum(line.amount_minor for line in rated.lines if line.component == component)
