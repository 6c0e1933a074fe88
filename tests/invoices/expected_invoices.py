"""The invoices of a story as the rating function says: its lines of each period, put on the invoices where Stripe puts them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from random_stories import Story

from billing_common.catalogue import Product
from billing_common.catalogue_tiers import has_slices
from billing_common.rating import ADDED_TO_DRAFT, Facts, Line, Period, QuantityChange, Rated, period_at, rate

MINIMUM_CHARGE = {"usd": 50, "eur": 50, "gbp": 30}  # smaller totals wait on the customer's balance
DRAFT = timedelta(hours=1)
WHOLE_ONLY = ("isk", "ugx")


@dataclass(frozen=True)
class ExpectedLine:
    """A line as it must stand on Stripe's invoice. `component` is None for what Turnpike adds to the draft."""

    amount: int
    quantity: int
    start: datetime
    end: datetime
    component: str | None
    text: str


@dataclass(frozen=True)
class ExpectedInvoice:
    lines: tuple[ExpectedLine, ...]
    total: int
    due: int
    ending_balance: int


@dataclass(frozen=True)
class Stay:
    """The time with one product. `scheduled`: Stripe put the subscription on it at the end of a period."""

    product: Product
    facts: Facts
    scheduled: bool

    @property
    def end(self) -> datetime | None:
        return self.facts.ended_at


@dataclass
class Ledger:
    """Invoices one after another, and what waits for the next."""

    drawn: list[tuple[datetime, tuple[ExpectedLine, ...]]] = field(default_factory=list)
    waiting: list[tuple[datetime, list[ExpectedLine]]] = field(default_factory=list)

    def wait(self, at: datetime, lines: list[ExpectedLine]) -> None:
        self.waiting.append((at, lines))

    def draw(self, final_at: datetime, lines: list[ExpectedLine], added: list[ExpectedLine]) -> None:
        """Make an invoice: what waited, the newest first, then its own lines, then what was added to the draft. None without lines."""
        waited = [line for _, group in sorted(self.waiting, key=lambda entry: entry[0], reverse=True) for line in group]
        if waited or lines:
            self.waiting = []
            self.drawn.append((final_at, (*waited, *lines, *added)))

    def invoices(self, currency: str, balance: int) -> list[ExpectedInvoice]:
        """Settle each with the customer's balance, in the order in which they became final."""
        settled: dict[int, ExpectedInvoice] = {}
        for place in sorted(range(len(self.drawn)), key=lambda place: self.drawn[place][0]):
            lines = self.drawn[place][1]
            total = sum(line.amount for line in lines)
            payable = total + balance
            due = payable if payable >= max(MINIMUM_CHARGE.get(currency, 0), 1) else 0
            due = (due + 50) // 100 * 100 if currency in WHOLE_ONLY else due
            balance = payable - due
            settled[place] = ExpectedInvoice(lines, total, due, balance)
        return [settled[place] for place in range(len(self.drawn))]


def expected_invoices(story: Story) -> list[ExpectedInvoice]:
    """Walk through the story: the opening, changes and period ends in order of time, and the end."""
    stays = list(stays_of(story))
    ledger = Ledger()
    ledger.draw(story.started_at, _opening(story, stays[0], story.periods[0]), [])
    for number, period in enumerate(story.periods):
        _changes(story, stays, period, ledger)
        stay = next(one for one in reversed(stays) if one.facts.started_at < period.end)
        closing, added = _closing(story, stay, period)
        if stay.end is not None and stay.end < period.end:  # cancelled now: the additions wait already when the last invoice is drawn
            ledger.wait(stay.end, added)
            ledger.draw(stay.end, closing, [])
            break
        is_over = story.has_end and number == len(story.periods) - 1
        coming = next((one for one in stays if one.scheduled and one.facts.started_at == period.end), stay)
        opening = [] if is_over else _opening(story, coming, _next(story, number))
        if coming is not stay:
            ledger.wait(period.end, [_of_period(line, _next(story, number)) for line in opening if line.component == "setup"])
            opening = [line for line in opening if line.component != "setup"]
        ledger.draw(period.end + DRAFT, [*opening, *closing], added)
    return ledger.invoices(story.currency, -story.credit_minor)


def _of_period(line: ExpectedLine, period: Period) -> ExpectedLine:
    """A one-off price that is added to a running subscription is for the items' period, as Stripe documents."""
    return replace(line, start=period.start, end=period.end)


def stays_of(story: Story) -> Iterator[Stay]:
    product, started_at, quantity, scheduled, first = story.product, story.started_at, story.quantity, False, True
    for ended_at, cut in [*story.plans(), *((action.at, action) for action in story.actions if action.kind == "cancel_now"), (None, None)]:
        changes = [
            QuantityChange(action.at, action.quantity)
            for action in story.actions
            if action.kind == "quantity" and started_at <= action.at and (ended_at is None or action.at < ended_at)
        ]
        facts = Facts(
            started_at=started_at,
            ended_at=ended_at,
            end_reason="change" if cut and cut.kind != "cancel_now" else "cancellation",
            trial_end=story.trial_end if first else None,
            quantity=quantity,
            currency=story.currency,
            quantity_changes=tuple(changes),
        )
        yield Stay(product, facts, scheduled)
        if cut is None or ended_at is None or cut.kind == "cancel_now":
            return
        seats = changes[-1].quantity if changes else quantity
        quantity = seats if product.price and product.price.base is not None else 1  # without a fee Stripe has no number to keep
        product, started_at, first, scheduled = story.catalogue.product(cut.product_id), ended_at, False, cut.kind == "plan_at_period_end"


def _next(story: Story, number: int) -> Period:
    if number + 1 < len(story.periods):
        return story.periods[number + 1]
    return period_at(story.product, started_at=story.started_at, at=story.periods[number].end)


def _usage_of(story: Story, stay: Stay, period: Period) -> dict[str, int]:
    usage = dict.fromkeys(stay.product.priced_meters(), 0)
    for used in story.usage:
        if used.product_id == stay.product.id and stay.facts.begin_of(period) <= used.at < stay.facts.end_of(period):
            usage[used.meter] += used.quantity
    return usage


def _rated(story: Story, stay: Stay, period: Period) -> Rated:
    usage = _usage_of(story, stay, period)
    return rate(story.catalogue, stay.product, period=period, usage=usage, facts=stay.facts)


def _opening(story: Story, stay: Stay, period: Period) -> list[ExpectedLine]:
    """What stands on the invoice that opens a period: setup, and the base fee in advance."""
    lines = _rated(story, stay, period).lines
    setup = [line for line in lines if line.component == "setup"]
    base = [line for line in lines if line.component in {"base", "trial"}][:1]
    return [_line(stay, line, {}) for line in (*setup, *base)]


def _changes(story: Story, stays: list[Stay], period: Period, ledger: Ledger) -> None:
    """What changes within a period brought: other quantities, and other plans with the usage of the one before."""
    for action in story.actions:
        if period.start <= action.at < period.end and action.kind == "plan":
            place = next(place for place, one in enumerate(stays) if one.facts.started_at == action.at and not one.scheduled)
            _plan_change(story, stays[place - 1], stays[place], period, ledger)
        elif period.start <= action.at < period.end and action.kind == "quantity":
            stay = next(one for one in reversed(stays) if one.facts.started_at <= action.at)
            ledger.wait(action.at, [_line(stay, line, {}) for line in _changed(story, stay, period) if line.period.start == action.at])


def _changed(story: Story, stay: Stay, period: Period) -> list[Line]:
    lines = [line for line in _rated(story, stay, period).lines if line.component == "base"]
    opens = bool(lines) and lines[0].period.start == stay.facts.begin_of(period)
    return lines[1:] if opens else lines


def _plan_change(story: Story, before: Stay, after: Stay, period: Period, ledger: Ledger) -> None:
    """First the fees, paid at once; then what Turnpike adds for the old plan, and its usage, when that has settled."""
    at = after.facts.started_at
    given_back = [_line(before, line, {}) for line in _changed(story, before, period) if line.period.start == at]
    opening = _opening(story, after, period)
    whole = Period(max(period.start, story.started_at), period.end)
    setup = [_of_period(line, whole) for line in opening if line.component == "setup"]
    ledger.wait(at, [*setup, *given_back, *(line for line in opening if line.component != "setup")])
    ledger.draw(at, [], [])
    closing, added = _closing(story, before, period)
    ledger.wait(at, [*added, *closing])
    if before.product.priced_meters():
        ledger.draw(at, [], [])


def additions(story: Story, since: datetime, until: datetime) -> list[Line]:
    """Return what no price at Stripe says for the usage between two instants of one period and one product."""
    if since == until:
        return []
    period = next(one for one in story.periods if one.start <= since < one.end)
    stay = next(one for one in reversed(list(stays_of(story))) if one.facts.started_at <= since)
    return [line for line in _rated(story, stay, period).lines if line.component in ADDED_TO_DRAFT and line.amount_minor]


def _closing(story: Story, stay: Stay, period: Period) -> tuple[list[ExpectedLine], list[ExpectedLine]]:
    """The usage of the period, and what is added to the draft for it."""
    rated, usage = _rated(story, stay, period), _usage_of(story, stay, period)
    metered = [line for line in rated.lines if line.component == "unit" or line.component.startswith("usage:")]
    added = additions(story, stay.facts.begin_of(period), stay.facts.end_of(period))
    return [_line(stay, line, usage) for line in metered], [_line(stay, line, usage) for line in added]


def _line(stay: Stay, line: Line, usage: dict[str, int]) -> ExpectedLine:
    """Stripe counts calls where a quote counts packages or blocks, and writes no quantity for a flat fee (decision 58)."""
    component, quantity, price = line.component, line.quantity, stay.product.price
    assert price is not None
    if component in ADDED_TO_DRAFT:
        return ExpectedLine(line.amount_minor, 1, line.period.start, line.period.end, None, line.description)
    if component == "unit" and price.unit is not None:
        quantity = usage[price.unit.meter]
    if component.startswith("usage:"):
        entry = next(one for one in price.usage if component == f"usage:{one.meter}")
        if line.description.endswith(", flat fee"):
            quantity = 0
        elif entry.rounding != "exact" and not has_slices(entry):
            quantity = usage[entry.meter]
    component = "base" if component == "trial" else component
    return ExpectedLine(line.amount_minor, quantity, line.period.start, line.period.end, component, line.description)
