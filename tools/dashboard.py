"""Writes deploy/grafana/dashboards/money-path.json; `--check` fails when the file is not what this says."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "deploy" / "grafana" / "dashboards" / "money-path.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 24
Queries = list[tuple[str, str]]

ROWS: list[tuple[str, list[tuple[str, str, str, Queries]]]] = [
    (
        "Now",
        [
            ("stat", "Services ready", "none", [("ready", "sum(turnpike_ready)")]),
            ("stat", "Dead letters in 24 h", "none", [("set aside", "sum(increase(turnpike_dead_letters_total[24h])) or vector(0)")]),
            ("stat", "Suspensions held", "none", [("held", "max(turnpike_access_suspensions_held)")]),
            ("stat", "Catalogue drift", "none", [("not as applied", "sum(max by (system, kind) (turnpike_catalogue_drift))")]),
        ],
    ),
    (
        "1. Sign-up and payment",
        [
            (
                "timeseries",
                "Webhooks in",
                "ops",
                [("{{type}} {{outcome}}", "sum by (type, outcome) (rate(turnpike_webhooks_received_total[$__rate_interval]))")],
            ),
            ("timeseries", "Webhook lag", "s", [("oldest waiting", "max(turnpike_webhook_lag_seconds)")]),
            (
                "timeseries",
                "Webhook to event",
                "s",
                [
                    ("p50", "histogram_quantile(0.5, sum by (le) (rate(turnpike_webhook_processing_seconds_bucket[$__rate_interval])))"),
                    ("p99", "histogram_quantile(0.99, sum by (le) (rate(turnpike_webhook_processing_seconds_bucket[$__rate_interval])))"),
                ],
            ),
            (
                "timeseries",
                "Calls to Stripe by checkout",
                "ops",
                [("{{kind}} {{outcome}}", "sum by (kind, outcome) (rate(turnpike_checkout_intents_total[$__rate_interval]))")],
            ),
            ("timeseries", "Calls without an outcome", "none", [("pending", "max(turnpike_checkout_intents_pending)")]),
        ],
    ),
    (
        "2. Access",
        [
            (
                "timeseries",
                "Access changes",
                "none",
                [("{{access}} {{reason}}", "sum by (access, reason) (increase(turnpike_access_changes_total[$__rate_interval]))")],
            ),
            (
                "timeseries",
                "Decision to confirmed access",
                "s",
                [
                    (
                        "p50 {{access}}",
                        "histogram_quantile(0.5, sum by (le, access) (rate(turnpike_access_apply_seconds_bucket[$__rate_interval])))",
                    ),
                    (
                        "p99 {{access}}",
                        "histogram_quantile(0.99, sum by (le, access) (rate(turnpike_access_apply_seconds_bucket[$__rate_interval])))",
                    ),
                ],
            ),
            (
                "timeseries",
                "Not applied",
                "none",
                [
                    ("pending", "max(turnpike_access_pending)"),
                    ("failing", "max(turnpike_access_failing)"),
                    ("held", "max(turnpike_access_suspensions_held)"),
                ],
            ),
        ],
    ),
    (
        "3. Usage",
        [
            (
                "timeseries",
                "Usage events by outcome",
                "ops",
                [
                    (
                        "{{source}} {{outcome}} {{reason}}",
                        "sum by (source, outcome, reason) (rate(turnpike_usage_events_total[$__rate_interval]))",
                    )
                ],
            ),
            ("timeseries", "Records not in a window yet", "none", [("{{topic}}", "sum by (topic) (turnpike_usage_unread_events)")]),
            (
                "timeseries",
                "Windows collected, meter events acknowledged",
                "ops",
                [
                    ("collected", "sum(rate(turnpike_usage_windows_published_total[$__rate_interval]))"),
                    ("reported", "sum(rate(turnpike_usage_reported_events_total[$__rate_interval]))"),
                ],
            ),
            (
                "timeseries",
                "Usage acknowledged by Stripe",
                "none",
                [("units a second", "sum(rate(turnpike_usage_reported_total[$__rate_interval]))")],
            ),
            ("timeseries", "Ledger by state", "none", [("{{state}}", "max by (state) (turnpike_reporter_ledger_rows)")]),
            (
                "timeseries",
                "Oldest usage that is due; next final invoice with open usage",
                "s",
                [
                    ("oldest due", "max(turnpike_reporter_oldest_unreported_seconds)"),
                    ("final in", "min(turnpike_reporter_close_deadline_seconds)"),
                ],
            ),
        ],
    ),
    (
        "4. Events between services",
        [
            ("timeseries", "Consumer lag", "none", [("{{job}} {{topic}}", "sum by (job, topic) (turnpike_consumer_lag)")]),
            ("timeseries", "Outbox: oldest event", "s", [("{{job}}", "max by (job) (turnpike_outbox_oldest_seconds)")]),
            ("timeseries", "Outbox: events waiting", "none", [("{{job}}", "max by (job) (turnpike_outbox_rows)")]),
            (
                "timeseries",
                "Events handled",
                "ops",
                [("{{job}} {{topic}} {{outcome}}", "sum by (job, topic, outcome) (rate(turnpike_events_handled_total[$__rate_interval]))")],
            ),
            ("timeseries", "Events that hold their partition", "none", [("{{job}} {{topic}}/{{partition}}", "turnpike_event_retries > 0")]),
            (
                "timeseries",
                "Dead letters",
                "none",
                [("{{job}} {{topic}} {{error}}", "sum by (job, topic, error) (increase(turnpike_dead_letters_total[$__rate_interval]))")],
            ),
        ],
    ),
]


def panel(kind: str, title: str, unit: str, queries: Queries, *, number: int, place: tuple[int, int]) -> dict[str, Any]:
    x, y = place
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard: rows in the order in which money moves."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, content in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y += 1
        for index, (kind, name, unit, queries) in enumerate(content):
            line, column = divmod(index, COLUMNS // WIDTH)
            panels.append(panel(kind, name, unit, queries, number=len(panels) + 1, place=(column * WIDTH, y + line * HEIGHT)))
        y += -(-len(content) // (COLUMNS // WIDTH)) * HEIGHT
    return {
        "uid": "turnpike-money-path",
        "title": "Turnpike: the money path",
        "tags": ["turnpike"],
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "editable": False,
        "panels": panels,
    }


def main(arguments: list[str]) -> int:
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in arguments:
        if FILE.read_text() != text:
            print(f"{FILE.relative_to(ROOT)} is not what tools/dashboard.py says: run python tools/dashboard.py")
            return 1
        return 0
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
