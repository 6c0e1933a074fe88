"""Which stations of usage disagree, by how much and why. Pure rules over plain figures.

Stations: the gateway's own count, events, windows (collector), windows as told here, ledger, Stripe's meter summaries, invoice lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

Station = Literal["gateway-events", "events-meters", "events-windows", "windows-told", "told-ledger", "ledger-stripe", "usage-invoice"]
Cause = Literal[
    "lost", "reports_lag", "late", "held", "rejected", "duplicate", "filter", "deleted", "in_flight", "overdue", "rejected_by_stripe",
    "summary_lag", "manual_change_in_stripe", "miscounted", "not_told", "not_invoiced", "after_the_invoice",
    "billed_later",
]  # fmt: skip
UNEXPLAINED: frozenset[Cause] = frozenset(
    {"lost", "overdue", "manual_change_in_stripe", "miscounted", "not_told", "not_invoiced", "after_the_invoice"}
)
ACCOUNTED: frozenset[Cause] = frozenset({"duplicate", "filter", "deleted", "billed_later"})  # these are as they should be
PASSING: frozenset[Cause] = frozenset({"in_flight", "reports_lag", "summary_lag"})  # gone by themselves in a while
ON_THE_WAY = timedelta(minutes=15)
REPORTS_GROW_FOR = timedelta(hours=24)
INVOICED_WITHIN = timedelta(hours=80)  # a draft may stay one for 72 hours


@dataclass(frozen=True)
class Difference:
    """Two stations disagree. `quantity` is the later one less the earlier one; of events where `meter_id` is empty, else in its unit."""

    station: Station
    cause: Cause
    day: datetime
    quantity: int
    words: str
    product_id: str = ""
    meter_id: str = ""
    since: datetime | None = None  # what its age counts from; None: the day
    amount_minor: int | None = None  # known already: else it is what the quantity would cost
    units: int = 0  # of events: what they say, or one each where they do not

    @property
    def explained(self) -> bool:
        return self.cause not in UNEXPLAINED

    @property
    def needs_attention(self) -> bool:
        return self.cause not in ACCOUNTED | PASSING


@dataclass(frozen=True)
class MeterFigures:
    """One meter of one product on one UTC day at every station. `stripe` None: not billed, or Stripe did not answer."""

    product_id: str
    meter_id: str
    day: datetime
    counted: int | None = None  # None: could not be added up in time, or its events are no longer kept
    windows: int | None = None  # None: the collector knows no such window
    left_out: int = 0  # of the windows: hours whose events are not added up yet, so they are not in `counted`
    unpublished: bool = False
    told: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    rejected: int = 0
    unsent: int = 0
    due_at: datetime | None = None  # business time, of the first unsent
    first_unanswered: datetime | None = None
    changed_at: datetime | None = None  # wall time
    customer_acknowledged: int = 0  # of all subscriptions of the customer
    answered_at: datetime | None = None  # wall time, of Stripe's last answer
    stripe: int | None = None


@dataclass(frozen=True)
class Clocks:
    """`now` is business time; `wall` is what leases, answers and lags are measured in."""

    now: datetime
    wall: datetime
    summary_lag: timedelta


def judge_events(day: Mapping[str, Any], clocks: Clocks) -> list[Difference]:
    """Compare the gateway with the events of a day, and say what became of the events. `day` is the collector's answer."""
    at = datetime.fromisoformat(day["day"])
    found = []
    if (gateway := day["gateway"]) is not None:
        missing = gateway["received"] - gateway["calls"]
        until = datetime.fromisoformat(gateway["until"])
        if missing < 0:
            found.append(
                Difference(
                    "gateway-events", "lost", at, missing, "calls that the gateway counted and that never arrived as usage", units=-missing
                )
            )
        elif missing > 0 and clocks.now - until < REPORTS_GROW_FOR:
            text = "more usage than the gateway's reports show yet: they trail"
            found.append(Difference("gateway-events", "reports_lag", at, missing, text))
        elif missing > 0:
            text = "more usage than the gateway counted: another sender uses this key's id"
            found.append(Difference("gateway-events", "miscounted", at, missing, text))
    found += [_of_bin(at, row) for row in day["bins"] if row["outcome"] != "counted"]
    if day["duplicates"]:
        found.append(Difference("events-meters", "duplicate", at, -day["duplicates"], "delivered again; each event is counted once"))
    return found


def _of_bin(day: datetime, row: Mapping[str, Any]) -> Difference:
    outcome, reason = row["outcome"], row["reason"]
    cause: Cause = "held" if outcome == "held" else "rejected" if outcome == "rejected" else "filter"
    cause = "late" if reason == "late" else "deleted" if reason == "deleted" else cause
    units = row["events"] if row.get("quantity") is None else row["quantity"]
    return Difference("events-meters", cause, day, -row["events"], f"{outcome}: {reason}", units=units)


def judge_meter(figures: MeterFigures, clocks: Clocks) -> list[Difference]:
    """Compare all stations of one meter and day, one after the other."""
    names: dict[str, Any] = {"product_id": figures.product_id, "meter_id": figures.meter_id}
    found: list[Difference] = []
    windows = figures.windows or 0
    compared = windows - figures.left_out
    if figures.counted is not None and figures.windows is not None and figures.counted != compared:
        text = "the windows do not hold what the events add up to"
        found.append(Difference("events-windows", "miscounted", figures.day, compared - figures.counted, text, **names))
    if figures.windows is not None and figures.told != windows:
        fresh = figures.unpublished or (figures.changed_at is not None and clocks.wall - figures.changed_at < ON_THE_WAY)
        cause: Cause = "in_flight" if fresh else "not_told"
        text = "running totals on their way to the reporter" if fresh else "running totals that did not reach the reporter"
        found.append(Difference("windows-told", cause, figures.day, figures.told - windows, text, **names))
    found += _judge_ledger(figures, clocks, names)
    if figures.stripe is not None and figures.stripe != figures.customer_acknowledged:
        found.append(_judge_stripe(figures, figures.stripe, clocks, names))
    return found


def is_unsure(figures: MeterFigures) -> bool:
    """Return whether windows are not, or could not be seen to be, what their events add up to: a repair leaves those alone."""
    return figures.counted != figures.windows and (bool(figures.windows) or figures.counted is not None)


def _judge_ledger(figures: MeterFigures, clocks: Clocks, names: dict[str, Any]) -> list[Difference]:
    found = []
    if figures.unsent:
        late = figures.due_at is None or clocks.now - figures.due_at > ON_THE_WAY
        cause: Cause = "overdue" if late else "in_flight"
        text = "should have been sent to Stripe" if late else "is sent to Stripe after its hour"
        found.append(Difference("told-ledger", cause, figures.day, -figures.unsent, text, **names, since=figures.due_at))
    if figures.in_flight:
        text = "was sent to Stripe, or is about to be, and has no answer yet"
        found.append(Difference("told-ledger", "in_flight", figures.day, -figures.in_flight, text, **names, since=figures.first_unanswered))
    if figures.rejected:
        text = "Stripe refused it for good: `usage.rejected` names code and remedy"
        found.append(Difference("told-ledger", "rejected_by_stripe", figures.day, -figures.rejected, text, **names))
    return found


def _judge_stripe(figures: MeterFigures, at_stripe: int, clocks: Clocks, names: dict[str, Any]) -> Difference:
    quantity = at_stripe - figures.customer_acknowledged
    if quantity < 0 and figures.answered_at is not None and clocks.wall - figures.answered_at < clocks.summary_lag:
        text = "Stripe's summaries trail behind what it acknowledged"
        return Difference("ledger-stripe", "summary_lag", figures.day, quantity, text, **names)
    if 0 < quantity <= figures.in_flight:
        text = "Stripe has it already; its answer is not written down yet"
        return Difference("ledger-stripe", "in_flight", figures.day, quantity, text, **names)
    done = "was added in Stripe" if quantity > 0 else "was taken away in Stripe"
    return Difference("ledger-stripe", "manual_change_in_stripe", figures.day, quantity, f"{done}, not by Turnpike", **names)


@dataclass(frozen=True)
class InvoicedUsage:
    """What one final invoice bills of a meter and service period, against what was counted and what Stripe has.

    `claimed`: what was found missing on it and is billed elsewhere. `on_its_way`: Stripe's sum may still trail, so nothing is decided.
    """

    product_id: str
    meter_id: str
    period_start: datetime
    invoice: str
    billed: int
    counted: int
    stripe: int | None
    amount_minor: int
    rated_minor: int | None
    claimed: int = 0
    on_its_way: bool = False

    @property
    def more(self) -> int:
        """What the invoice and what was claimed bill more than was counted; negative: what nobody bills."""
        return self.billed + self.claimed - self.counted


def judge_invoice(usage: InvoicedUsage) -> list[Difference]:
    """Compare an invoice's lines of a service period with the usage of it."""
    names: dict[str, Any] = {"product_id": usage.product_id, "meter_id": usage.meter_id}
    if usage.billed != usage.counted:
        amount = None if usage.rated_minor is None else usage.amount_minor - usage.rated_minor
        found = []
        if usage.claimed:
            text = f"invoice {usage.invoice} bills {usage.billed:,}: the rest is billed, waived or kept as the plan's late_usage says"
            known = amount if usage.more == 0 else None
            found.append(Difference("usage-invoice", "billed_later", usage.period_start, -usage.claimed, text, **names, amount_minor=known))
        if usage.more:
            known = amount if not usage.claimed else None
            cause, why = _why_apart(usage)
            text = f"invoice {usage.invoice} bills {usage.billed:,}: {why}"
            found.append(Difference("usage-invoice", cause, usage.period_start, usage.more, text, **names, amount_minor=known))
        return found
    if usage.rated_minor is not None and usage.rated_minor != usage.amount_minor:
        text = f"invoice {usage.invoice} bills the right quantity at another price than the plan's"
        difference = usage.amount_minor - usage.rated_minor
        return [Difference("usage-invoice", "manual_change_in_stripe", usage.period_start, 0, text, **names, amount_minor=difference)]
    return []


def _why_apart(usage: InvoicedUsage) -> tuple[Cause, str]:
    if usage.more < 0 and usage.on_its_way:
        return "in_flight", "what is missing is billed later, once Stripe's sums have caught up"
    if usage.stripe is not None and usage.stripe == usage.billed:
        return "manual_change_in_stripe", "Stripe's meter held something else than was counted"
    return "after_the_invoice", "usage changed at Stripe after the invoice was final: no invoice bills it"


def foreign_line(created_at: datetime, invoice: str, description: str, amount_minor: int) -> Difference:
    """Name a line of an invoice that Turnpike did not make."""
    text = f"invoice {invoice} has a line that Turnpike did not make: {description[:80]}"
    return Difference("usage-invoice", "manual_change_in_stripe", created_at, 0, text, amount_minor=amount_minor)


def not_invoiced(
    closed: Iterable[tuple[str, str, datetime, datetime, int]], invoiced: Sequence[tuple[str, str, datetime, datetime]], clocks: Clocks
) -> list[Difference]:
    """Name priced usage of closed stretches (product, meter, start, end, quantity) that no invoice line covers."""
    found = []
    for product_id, meter_id, start, end, quantity in closed:
        covered = any((product_id, meter_id) == (product, meter) and since <= start < until for product, meter, since, until in invoiced)
        if quantity and not covered and clocks.now - end > INVOICED_WITHIN:
            text = "usage of a closed period that stands on no invoice"
            found.append(Difference("usage-invoice", "not_invoiced", start, -quantity, text, product_id, meter_id))
    return found


def combined(differences: Iterable[Difference]) -> list[Difference]:
    """Bring those of one station, cause, day and meter together: a table has one row for each."""
    sums: dict[tuple[object, ...], Difference] = {}
    for one in differences:
        key = one.station, one.cause, one.day, one.product_id, one.meter_id
        known = sums.get(key)
        if known is None:
            sums[key] = one
            continue
        amount = None if None in {known.amount_minor, one.amount_minor} else (known.amount_minor or 0) + (one.amount_minor or 0)
        words = known.words if one.words in known.words else f"{known.words}; {one.words}"
        sums[key] = Difference(
            one.station, one.cause, one.day, known.quantity + one.quantity, words, one.product_id, one.meter_id,
            min(filter(None, (known.since, one.since)), default=None), amount, known.units + one.units,
        )  # fmt: skip
    return list(sums.values())
