"""What a running period costs so far: plans left within it, the present one, and what is billed with it of earlier periods. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from billing_common.catalogue import Catalogue, Product
from billing_common.projection import Projection, project
from billing_common.rating import Facts, Line, Period, Rated, rate


@dataclass(frozen=True)
class Stay:
    """A stretch of time on one plan; `until` None while it lasts. `is_new`: the product before was another one, or there was none."""

    since: datetime
    until: datetime | None
    product_id: str
    catalogue_version: int
    is_new: bool


@dataclass(frozen=True)
class OnPlan:
    """A stay as the bill needs it: what is sold there, and its usage in the period.

    `is_new`: the product before it was another one, or there was none. `free_until`: the end of its free days.
    """

    catalogue: Catalogue
    product: Product
    since: datetime
    until: datetime | None  # None: it lasts
    usage: Mapping[str, int]
    is_new: bool = True
    free_until: datetime | None = None

    def facts(self, currency: str | None) -> Facts:
        facts = Facts(self.since, trial_end=self.free_until, currency=currency, setup_due=self.is_new)
        return facts if self.until is None else replace(facts, ended_at=self.until, end_reason="change")

    def rated(self, period: Period, currency: str | None) -> Rated:
        return rate(self.catalogue, self.product, period=period, usage=self.counted(), facts=self.facts(currency))

    def counted(self) -> dict[str, int]:
        """Return what this plan's meters counted; another plan's meters are not its own."""
        return {meter: self.usage.get(meter, 0) for meter in self.product.meter_ids()}


@dataclass(frozen=True)
class PastPlan:
    """A plan that was left within the period: it has been billed, and its unused fee was given back."""

    product: Product
    until: datetime
    rated: Rated


@dataclass(frozen=True)
class Earlier:
    """Usage of a closed period, late or corrected, that is billed with this one. `alone`: on an invoice of its own."""

    description: str
    amount_minor: int
    currency: str
    alone: bool


@dataclass(frozen=True)
class BillSoFar:
    past: Sequence[PastPlan]
    present: Rated
    earlier: Sequence[Earlier]
    projection: Projection | None

    @property
    def lines(self) -> list[Line]:
        """What the plans cost, the first one first."""
        return [line for rated in (*(one.rated for one in self.past), self.present) for line in rated.lines]

    @property
    def total_minor(self) -> int:
        return self.present.total_minor + self._besides

    @property
    def ahead_minor(self) -> int | None:
        """The whole period at the pace so far."""
        return None if self.projection is None else self.projection.rated.total_minor + self._besides

    @property
    def _besides(self) -> int:
        return sum(one.rated.total_minor for one in self.past) + sum(one.amount_minor for one in self.earlier)


def bill_so_far(
    stays: Sequence[OnPlan], *, period: Period, currency: str | None, now: datetime, earlier: Sequence[Earlier] = ()
) -> BillSoFar:
    """Rate what was used by now with the function that the invoice agrees with. `stays` are the period's, the present one last."""
    *left, present = stays
    past = [PastPlan(stay.product, stay.until, stay.rated(period, currency)) for stay in left if stay.until is not None]
    facts = present.facts(currency)
    ahead = project(present.catalogue, present.product, present.counted(), period=period, facts=facts, now=now)
    return BillSoFar(past, present.rated(period, currency), tuple(earlier), ahead)


def earlier_of(begin: datetime, charges: Iterable[Mapping[str, Any]]) -> list[Earlier]:
    """Return what of the corrections that `checkout` lists is billed with the period that began then. A draft is that of its own period."""
    return [
        Earlier(one["description"], one["amount_minor"], one["currency"], alone=one["placed"] == "own_invoice")
        for one in charges
        if one["amount_minor"] and one["placed"] != "draft" and datetime.fromisoformat(one["made_at"]) >= begin
    ]
