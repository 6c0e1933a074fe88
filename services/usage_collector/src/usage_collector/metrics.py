"""What the collector tells Prometheus beyond what every service does."""

from prometheus_client import Counter, Gauge, Histogram

RECEIVED = Counter("turnpike_usage_received_total", "Usage events read, repeated ones included", ["source"])
OUTCOMES = Counter("turnpike_usage_events_total", "Distinct usage events by outcome", ["source", "outcome", "reason"])
DUPLICATES = Counter("turnpike_usage_duplicates_total", "Usage events that were there already", ["source"])
COLLISIONS = Counter("turnpike_usage_collisions_total", "Batches written again: another collector added one of their events just then")
SETTLED = Counter("turnpike_usage_settled_total", "Held events that found their place")
DIRTY = Gauge("turnpike_usage_windows_dirty", "Windows with a total that was not published yet")
PUBLISHED = Counter("turnpike_usage_windows_published_total", "Running totals published")
THRESHOLDS = Counter("turnpike_usage_thresholds_total", "Thresholds of quotas and included amounts that were announced")
CORRECTIONS = Counter("turnpike_usage_corrections_total", "Corrections of usage by a person", ["kind", "place"])
LATE = Counter("turnpike_usage_late_events_total", "Events that came after their segment was closed, by what became of them", ["became"])
HELD = Gauge("turnpike_usage_held_events", "Events that are not counted yet, by what they wait for", ["reason"])
CLOSED = Counter("turnpike_usage_segments_closed_total", "Segments closed", ["reason"])
UNREAD = Gauge("turnpike_usage_unread_events", "Records of the usage streams that are not in a window yet", ["topic"])
ROLLING = Histogram(
    "turnpike_usage_roll_up_seconds", "Time to add up the events of one hour", buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 120, 600)
)
ROLLING_DUE = Gauge("turnpike_usage_roll_up_due_hours", "Hours that are over and not added up: pages read their events")
FAILING = Gauge("turnpike_usage_failing", "Subscriptions, segments or hours that a task left out because they failed", ["task"])
COLLECTING = Histogram(
    "turnpike_usage_batch_seconds", "Time to store one batch of events", buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
)
INGEST = Histogram(
    "turnpike_ingest_request_seconds",
    "Time to answer POST /v1/events, Kafka's acknowledgement included",
    ["status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
INGESTED = Counter("turnpike_ingest_events_total", "Events in requests by answer", ["result", "reason"])
REPORT_ROUNDS = Counter("turnpike_usage_report_rounds_total", "Rounds of reading API Management's reports", ["result"])
