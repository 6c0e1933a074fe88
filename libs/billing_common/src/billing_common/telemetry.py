"""Structured logs (one JSON line per outcome, no payloads, no secrets) and the metrics every service has."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from billing_common.traces import first_line, without_values

HANDLED = Counter("turnpike_events_handled_total", "Events handled", ["topic", "outcome"])
HANDLING = Histogram(
    "turnpike_event_handling_seconds", "Time to handle one event", ["topic"], buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
)
RETRIES = Gauge("turnpike_event_retries", "Tries so far of the event that holds its partition", ["topic", "partition"])
DEAD_LETTERS = Counter("turnpike_dead_letters_total", "Events that went to the dead-letter topic", ["topic", "error"])
LAG = Gauge("turnpike_consumer_lag", "Events of a partition that this process has not taken up yet", ["topic", "partition"])
LOOP_FAILURES = Counter("turnpike_background_failures_total", "Failed rounds of a background task", ["task"])
READY = Gauge("turnpike_ready", "1 when the service is ready")

SPARINGLY_SECONDS = 10.0


class Sparingly(logging.Filter):
    """Passes each kind of aiokafka's messages once in a while: while Kafka is out every client says the same ten times a second.

    A message with an exception always passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka") or record.exc_info:
            return True
        kind = (record.name, str(record.msg))
        if record.created - self._said.get(kind, 0.0) < SPARINGLY_SECONDS:
            return False
        self._said[kind] = record.created
        return True


def configure_logging(service: str, level: str) -> None:
    """Send everything, structlog's and the libraries' records, to stdout as JSON lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                without_values,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(Sparingly())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for noisy in ("aiokafka", "azure", "httpx", "httpcore", "stripe", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def describe(error: BaseException) -> str:
    """Say in one line what is wrong, without the payload: a validation error's own text repeats its input."""
    error = getattr(error, "original_error", error)
    errors = getattr(error, "errors", None)
    if callable(errors):
        return "; ".join(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in errors()[:5])[:500]
    return first_line(error)[:500]
