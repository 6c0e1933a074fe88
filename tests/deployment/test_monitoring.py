"""Alerts and dashboard speak of metrics that services really have, and each alert says what to do."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SERVICES = ("delegation_gateway", "checkout", "webhook_ingress", "usage_collector", "stripe_reporter", "subscription_enforcer")
METRIC = re.compile(r"\bturnpike_[a-z0-9_]+")
PROMETHEUS_OWN = {"up"}
BUILD_ALL = """
import importlib
from prometheus_client import generate_latest
VALUES = {
    "database_url": "postgresql://role@localhost/db", "kafka_bootstrap_servers": "localhost:9092", "internal_token_keys": "k" * 32,
    "stripe_api_key": "rk_test_x", "stripe_webhook_secrets": "whsec_x", "delegation_keys": "a" * 64, "usage_event_hub_connection": "x",
    "apim_subscription_id": "a", "apim_resource_group": "b", "apim_service_name": "c",
    "public_url": "https://a", "portal_url": "https://b", "checkout_url": "http://c", "collector_url": "http://d",
}
async def build():
    for name in SERVICES:
        kind = importlib.import_module(f"{name}.settings").Settings
        given = {field: value for field, value in VALUES.items() if field in kind.model_fields}
        importlib.import_module(f"{name}.app").create_service(kind(**given))
import asyncio
asyncio.run(build())
print(generate_latest().decode())
"""


@pytest.fixture(scope="module")
def exported() -> dict[str, str]:
    """Build every service and return metric -> its type, as /metrics tells it."""
    done = subprocess.run([sys.executable, "-c", f"SERVICES = {SERVICES!r}\n{BUILD_ALL}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def alerts(root: Path) -> list[dict[str, Any]]:
    content = yaml.safe_load((root / "deploy" / "prometheus" / "alerts.yml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def panels(root: Path) -> list[dict[str, Any]]:
    content = json.loads((root / "deploy" / "grafana" / "dashboards" / "money-path.json").read_text())
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def family(name: str, exported: dict[str, str]) -> str | None:
    """Return the family that a sample belongs to: a histogram has three names of samples."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and exported.get(name.removesuffix(suffix)) == "histogram":
            return name.removesuffix(suffix)
    return name if name in exported else None


def test_alerts_name_metrics_that_exist(alerts: list[dict[str, Any]], exported: dict[str, str]) -> None:
    for alert in alerts:
        names = METRIC.findall(alert["expr"])
        assert names or set(re.findall(r"\b[a-z]+\b", alert["expr"])) & PROMETHEUS_OWN
        assert [name for name in names if family(name, exported) is None] == [], alert["alert"]


def test_the_dashboard_names_metrics_that_exist(panels: list[dict[str, Any]], exported: dict[str, str]) -> None:
    for panel in panels:
        for target in panel["targets"]:
            names = METRIC.findall(target["expr"])
            assert names, panel["title"]
            assert [name for name in names if family(name, exported) is None] == [], panel["title"]


def test_a_metric_that_does_not_exist_would_be_found(exported: dict[str, str]) -> None:
    assert family("turnpike_consumer_lag", exported) == "turnpike_consumer_lag"
    assert family("turnpike_webhook_processing_seconds_bucket", exported) == "turnpike_webhook_processing_seconds"
    assert family("turnpike_consumer_lags", exported) is None
    assert family("turnpike_consumer_lag_bucket", exported) is None


def test_rates_are_taken_of_counters_and_histograms_only(
    alerts: list[dict[str, Any]], panels: list[dict[str, Any]], exported: dict[str, str]
) -> None:
    expressions = [alert["expr"] for alert in alerts] + [target["expr"] for panel in panels for target in panel["targets"]]
    for name in (name for text in expressions for name in re.findall(r"(?:rate|increase)\((turnpike_[a-z0-9_]+)", text)):
        assert exported[family(name, exported) or ""] in {"counter", "histogram"}, name


def test_each_alert_leads_to_its_section_and_each_section_has_an_alert(root: Path, alerts: list[dict[str, Any]]) -> None:
    text = (root / "docs" / "how-to" / "what-to-do-when.md").read_text()
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    linked = set()
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/how-to/what-to-do-when.md"
        linked.add(anchor)
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in {"page", "ticket"}
    assert linked == sections
    for section in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert all(word in section for word in ("**Means:**", "**Look at:**", "**Do:**"))


def test_the_money_path_is_on_the_dashboard(panels: list[dict[str, Any]]) -> None:
    shown = {name for panel in panels for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    assert {
        "turnpike_webhook_lag_seconds", "turnpike_consumer_lag", "turnpike_outbox_oldest_seconds", "turnpike_usage_windows_published_total",
        "turnpike_usage_reported_total", "turnpike_reporter_ledger_rows", "turnpike_access_changes_total", "turnpike_dead_letters_total",
    } <= shown  # fmt: skip


def test_the_dashboard_is_what_its_script_says(root: Path) -> None:
    done = subprocess.run([sys.executable, str(root / "tools" / "dashboard.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_process_of_compose_with_metrics_is_scraped(root: Path) -> None:
    compose = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    scraped = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0].split(":")[0] for job in scraped}
    assert set(targets) == {*SERVICES, "sandbox_stripe", "sandbox_apim"}
    assert set(targets.values()) <= set(compose)
    for name in SERVICES:
        port = next(job["static_configs"][0]["targets"][0].split(":")[1] for job in scraped if job["job_name"] == name)
        assert compose[name.replace("_", "-")]["environment"][f"{name.upper()}_INTERNAL_PORT"] == port


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: it comes with Debian's package prometheus")
def test_alerts_fire_when_they_should(root: Path) -> None:
    folder = root / "deploy" / "prometheus"
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: it comes with Debian's package prometheus")
def test_every_expression_of_the_dashboard_parses(panels: list[dict[str, Any]], tmp_path: Path) -> None:
    expressions = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", "panels.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
