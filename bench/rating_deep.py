"""100,000 random catalogues, usages and subscriptions: the rating function against the slow calculator of its tests."""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "libs" / "billing_common" / "tests" / "test_rating_slow.py"
RESULT = ROOT / "bench" / "results" / "rating_deep.json"
CHUNK = 1000
SHARE_MIN = 0.002  # of all cases, for each feature: 200 of 100,000
LIMITS = ("base", "setup", "minimum", "maximum")


def load() -> ModuleType:
    """Import the tests by their path: they are no package."""
    specification = importlib.util.spec_from_file_location("test_rating_slow", TESTS)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def compare(first: int, count: int) -> Counter[str]:
    """Compare seeds and count what each was about; an inequality raises and names the question."""
    slow = sys.modules.get("test_rating_slow") or load()
    found: Counter[str] = Counter()
    for seed in range(first, first + count):
        question = slow.question(Random(seed))
        try:
            slow.compare(*question)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        found.update(set(features(*question)))
        found.update({"compared": 1, "units_counted": sum(question[1].values())})
    return found


def features(document: dict[str, Any], usage: dict[str, int], known: Any, period: Any) -> Iterator[str]:
    """Name everything special about a question, so that a reader sees what was really compared."""
    [product] = document["products"]
    price = product["price"]
    yield f"model {product['model']}"
    yield f"interval {product['interval']}, {(period.end - period.start).days} days"
    yield f"currency {document['currency']}"
    yield f"proration {product['policies']['proration']}"
    yield f"meters priced: {len(price['usage']) + ('unit' in price)}"
    yield from (name for name in LIMITS if name in price)
    if "minimum" in price and "maximum" in price:
        yield "minimum and maximum together"
    for entry in price["usage"]:
        yield from _of_usage(entry, usage[entry["meter"]])
    if "unit" in price:
        yield from _of_packages(price["unit"], usage[price["unit"]["meter"]])
    yield from _of_facts(known, period)


def _of_usage(entry: dict[str, Any], used: int) -> Iterator[str]:
    kind = next((name for name in ("tiers", "discounts") if name in entry), "one rate")
    yield f"{kind}, {entry['mode']}" if kind != "one rate" else kind
    yield f"{kind}, rounding {entry['rounding']}"
    yield f"per {entry['per']}"
    if entry.get("included"):
        yield f"included, rounding {entry['rounding']}"
        yield from _beside("the end of an allowance", entry["included"], used)
    if any(tier["flat"] != "0" for tier in entry.get("tiers", ())):
        yield f"flat fee, {entry['mode']}"
    if used == 0:
        yield "no usage"
    for part in (*entry.get("tiers", ()), *entry.get("discounts", ())):
        if part["up_to"]:
            yield from _beside(f"the end of a tier, {entry['mode']}", part["up_to"], used)
    if entry["rounding"] != "exact" and entry["per"] > 1 and not entry.get("included") and kind == "one rate":
        yield from _beside("the end of a block", -(-used // entry["per"]) * entry["per"] if used % entry["per"] != 1 else used - 1, used)


def _of_packages(unit: dict[str, Any], used: int) -> Iterator[str]:
    yield f"packages, at least {unit['at_least']}"
    if used <= unit["size"] * (unit["at_least"] - 1):
        yield "packages charged without usage"
    yield from _beside("the end of a package", unit["size"], used)


def _beside(edge: str, at: int, used: int) -> Iterator[str]:
    if -1 <= used - at <= 1:
        yield f"usage at {edge} {('- 1', '+ 0', '+ 1')[used - at + 1]}"


def _of_facts(known: Any, period: Any) -> Iterator[str]:
    if known.trial_end:
        yield "trial"
    if known.started_at > period.start:
        yield "start in mid-period"
    yield "started before" if known.started_at < period.start else "started in the period"
    if known.quantity > 1:
        yield "several base fees"
    if known.quantity_changes:
        yield f"changes of quantity: {len(known.quantity_changes)}"
    if any(change.at == period.start for change in known.quantity_changes):
        yield "change of quantity at the period's first second"
    if known.ended_at:
        yield f"end by {known.end_reason}"
    if known.credit_minor:
        yield "credit"


def run(first_seed: int, examples: int, workers: int) -> Counter[str]:
    """Share the seeds among processes and show how far they are."""
    found: Counter[str] = Counter()
    starts = range(first_seed, first_seed + examples, CHUNK)
    sizes = [min(CHUNK, first_seed + examples - start) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(compare, starts, sizes):
            found += part
            print(f"\r{found['compared']:,} compared, all equal", end="", flush=True)
    print()
    return found


def main() -> int:
    """Run, print the table of features and write the figures; 1 when something differs or was hardly there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    asked = parser.parse_args()
    print(f"random questions, seeds {asked.first_seed} to {asked.first_seed + asked.examples - 1}, {asked.workers} processes")
    started = time.perf_counter()
    try:
        found = run(asked.first_seed, asked.examples, asked.workers)
    except AssertionError as error:
        print(f"\nThe rating function and the slow calculator differ. Again: --first-seed SEED --examples 1\n{error}", file=sys.stderr)
        return 1
    sizes = {name: found.pop(name) for name in ("compared", "units_counted")}
    used = dict(sorted(found.items()))
    for name, count in used.items():
        print(f"  {count:8,}  {name}")
    seldom = [name for name, count in used.items() if count < asked.examples * SHARE_MIN]
    figures: dict[str, Any] = {
        **sizes,
        "different": 0,
        "first_seed": asked.first_seed,
        "workers": asked.workers,
        "seconds": round(time.perf_counter() - started, 1),
        "python": sys.version.split()[0],
        "features": used,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{sizes['compared']:,} compared, {sizes['units_counted']:,} units counted one by one, 0 different, {figures['seconds']} s")
    if seldom:
        print(f"hardly compared: {', '.join(seldom)}", file=sys.stderr)
    return 1 if seldom else 0


if __name__ == "__main__":
    raise SystemExit(main())
