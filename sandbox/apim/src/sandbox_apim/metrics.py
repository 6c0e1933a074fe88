"""What `/metrics` shows."""

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry()
CALLS = Counter("sandbox_apim_gateway_calls", "Calls answered by the gateway", ["status_class"], registry=REGISTRY)
ARM_REQUESTS = Counter("sandbox_apim_management_requests", "Requests to the management API", ["method", "status"], registry=REGISTRY)
WAITING = Gauge("sandbox_apim_log_lines_waiting", "Log lines that Kafka has not acknowledged yet", registry=REGISTRY)
ENTITIES = Gauge("sandbox_apim_subscriptions", "Subscriptions by state", ["state"], registry=REGISTRY)
