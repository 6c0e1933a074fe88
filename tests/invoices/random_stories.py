"""Random lives of subscriptions: when they begin, what changes when, how they end, what was used in between."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Literal

from random_catalogues import Maker

from billing_common.catalogue import Catalogue, Product
from billing_common.plan_changes import ChangeRefusedError, Sold, When, refuse_change
from billing_common.rating import Period, period_at

SECOND = timedelta(seconds=1)
STORIES_OF_A_SHOP = 4
USAGE_AGE_MAX = timedelta(days=33)  # Stripe takes meter events of the last 35 days


@dataclass(frozen=True)
class Action:
    """Something that happens to the subscription at an instant."""

    at: datetime
    kind: Literal["quantity", "plan", "plan_at_period_end", "cancel_now", "cancel_at_period_end"]
    quantity: int = 0
    product_id: str = ""


@dataclass(frozen=True)
class Used:
    """A meter event. `late`: it is sent when the period has ended and its invoice is still a draft."""

    product_id: str
    meter: str
    at: datetime
    quantity: int
    late: bool = False


@dataclass(frozen=True)
class Story:
    """One subscription from Checkout to its end, or to the end of its last whole period that was looked at."""

    seed: int
    shop: int
    catalogue: Catalogue
    product: Product
    currency: str
    started_at: datetime
    quantity: int
    credit_minor: int
    actions: tuple[Action, ...]
    periods: tuple[Period, ...]
    usage: tuple[Used, ...]

    @property
    def ends_at(self) -> datetime:
        """Return when it was cancelled, or until when it was looked at."""
        return next((action.at for action in self.actions if action.kind == "cancel_now"), self.periods[-1].end)

    @property
    def has_end(self) -> bool:
        return any(action.kind in {"cancel_now", "cancel_at_period_end"} for action in self.actions)

    @property
    def trial_end(self) -> datetime | None:
        return self.started_at + timedelta(days=self.product.trial_days) if self.product.trial_days else None

    def plans(self) -> list[tuple[datetime, Action]]:
        """Return the changes of plan, each with the instant from which on the new one counts."""
        found = []
        for action in self.actions:
            if action.kind == "plan":
                found.append((action.at, action))
            elif action.kind == "plan_at_period_end":
                found.append((next(period.end for period in self.periods if action.at < period.end), action))
        return found

    def stretches(self) -> Iterator[tuple[Product, datetime, datetime]]:
        """Yield the product of each stretch of time between the starts, changes of plan, period ends and the end."""
        plans = [(at, self.catalogue.product(action.product_id)) for at, action in self.plans()]
        cuts = sorted({self.started_at, *(at for at, _ in plans), *(period.end for period in self.periods), self.ends_at})
        for begin, end in pairwise(cuts):
            if end <= self.ends_at:
                yield next((product for at, product in reversed(plans) if at <= begin), self.product), begin, end


@lru_cache(maxsize=4)
def shop_of(number: int) -> tuple[Maker, Catalogue]:
    """Return the catalogue that a few stories share: making it at Stripe costs more than living in it."""
    random = Random(-number - 1)
    maker = Maker(random, f"s{number}")
    return maker, maker.catalogue(random.choice([1, 2, 3]))


def story(seed: int) -> Story:
    """Return the story of a seed: always the same one."""
    random, shop = Random(seed), seed // STORIES_OF_A_SHOP
    maker, catalogue = shop_of(shop)
    product = random.choice(catalogue.products)
    started_at = _start(random)
    periods = list(_periods(product, started_at, random.randint(1, 2 if maker.interval == "year" else 3) + bool(product.trial_days)))
    bare = Story(
        seed=seed,
        shop=shop,
        catalogue=catalogue,
        product=product,
        currency=random.choice(maker.currencies),
        started_at=started_at,
        quantity=random.choice([1, 1, 1, random.randint(2, 9)]) if product.price and product.price.base is not None else 1,
        credit_minor=random.choice([0, 0, 0, random.randint(1, 5_000), 10**7]),
        actions=(),
        periods=tuple(periods),
        usage=(),
    )
    acted = _with_actions(random, bare)
    return replace(acted, usage=tuple(_usage(random, acted)))


def _start(random: Random) -> datetime:
    year = random.randint(2027, 2029)
    exact = [
        datetime(2028, 2, 29, 13, 7, 1, tzinfo=UTC),
        datetime(year, random.choice([1, 3, 5, 7, 8, 10, 12]), 31, 23, 59, 59, tzinfo=UTC),
        datetime(year, random.randint(1, 12), 1, tzinfo=UTC),
        datetime(year, random.choice([1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), random.choice([29, 30]), 6, tzinfo=UTC),
        datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
    anywhere = datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randint(0, 365 * 86_400 - 1))
    return random.choice([anywhere, anywhere, random.choice(exact)])


def _periods(product: Product, started_at: datetime, count: int) -> Iterator[Period]:
    at = started_at
    for _ in range(count):
        period = period_at(product, started_at=started_at, at=at)
        yield period
        at = period.end


def _with_actions(random: Random, bare: Story) -> Story:
    moments = sorted({at for at in (_moment(random, bare) for _ in range(random.choice([0, 1, 1, 2, 3]))) if at > bare.started_at})
    story, product, free_from = bare, bare.product, bare.started_at + SECOND
    for at in moments:
        if at < free_from:
            continue  # Stripe's schedule manages the subscription until its period ends
        when: When = random.choice(["now", "period_end"])
        others = [other for other in bare.catalogue.products if at >= (bare.trial_end or at) and _may_follow(bare, product, other, when)]
        seats = product.price is not None and product.price.base is not None
        if others and random.random() < 0.5:
            product = random.choice(others)
            action = Action(at, "plan" if when == "now" else "plan_at_period_end", product_id=product.id)
            story = replace(story, actions=(*story.actions, action))
            free_from = max(story.plans()[-1][0], at + SECOND)
        elif seats:
            story = replace(story, actions=(*story.actions, Action(at, "quantity", quantity=random.randint(1, 9))))
            free_from = at + SECOND
    end = random.choice(["none", "none", "now", "period_end"])
    after = free_from
    last = bare.periods[-1].end - SECOND
    if end == "now" and after <= last:
        at = random.choice([after + (last - after) * random.random(), *(period.start for period in bare.periods)])
        at = min(max(at.replace(microsecond=0), after), last)
        kept = tuple(period for period in bare.periods if period.start <= at)
        return replace(story, actions=(*story.actions, Action(at, "cancel_now")), periods=kept)
    if end == "period_end" and after <= last:
        at = max(after, bare.periods[-1].start + SECOND)
        return replace(story, actions=(*story.actions, Action(at, "cancel_at_period_end")))
    return story


def _may_follow(bare: Story, old: Product, new: Product, when: When) -> bool:
    """Whether the change is offered."""
    if old.id == new.id:
        return False
    try:
        refuse_change(Sold(bare.catalogue, old), Sold(bare.catalogue, new), currency=bare.currency, when=when)
    except ChangeRefusedError:
        return False
    return True


def _moment(random: Random, bare: Story) -> datetime:
    """Anywhere in the life, or at the end of a period, or one second beside it."""
    first, last = bare.started_at + SECOND, bare.periods[-1].end - 2 * SECOND
    edges = [period.end + random.choice([-1, 0, 0, 1]) * SECOND for period in bare.periods[:-1]]
    anywhere = (first + (last - first) * random.random()).replace(microsecond=0)
    return min(max(random.choice([anywhere, anywhere, *edges]), first), last)


def _usage(random: Random, story: Story) -> Iterator[Used]:
    """Usage in each stretch, at its first and its last second too; a part of it is reported late."""
    ends = {period.end for period in story.periods}
    for product, begin, end in story.stretches():
        for meter in product.priced_meters():
            for _ in range(random.choice([0, 1, 1, 2])):
                at = random.choice([begin, end - SECOND, begin + (end - begin) * random.random()]).replace(microsecond=0)
                if end - at > USAGE_AGE_MAX:
                    at = end - USAGE_AGE_MAX
                quantity = random.choice([random.randint(1, 120), random.randint(1, 10_000), *_edges(random, product, meter)])
                late = end in ends and random.random() < 0.3
                yield Used(product.id, meter, at, max(quantity, 1), late=late)


def _edges(random: Random, product: Product, meter: str) -> Iterator[int]:
    """Quantities at the end of a slice, an allowance or a package, or one beside it."""
    assert product.price is not None
    for entry in product.price.usage:
        if entry.meter == meter:
            found = [entry.included, entry.included + entry.per, *(part.up_to for part in (*entry.tiers, *entry.discounts) if part.up_to)]
            yield from (edge + random.choice([-1, 0, 1]) for edge in found)
    if product.price.unit is not None and product.price.unit.meter == meter:
        yield product.price.unit.size * random.randint(1, 3) + random.choice([-1, 0, 1])
