"""What a changed price means for those who are subscribed: who stays on which price, and what their last period would have cost."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from billing_common.catalogue import Catalogue, Product, UnknownProductError
from billing_common.rating import Facts, Period, RatingError, period_at, rate, trial_end
from checkout import store_catalogue, store_subscribers
from checkout.store_catalogue import Version
from checkout.store_subscribers import Subscriber
from checkout.usage_door import Asked, UsageDoor, UsageUnknownError

SUBSCRIBERS_MAX = 5000  # so many of a product are priced one by one
SHOWN_MAX = 3
SECOND = timedelta(seconds=1)
Usage = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True)
class Sold:
    """A product as one catalogue sells it."""

    catalogue: Catalogue
    product: Product

    def terms(self, currency: str) -> Any:
        """Return all that decides what a usage costs: two versions with the same terms have the same price."""
        product, meters = self.product, {meter_id: self.catalogue.meters[meter_id] for meter_id in self.product.priced_meters()}
        price = self.catalogue.price_of(product, currency)
        return price, product.interval, product.billing_anchor, product.trial_days, product.policies.proration, meters

    @property
    def currencies(self) -> set[str]:
        return {self.catalogue.currency_of(self.product), *self.product.currencies}


def sold_by(catalogue: Catalogue, product_id: str) -> Sold | None:
    try:
        return Sold(catalogue, catalogue.product(product_id))
    except UnknownProductError:
        return None


@dataclass(frozen=True)
class Compared:
    """What one subscription's last period cost and would have cost, in minor units; a reason where it cannot be said."""

    subscriber: Subscriber
    period: Period | None = None
    before_minor: int = 0
    after_minor: int = 0
    reason: str = ""

    @property
    def difference_minor(self) -> int:
        return self.after_minor - self.before_minor

    @property
    def is_partial(self) -> bool:
        """The subscription began within the period, or came to this product in it."""
        began = self.subscriber.product_since or self.subscriber.started_at
        return self.period is not None and began is not None and began > self.period.start

    def public(self) -> dict[str, Any]:
        return {
            "subscription_id": self.subscriber.subscription_id,
            "catalogue_version": self.subscriber.catalogue_version,
            "currency": self.subscriber.currency,
            "before_minor": self.before_minor,
            "after_minor": self.after_minor,
        }


def changed_products(catalogue: Catalogue, previous: Version | None) -> list[Sold]:
    """Return the products whose price is not what it was, in any currency of either version, or which another source counts."""
    found = []
    for new in (Sold(catalogue, product) for product in catalogue.products):
        old = sold_by(previous.catalogue, new.product.id) if previous else None
        if old is not None and (new.product.source != old.product.source or _is_priced_anew(old, new)):
            found.append(new)
    return found


def _is_priced_anew(old: Sold, new: Sold) -> bool:
    return any(new.terms(currency) != old.terms(currency) for currency in old.currencies | new.currencies)


async def effects(
    pool: asyncpg.Pool, door: UsageDoor | None, catalogue: Catalogue, previous: Version | None, *, now: datetime
) -> dict[str, dict[str, Any]]:
    """Return product id -> what its subscribers have to do with the change, for each product whose price changes."""
    found = {}
    for new in changed_products(catalogue, previous):
        counts = await store_subscribers.count_versions(pool, new.product.id)
        bought = await _bought(pool, new.product.id, counts)
        stay = {key for key in counts if (old := bought.get(key[0])) is None or old.terms(key[1]) != new.terms(key[1])}
        shown: dict[str, Any] = {
            "live": sum(counts.values()),
            "stay_on_old_price": sum(counts[key] for key in stay),
            "counted_as_before": _counted_as_before(new, bought, counts),
            "by_version": [
                {"version": version, "currency": currency, "subscribers": count, "on_old_price": (version, currency) in stay}
                for (version, currency), count in sorted(counts.items())
            ],
        }
        if stay:
            people = await store_subscribers.live_subscribers(pool, new.product.id, sorted(stay), SUBSCRIBERS_MAX)
            shown["last_period"] = await _last_period(door, new, bought, people, now=now)
        found[new.product.id] = shown
    return found


def _counted_as_before(new: Sold, bought: Mapping[int, Sold], counts: Mapping[tuple[int, str], int]) -> dict[str, int]:
    """Return source -> for how many subscribers it goes on counting, where the new version names another one."""
    found: Counter[str] = Counter()
    for (version, _), count in counts.items():
        if version in bought and bought[version].product.source != new.product.source:
            found[bought[version].product.source] += count
    return dict(found)


async def _bought(pool: asyncpg.Pool, product_id: str, counts: Iterable[tuple[int, str]]) -> dict[int, Sold]:
    """Return version -> the product as it was sold then."""
    found = {}
    for number in sorted({number for number, _ in counts}):
        version = await store_catalogue.get(pool, number)
        if version is not None and (sold := sold_by(version.catalogue, product_id)) is not None:
            found[number] = sold
    return found


async def _last_period(
    door: UsageDoor | None, new: Sold, bought: Mapping[int, Sold], people: Sequence[Subscriber], *, now: datetime
) -> dict[str, Any]:
    if door is None:
        return {"unknown": "CHECKOUT_COLLECTOR_URL is not set, so nobody can be asked for usage"}
    periods = {person: _period_before(bought.get(person.catalogue_version), person, now) for person in people}
    asked = [Asked(person.subscription_id, *_span(period)) for person, period in periods.items() if period is not None]
    try:
        usage = await door.totals(asked)
    except UsageUnknownError as error:
        return {"unknown": str(error)}
    return summary(await asyncio.to_thread(_compare_all, new, bought, periods, usage))


def _span(period: Period) -> tuple[datetime, datetime]:
    return period.start.astimezone(UTC), period.end.astimezone(UTC)


def _period_before(sold: Sold | None, person: Subscriber, now: datetime) -> Period | None:
    """Return the last billing period that has come to an end; None in the first."""
    if sold is None or person.started_at is None:
        return None
    present = period_at(sold.product, started_at=person.started_at, at=now)
    if present.start <= person.started_at:
        return None
    return period_at(sold.product, started_at=person.started_at, at=present.start - SECOND)


def _compare_all(new: Sold, bought: Mapping[int, Sold], periods: Mapping[Subscriber, Period | None], usage: Usage) -> list[Compared]:
    return [
        Compared(person, reason="no period has come to an end yet")
        if period is None
        else Compared(person, reason="usage_collector does not know the subscription")
        if person.subscription_id not in usage
        else compare(bought[person.catalogue_version], new, person, period, usage[person.subscription_id].get(person.product_id, {}))
        for person, period in periods.items()
    ]


def compare(old: Sold, new: Sold, person: Subscriber, period: Period, counted: Mapping[str, int]) -> Compared:
    """Price a period as it was bought and as it would be sold now."""
    if person.product_since is not None and person.product_since >= period.end:
        return Compared(person, reason="it was another product")
    uncounted = [meter for meter in new.product.priced_meters() if meter not in old.product.meter_ids()]
    if uncounted:
        return Compared(person, reason=f'the meter "{uncounted[0]}" was not counted')
    try:
        before, after = (_price(sold, old.product, person, period, counted) for sold in (old, new))
    except RatingError as error:
        return Compared(person, reason=str(error))
    return Compared(person, period, before, after)


def _price(sold: Sold, bought: Product, person: Subscriber, period: Period, counted: Mapping[str, int]) -> int:
    """Price what was on this product, without the setup fee, which nobody pays twice; trial and currency stay as they were bought."""
    assert person.started_at is not None
    since = person.product_since or person.started_at
    facts = Facts(started_at=since, trial_end=trial_end(bought, person.started_at), currency=person.currency)
    usage = {meter: quantity for meter, quantity in counted.items() if meter in sold.product.meter_ids()}
    rated = rate(sold.catalogue, sold.product, period=period, usage=usage, facts=facts)
    return sum(line.amount_minor for line in rated.lines if line.component != "setup")


def summary(compared: Sequence[Compared]) -> dict[str, Any]:
    """Return totals by currency, those who change most, and how many cannot be compared and why."""
    priced = [one for one in compared if one.period is not None]
    periods = [one.period for one in priced if one.period is not None]
    currencies = dict.fromkeys(one.subscriber.currency for one in priced)
    by_change = sorted(priced, key=lambda one: (-abs(one.difference_minor), one.subscriber.subscription_id))
    return {
        "from": min(period.start for period in periods).isoformat() if periods else None,
        "to": max(period.end for period in periods).isoformat() if periods else None,
        "subscribers": len(priced),
        "began_within": sum(one.is_partial for one in priced),
        "totals": [_total(currency, [one for one in priced if one.subscriber.currency == currency]) for currency in currencies],
        "most_changed": [one.public() for one in by_change[:SHOWN_MAX]],
        "not_compared": dict(Counter(one.reason for one in compared if one.period is None)),
    }


def _total(currency: str, some: Sequence[Compared]) -> dict[str, Any]:
    return {
        "currency": currency,
        "subscribers": len(some),
        "before_minor": sum(one.before_minor for one in some),
        "after_minor": sum(one.after_minor for one in some),
        "pay_more": sum(one.difference_minor > 0 for one in some),
        "pay_less": sum(one.difference_minor < 0 for one in some),
        "pay_the_same": sum(one.difference_minor == 0 for one in some),
    }
