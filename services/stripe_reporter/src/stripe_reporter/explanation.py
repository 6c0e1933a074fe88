"""Why an invoice says what it says: from its lines to the days and hours of usage behind them. Pure functions; everything adds up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from billing_common.catalogue import Catalogue
from billing_common.rating_usage import price_of_usage
from stripe_reporter.invoice_store import HourOfMeter, Invoice, Line

Kind = Literal["usage", "base", "setup", "rounding", "minimum", "maximum", "correction", "unbilled", "unknown"]
WORDS: Mapping[str, str] = {
    "base": "the plan's fee for this time, charged in advance",
    "setup": "charged once, with the first invoice",
    "rounding": "brings the price of single units to whole blocks",
    "minimum": "what is charged at least in a period",
    "maximum": "no more than this is charged in a period",
    "correction": "usage of an earlier period that was corrected after its close",
    "unbilled": "usage of an earlier period that was counted in time and that the invoice of that period does not bill",
    "unknown": "Turnpike knows nothing of this line: it was added in Stripe",
}


class Stretch(BaseModel):
    """Usage of a day or an hour. `amount_minor` is what it added to the bill: the first units of a period may be included."""

    start: datetime
    quantity: int
    amount_minor: int | None = Field(description="null: the catalogue version is not known here")


class ExplainedLine(BaseModel):
    line_id: str
    description: str
    amount_minor: int
    quantity: int | None
    period_start: datetime
    period_end: datetime
    kind: Kind
    words: str
    correction_id: UUID | None


class Usage(BaseModel):
    """All lines of one meter and service period, with the days behind them. A tiered price has several lines for one quantity.

    `quantity` is what the lines bill, `counted` the sum of the days: where they differ, `difference` says so.
    """

    key: str = Field(description="names it in further questions")
    meter_id: str
    meter_name: str
    product_id: str
    period_start: datetime
    period_end: datetime
    line_ids: list[str]
    quantity: int
    amount_minor: int
    counted: int
    rated_minor: int | None
    difference: str | None
    days: list[Stretch]


class Explanation(BaseModel):
    """An invoice with all its lines; those for usage are explained in `usage`."""

    invoice_id: str
    number: str | None
    subscription_id: str
    account_id: str
    status: str
    currency: str
    total_minor: int
    period_start: datetime
    period_end: datetime
    created_at: datetime
    lines: list[ExplainedLine]
    usage: list[Usage]


@dataclass(frozen=True)
class Group:
    """Lines of one meter of one product for one service period."""

    meter_id: str
    product_id: str
    component: str
    start: datetime
    end: datetime
    lines: tuple[Line, ...]

    @property
    def key(self) -> str:
        return f"{self.product_id}:{self.meter_id}:{int(self.start.timestamp())}"

    @property
    def quantity(self) -> int:
        return sum(int(line.quantity or 0) for line in self.lines)

    @property
    def amount_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


def kind_of(line: Line) -> Kind:
    if line.component in {"base", "setup", "rounding", "minimum", "maximum", "correction", "unbilled"}:
        return line.component  # type: ignore[return-value]  # one of the literals above
    return "usage" if line.component is not None and (line.component == "unit" or line.component.startswith("usage:")) else "unknown"


def groups_of(invoice: Invoice, catalogues: Mapping[str, Catalogue]) -> list[Group]:
    """Return the usage lines, brought together by product, meter and service period, in the order of the invoice."""
    found: dict[tuple[str, str, datetime, datetime], list[Line]] = {}
    for line in invoice.lines:
        if kind_of(line) == "usage":
            found.setdefault((line.product_id or "", line.component or "", line.period_start, line.period_end), []).append(line)
    return [
        Group(_meter_of(component, catalogues.get(product_id), product_id), product_id, component, start, end, tuple(lines))
        for (product_id, component, start, end), lines in found.items()
    ]


def _meter_of(component: str, catalogue: Catalogue | None, product_id: str) -> str:
    if component.startswith("usage:"):
        return component.removeprefix("usage:")
    price = catalogue.product(product_id).price if catalogue else None
    return price.unit.meter if price and price.unit else "calls"


def explain(invoice: Invoice, groups: Sequence[Group], hours: Iterable[HourOfMeter], catalogues: Mapping[str, Catalogue]) -> Explanation:
    """Build the tree down to days."""
    known = list(hours)
    return Explanation(
        **{name: getattr(invoice, name) for name in Explanation.model_fields if name not in {"lines", "usage"}},
        lines=[_line(line) for line in invoice.lines],
        usage=[usage_of(group, known, catalogues.get(group.product_id), invoice.currency) for group in groups],
    )


def _line(line: Line) -> ExplainedLine:
    kind = kind_of(line)
    words = WORDS.get(kind, "usage of this time")
    if kind == "base" and line.proration:
        words = "the part of the plan's fee for this time" if line.amount_minor >= 0 else "what was paid of the fee and not used"
    return ExplainedLine(
        line_id=line.line_id,
        description=line.description,
        amount_minor=line.amount_minor,
        quantity=None if line.quantity is None else int(line.quantity),
        period_start=line.period_start,
        period_end=line.period_end,
        kind=kind,
        words=words,
        correction_id=line.correction_id,
    )


def usage_of(group: Group, hours: Iterable[HourOfMeter], catalogue: Catalogue | None, currency: str) -> Usage:
    own = hours_of_group(group, hours)
    days = stretches([(hour.event_time.astimezone(UTC).replace(hour=0, minute=0, second=0), hour.quantity) for hour in own])
    priced = priced_stretches(group, days, catalogue, currency)
    counted, rated = sum(quantity for _, quantity in days), None
    if all(day.amount_minor is not None for day in priced) and catalogue is not None:
        rated = amount_of(group, catalogue, currency, counted)
    return Usage(
        key=group.key, meter_id=group.meter_id, product_id=group.product_id, period_start=group.start, period_end=group.end,
        meter_name=catalogue.meters[group.meter_id].name if catalogue and group.meter_id in catalogue.meters else group.meter_id,
        line_ids=[line.line_id for line in group.lines], quantity=group.quantity, amount_minor=group.amount_minor, counted=counted,
        rated_minor=rated, difference=_difference(group, counted, rated), days=priced,
    )  # fmt: skip


def hours_of_group(group: Group, hours: Iterable[HourOfMeter]) -> list[HourOfMeter]:
    """Return the windows behind a group: of its meter, its product and its time."""
    return [
        hour
        for hour in hours
        if (hour.meter_id, hour.product_id) == (group.meter_id, group.product_id) and group.start <= hour.event_time < group.end
    ]


def stretches(parts: Iterable[tuple[datetime, int]]) -> list[tuple[datetime, int]]:
    """Add up what has the same start, in order of time."""
    sums: dict[datetime, int] = {}
    for start, quantity in parts:
        sums[start] = sums.get(start, 0) + quantity
    return sorted(sums.items())


def priced_stretches(
    group: Group, parts: Sequence[tuple[datetime, int]], catalogue: Catalogue | None, currency: str, *, before: int = 0
) -> list[Stretch]:
    """Say what each stretch added to the bill: the price of all usage up to its end, less that up to its start."""
    if catalogue is None:
        return [Stretch(start=start, quantity=quantity, amount_minor=None) for start, quantity in parts]
    found, so_far, paid = [], before, amount_of(group, catalogue, currency, before)
    for start, quantity in parts:
        so_far += quantity
        price = amount_of(group, catalogue, currency, max(so_far, 0))
        found.append(Stretch(start=start, quantity=quantity, amount_minor=price - paid))
        paid = price
    return found


def amount_of(group: Group, catalogue: Catalogue, currency: str, quantity: int) -> int:
    """Return what a quantity of the group's meter costs by its price alone: neither fees nor what is added to a draft."""
    return price_of_usage(
        catalogue,
        group.product_id,
        meter_id=group.meter_id,
        component=group.component,
        since=group.start,
        currency=currency,
        quantity=quantity,
    )


def _difference(group: Group, counted: int, rated: int | None) -> str | None:
    if group.quantity != counted:
        return (
            f"Stripe billed {group.quantity:,}, Turnpike counted {counted:,} in this time: `turnpike reconcile` names the cause, "
            "such as usage that came after the invoice was final or a change made in Stripe"
        )
    if rated is not None and rated != group.amount_minor:
        return f"the lines add up to {group.amount_minor}, the plan's price of this usage is {rated} (minor units)"
    return None
