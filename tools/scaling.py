"""Writes the tables of docs/scaling.md from bench/results/*.json; `--check` fails when they are not what the figures say.

`tools/scaling.py --calls 200000000 --peak 4 --retention 90` prints the same for other numbers.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "bench" / "results", ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- tables: tools/scaling.py -->\n", "<!-- end of tables -->\n"
DAY = 86400
RECORD_BYTES = 350  # a call as log-to-eventhub writes it
FILLED = 0.6  # of a core, or of a disk: the rest is for catching up
SUBSCRIBERS = 4  # of one collector process to a stream: as many partitions it can read at once
SUBSCRIPTIONS, STRIPE_CALLS_A_SECOND = 100_000, 1000
# Assumed list prices in US dollars; they differ by region and contract: put in yours.
CORE_HOUR, MEMORY_GB_HOUR, DISK_GB_MONTH, UNIT_HOUR, MILLION_EVENTS = 0.05, 0.005, 0.115, 0.03, 0.028


@dataclass(frozen=True)
class Demand:
    """What is asked for: calls a day, how many times the mean the busiest hour has, days that events are kept."""

    calls: int
    peak: float
    retention: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--calls", type=int, help="calls a day")
    parser.add_argument("--peak", type=float, default=3.0, help="calls of the busiest hour, in times of the mean")
    parser.add_argument("--retention", type=int, default=90, help="days that single events are kept")
    asked = parser.parse_args()
    if asked.calls:
        sys.stdout.write(tables(Demand(asked.calls, asked.peak, asked.retention)))
        return
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN)
    made = head + BEGIN + tables(Demand(10**9, 3.0, 90)) + END + rest.split(END)[1]
    if made != text and asked.check:
        sys.exit("docs/scaling.md is not what bench/results says; run tools/scaling.py")
    DOCUMENT.write_text(made)


def tables(demand: Demand) -> str:
    """Return what a day of so many calls needs, as Markdown."""
    stream, growth = figures("usage_stream")["stream to windows"], stored()
    postgres_us = growth["postgres_cpu_us_per_event"] + largest_hour()["whole_us_per_event"]
    mean = demand.calls / DAY
    peak = mean * demand.peak
    python_cores, postgres_cores = peak * stream["cpu_us_per_event"] / 1e6, peak * postgres_us / 1e6
    postgres_taken = math.ceil(postgres_cores / FILLED)
    replicas = max(2, math.ceil(python_cores / FILLED) + 1)
    partitions = SUBSCRIBERS * replicas
    day_gb, index_gb = (demand.calls * growth[name] / 1e9 for name in ("stored_bytes_per_event", "of_them_index"))
    disk_gb = day_gb * demand.retention / FILLED
    units = math.ceil(peak / 1000)
    kafka_gb = demand.calls * RECORD_BYTES / 1e9
    spare = min(replicas * stream["events_per_second"], postgres_taken * 1e6 / postgres_us) - peak
    rows = [
        ("calls a second, mean and busiest hour", f"{mean:,.0f} and {peak:,.0f}"),
        ("Python for the stream, at the peak", f"{python_cores:.1f} cores"),
        ("collector replicas, one of them spare", f"{replicas}"),
        ("partitions of the topic, four for each replica", f"{partitions}"),
        ("Postgres's processor, at the peak", f"{postgres_cores:.1f} cores: take {postgres_taken}"),
        ("the busiest hour without any collector is caught up in", f"{peak * 3600 / spare / 60:,.0f} minutes while it stays as busy"),
        ("memory for the index of the running day, which every new event looks into", f"{index_gb:,.0f} GB"),
        ("disk for a day's events and their index", f"{day_gb:,.0f} GB"),
        (f"disk for {demand.retention} days, {FILLED:.0%} filled", f"{disk_gb / 1000:,.1f} TB"),
        ("Kafka: a day of records, one copy", f"{kafka_gb:,.0f} GB, {kafka_gb * 1000 / DAY * demand.peak:,.0f} MB/s at the peak"),
        ("Event Hubs: throughput units at the peak (1,000 events/s or 1 MB/s each)", f"{units}"),
        (f"Stripe: windows of {SUBSCRIPTIONS:,} busy subscriptions an hour", stripe_hour()),
    ]
    cores = replicas + postgres_taken
    money = [
        (f"{cores} cores for collectors and Postgres", cores * 24 * CORE_HOUR),
        (f"{index_gb:,.0f} GB of memory for the index", index_gb * 24 * MEMORY_GB_HOUR),
        (f"{disk_gb / 1000:,.1f} TB of disk", disk_gb * DISK_GB_MONTH / 30),
        (f"{units} throughput units of Event Hubs", units * 24 * UNIT_HOUR),
        (f"{demand.calls / 1e6:,.0f} million events into Event Hubs", demand.calls / 1e6 * MILLION_EVENTS),
    ]
    total = sum(amount for _, amount in money)
    return (
        "| what | how much |\n|---|---|\n"
        + "".join(f"| {name} | {value} |\n" for name, value in rows)
        + "\n| money a day | USD |\n|---|---|\n"
        + "".join(f"| {name} | {amount:,.2f} |\n" for name, amount in money)
        + f"| **together** | **{total:,.2f}**: {total * 1e6 / demand.calls:,.3f} for a million calls |\n"
    )


def stripe_hour() -> str:
    v2 = figures("usage_reporting")["v2 stream, all 48,000"]["hours_per_second"]
    return (
        f"{SUBSCRIPTIONS / STRIPE_CALLS_A_SECOND:,.0f} s by v1 at Stripe's limit, {SUBSCRIPTIONS / v2:,.0f} s by the v2 stream as measured"
    )


def stored() -> dict[str, Any]:
    """Return the cost of an event with the most stored in its own day."""
    steps = [values for name, values in figures("usage_growth").items() if name.endswith(" stored in one day")]
    return dict(steps[-1])


def largest_hour() -> dict[str, Any]:
    """Return what adding up the hour with the most events cost."""
    hours = [values for name, values in figures("usage_rolling").items() if name.endswith(" in the hour")]
    return dict(hours[-1])


def figures(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return found


if __name__ == "__main__":
    main()
