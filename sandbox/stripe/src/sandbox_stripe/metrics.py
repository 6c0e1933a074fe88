"""What Prometheus reads."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("sandbox_stripe_requests_total", "API requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "sandbox_stripe_request_seconds", "Time to answer an API request", buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
)
DELIVERIES = Counter("sandbox_stripe_webhook_deliveries_total", "Webhook delivery attempts by outcome", ["outcome"])
TRANSITIONS = Counter("sandbox_stripe_transitions_total", "Billing transitions made because time had come")
FAULTS = Counter("sandbox_stripe_faults_total", "Faults injected on demand", ["kind"])
WAITING = Gauge("sandbox_stripe_webhooks_waiting", "Webhook deliveries not answered yet")
