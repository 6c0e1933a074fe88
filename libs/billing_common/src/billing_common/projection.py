"""What a running period is heading for: its usage at the pace so far, rated as the invoice will be. Pure, and with its basis."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing_common.catalogue import Catalogue, Product
from billing_common.rating import Facts, Period, Rated, rate

AFTER = timedelta(hours=6)  # earlier, a few calls would be stretched into a wild figure
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Projection:
    """A period at its end if usage goes on as it did from `since` to `until`; a quota that stops calls stops the pace too."""

    since: datetime
    until: datetime
    end: datetime
    usage: Mapping[str, int]
    rated: Rated


def project(
    catalogue: Catalogue, product: Product, usage: Mapping[str, int], *, period: Period, facts: Facts, now: datetime
) -> Projection | None:
    """Stretch the usage so far to the whole period; None where nothing is priced by usage or it is too early to tell."""
    since = max(period.start, facts.started_at)
    elapsed, whole = now - since, period.end - since
    if not product.priced_meters() or elapsed < AFTER or whole <= elapsed:
        return None
    stretched = {
        meter: used if catalogue.meters[meter].has_state else used * (whole // SECOND) // (elapsed // SECOND)  # a height does not run on
        for meter, used in usage.items()
    }
    quota = product.quota
    if quota is not None and quota.beyond == "stop" and quota.meter in stretched:
        stretched[quota.meter] = min(stretched[quota.meter], max(quota.calls, usage[quota.meter]))
    return Projection(since, now, period.end, stretched, rate(catalogue, product, period=period, usage=stretched, facts=facts))
