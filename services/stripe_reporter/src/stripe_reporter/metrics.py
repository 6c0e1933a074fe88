"""What the reporter shows on /metrics."""

from datetime import datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

LEDGER_ROWS = Gauge("turnpike_reporter_ledger_rows", "Rows of the ledger that are not acknowledged", ["state"])
ANSWERS = Counter("turnpike_reporter_answers_total", "Stripe's answers to meter events", ["answer"])
REPORTED = Counter("turnpike_usage_reported_total", "Usage that Stripe acknowledged, in units of the meter")
REPORTED_WINDOWS = Counter("turnpike_usage_reported_events_total", "Meter events that Stripe acknowledged")
REJECTED = Counter("turnpike_usage_rejected_total", "Meter events that Stripe refused for good", ["code"])
STREAMED = Counter("turnpike_reporter_streamed_total", "Meter events that Stripe's v2 stream took, without a verdict")
STREAM_MISSING = Counter(
    "turnpike_reporter_stream_unconfirmed_total", "Streamed meter events that Stripe's summary did not show, sent again one by one"
)
SEND_SECONDS = Histogram(
    "turnpike_reporter_send_seconds", "Time of one call to Stripe", buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
)
OLDEST_UNREPORTED = Gauge(
    "turnpike_reporter_oldest_unreported_seconds", "Business age of the oldest usage that is due and not acknowledged"
)
RATE = Gauge("turnpike_reporter_calls_per_second", "Calls a second that the reporter allows itself now")
READ_RATE = Gauge("turnpike_reporter_reads_per_second", "Summaries a second that the reporter allows itself to ask for now")
STOPPED = Gauge("turnpike_reporter_stopped", "1 while Stripe refuses the key: nothing is sent")
SEGMENTS_OPEN = Gauge("turnpike_reporter_segments_open", "Closed segments that are not settled", ["state"])
SEGMENTS_MISMATCHED = Gauge(
    "turnpike_reporter_segments_mismatched", "Closed segments whose totals have not matched the ledger for 5 minutes"
)
CLOSE_OPEN = Gauge("turnpike_reporter_close_open", "Draft invoices whose period has usage that is not at Stripe")
CLOSE_AT_RISK = Gauge("turnpike_reporter_close_at_risk", "Such drafts that become final soon or are final already")
CLOSE_DEADLINE = Gauge(
    "turnpike_reporter_close_deadline_seconds", "Business seconds until the first such draft becomes final; 0: there is none"
)

UNBILLED = Counter("turnpike_reporter_unbilled_total", "Times that usage was found missing on a final invoice, and announced to be billed")

RECONCILING = Histogram("turnpike_reconciliation_seconds", "Time of one hourly run", buckets=(1, 5, 15, 60, 300, 900, 1800, 3600))
DIFFERENCES = Gauge("turnpike_reconciliation_differences", "Differences between stations that need attention", ["cause"])
UNEXPLAINED = Gauge("turnpike_reconciliation_unexplained", "Differences between stations that nothing explains")
RECONCILED_AT = Gauge("turnpike_reconciliation_last_run_timestamp_seconds", "When the last whole run ended (wall time); 0: never")


def show_differences(counts: list[tuple[str, bool, int]], last: datetime | None) -> None:
    """Put what the last run left into the gauges; causes that are gone are gone."""
    DIFFERENCES.clear()
    for cause, _, number in counts:
        DIFFERENCES.labels(cause).inc(number)
    UNEXPLAINED.set(sum(number for _, explained, number in counts if not explained))
    RECONCILED_AT.set(last.timestamp() if last else 0)


def show(figures: dict[str, Any], now: datetime) -> None:
    """Put what the store counted into the gauges; `now` is business time."""
    for state in ("intent", "sent", "unknown", "rejected"):
        LEDGER_ROWS.labels(state).set(figures["states"].get(state, 0))
    oldest, deadline = figures["oldest"], figures["deadline"]
    OLDEST_UNREPORTED.set(max((now - oldest).total_seconds(), 0) if oldest else 0)
    SEGMENTS_OPEN.labels("waiting").set(figures["waiting"])
    SEGMENTS_OPEN.labels("parked").set(figures["parked"])
    SEGMENTS_MISMATCHED.set(figures["mismatched"])
    CLOSE_OPEN.set(figures["close_open"])
    CLOSE_AT_RISK.set(figures["close_at_risk"])
    CLOSE_DEADLINE.set((deadline - now).total_seconds() if deadline else 0)
