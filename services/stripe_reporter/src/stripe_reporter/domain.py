"""What to send to Stripe and when, and what an answer means: pure rules over plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Literal
from uuid import UUID

from billing_common.events import derive_id

HOUR = timedelta(hours=1)
SAME_IDENTIFIER_FOR = timedelta(hours=23)  # Stripe keeps identifiers and idempotency keys for at least 24 h
RETRY_FIRST_SECONDS = 0.5
STREAM_ROWS_A_LANE = 4  # a summary of a lane replaces so many calls at least


class Kind(Enum):
    """What came back from Stripe, as far as it matters here."""

    ACKNOWLEDGED = "acknowledged"
    REJECTED = "rejected"  # no retry can help; a person has to act
    FAILED_ANSWER = "failed_answer"  # an answer that Stripe would replay for the same idempotency key
    NO_ANSWER = "no_answer"  # the outcome is unknown: the same call again
    TOO_FAST = "too_fast"
    TOO_EARLY = "too_early"  # Stripe's clock is behind ours
    KEY_REFUSED = "key_refused"


@dataclass(frozen=True)
class Answer:
    kind: Kind
    code: str | None = None
    request_id: str | None = None
    note: str | None = None
    credited: int | None = None  # where it is not the row's whole quantity


@dataclass(frozen=True)
class Window:
    """One (subscription, meter, segment, hour) that is due, with where Stripe wants it (None: not billed)."""

    window_id: UUID
    total: int
    recorded: int
    revision: int
    event_time: datetime
    stripe_customer_id: str | None
    event_name: str | None
    stripe_meter_id: str | None


@dataclass(frozen=True)
class MeterEvent:
    """One row of the ledger that has no final answer."""

    identifier: UUID
    window_id: UUID
    stripe_customer_id: str
    event_name: str
    stripe_meter_id: str
    event_time: datetime
    revision: int
    quantity: int
    failed_answers: int = 0
    first_sent_at: datetime | None = None

    @property
    def hour(self) -> datetime:
        return hour_of(self.event_time)

    @property
    def idempotency_key(self) -> str:
        """The identifier; with a number after answers such as a 500, which Stripe would otherwise replay for a day."""
        return f"{self.identifier}:{self.failed_answers}" if self.failed_answers else str(self.identifier)


Hours = Mapping[datetime, tuple[MeterEvent, ...]]  # start of the hour -> rows in it


@dataclass(frozen=True)
class Work:
    """What to do with the open rows of one customer and meter."""

    send: tuple[MeterEvent, ...]
    compare: Hours


@dataclass(frozen=True)
class Found:
    """What a comparison says of one row: so much of it is at Stripe; the rest goes under a new identifier."""

    row: MeterEvent
    credited: int
    rest: MeterEvent | None


@dataclass(frozen=True)
class MeterSums:
    """One meter of a segment: counted so far, at Stripe (or not billed), refused by Stripe."""

    total: int
    covered: int
    rejected: int


SegmentState = Literal["settled", "waiting", "parked"]


def hour_of(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def window_id(*, subscription_id: str, meter_id: str, segment_start: datetime, hour: datetime) -> UUID:
    return derive_id("window", subscription_id, meter_id, segment_start.astimezone(UTC).isoformat(), hour.astimezone(UTC).isoformat())


def due_at(hour: datetime, *, now: datetime, delay: timedelta) -> datetime:
    """Return when a window that changed now is reported: after its hour; a straggler a delay from now, so several go together."""
    return max(hour + HOUR, now) + delay


def meter_event(window: Window) -> MeterEvent | None:
    """Return what brings Stripe to the window's total, or None when the ledger holds it already or nothing is billed."""
    delta = window.total - window.recorded
    if delta == 0 or window.event_name is None or window.stripe_meter_id is None or window.stripe_customer_id is None:
        return None
    return MeterEvent(
        identifier=derive_id("meter_event", str(window.window_id), str(window.revision)),
        window_id=window.window_id,
        stripe_customer_id=window.stripe_customer_id,
        event_name=window.event_name,
        stripe_meter_id=window.stripe_meter_id,
        event_time=window.event_time,
        revision=window.revision,
        quantity=delta,
    )


def divide(rows: Sequence[MeterEvent], now: datetime) -> Work:
    """Divide open rows into those to send (again) and those whose hour must be compared first.

    A row sent long ago may be at Stripe although Stripe no longer knows its identifier. Rows of the same hour that were never
    sent wait: their quantity would blur the comparison. Rows sent lately are repeated: their identifier still protects them.
    """
    old = [row for row in rows if row.first_sent_at is not None and now - row.first_sent_at >= SAME_IDENTIFIER_FOR]
    hours = {row.hour for row in old}
    send = [row for row in rows if row not in old and not (row.first_sent_at is None and row.hour in hours)]
    busy = {row.hour for row in send}
    return Work(
        send=tuple(send), compare={hour: tuple(row for row in old if row.hour == hour) for hour in sorted(hours) if hour not in busy}
    )


def stream_serves(rows: int, lanes: int, *, from_rows: int) -> bool:
    """Say whether the v2 stream serves a backlog of so many new rows; `from_rows` 0 turns it off.

    It takes 100 rows a call and gives no verdict. The verdict is a summary for each customer and meter after Stripe's lag, so a lane must
    have several hours to send, and v1, whose answers are final, is the better way while it is done within a minute.
    """
    return 0 < from_rows <= rows and rows >= STREAM_ROWS_A_LANE * lanes


def shown(rows: Sequence[MeterEvent], *, at_stripe: int, acknowledged: int) -> bool:
    """Say whether Stripe's sum of an hour holds all these rows and nothing that is not known here."""
    return at_stripe - acknowledged == sum(row.quantity for row in rows)


def compare(rows: Sequence[MeterEvent], *, at_stripe: int, acknowledged: int) -> list[Found]:
    """Say for rows of one customer, meter and hour how much of each is at Stripe.

    A meter event is stored whole or not at all, so rows are taken whole as far as Stripe's sum goes; the last takes what is left,
    so that credited and new quantities always add up to the rows.
    """
    left, found = at_stripe - acknowledged, []
    for position, row in enumerate(rows):
        last = position == len(rows) - 1
        whole = row.quantity if (left >= row.quantity > 0 or left <= row.quantity < 0) else 0
        credited = left if last else whole
        left -= credited
        found.append(Found(row=row, credited=credited, rest=_rest(row, credited)))
    return found


def _rest(row: MeterEvent, credited: int) -> MeterEvent | None:
    if row.quantity == credited:
        return None
    return MeterEvent(
        identifier=derive_id("difference", str(row.identifier)),
        window_id=row.window_id,
        stripe_customer_id=row.stripe_customer_id,
        event_name=row.event_name,
        stripe_meter_id=row.stripe_meter_id,
        event_time=row.event_time,
        revision=row.revision,
        quantity=row.quantity - credited,
    )


def judge_segment(totals: Mapping[str, int], meters: Mapping[str, MeterSums], *, free: bool) -> tuple[SegmentState, str]:
    """Say whether all of a closed segment is at Stripe, and if not what is waited for. `free`: nothing of it is billed."""
    if free:
        return "settled", ""
    nothing = MeterSums(0, 0, 0)
    reasons, parked = [], True
    for meter in sorted({*totals, *meters}):
        sums, closed = meters.get(meter, nothing), totals.get(meter, 0)
        if sums.total != closed:
            reasons.append(f"{meter}: {closed} counted at the close, {sums.total} in windows")
            parked = False
        elif sums.covered != closed:
            reasons.append(f"{meter}: {sums.covered} of {closed} acknowledged, {sums.rejected} refused")
            parked = parked and sums.covered + sums.rejected == closed
    if not reasons:
        return "settled", ""
    return ("parked" if parked else "waiting"), "; ".join(reasons)


def retry_pause(failures: int, *, longest: float, jitter: float) -> timedelta:
    """Return the pause before the next try; `jitter` in 0..1 spreads what failed together."""
    seconds = min(RETRY_FIRST_SECONDS * 2.0 ** min(failures, 16), longest)
    return timedelta(seconds=seconds * (0.5 + jitter / 2))


REMEDIES: Mapping[str, str] = {
    "timestamp_too_far_in_past": "Stripe takes usage of the past 35 days only: bill it by an invoice item or waive it",
    "archived_meter": "reactivate the meter in Stripe, then run `turnpike usage retry-refused`",
    "no_meter": "apply the catalogue again so that the meter exists, then run `turnpike usage retry-refused`",
    "meter_event_customer_not_found": "the customer was deleted in Stripe: bill the usage by hand or waive it",
    "resource_missing": "the customer or meter no longer exists in Stripe: bill the usage by hand or waive it",
    "meter_event_no_customer_defined": "the subscription has no Stripe customer: check it, then run `turnpike usage retry-refused`",
    "meter_event_invalid_value": "Stripe takes whole numbers only: correct the usage",
    "meter_event_value_too_many_digits": "the quantity is too large for Stripe: correct the usage",
}


def remedy(code: str) -> str:
    return REMEDIES.get(
        code, "look the request up in Stripe's log by its request id, correct the cause, then run `turnpike usage retry-refused`"
    )
