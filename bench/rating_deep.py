"""100,000 random catalogues, usages and subscriptions: the rating function against the slow calculator of its tests."""

import argparse
import importlib.util
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "libs" / "billing_common" / "tests" / "test_rating_slow.py"
RESULT = ROOT / "bench" / "results" / "rating_deep.json"
CHUNK = 1000


def load() -> ModuleType:
    """Import the tests by their path: they are no package."""
    specification = importlib.util.spec_from_file_location("test_rating_slow", TESTS)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def compare(first: int, count: int) -> dict[str, int]:
    """Compare seeds; an inequality raises and names the question."""
    slow = sys.modules.get("test_rating_slow") or load()
    units = 0
    for seed in range(first, first + count):
        question = slow.question(Random(seed))
        slow.compare(*question)
        units += sum(question[1].values())
    return {"compared": count, "units_counted": units}


def main() -> None:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    asked = parser.parse_args()
    started, found = time.perf_counter(), {"compared": 0, "units_counted": 0}
    starts = range(asked.first_seed, asked.first_seed + asked.examples, CHUNK)
    sizes = [min(CHUNK, asked.first_seed + asked.examples - start) for start in starts]
    with ProcessPoolExecutor(asked.workers) as pool:
        for part in pool.map(compare, starts, sizes):
            found = {name: found[name] + part[name] for name in found}
            print(f"\r{found['compared']:,} compared, all equal", end="", flush=True)
    figures: dict[str, Any] = {
        **found,
        "different": 0,
        "first_seed": asked.first_seed,
        "workers": asked.workers,
        "seconds": round(time.perf_counter() - started, 1),
        "python": sys.version.split()[0],
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{json.dumps(figures)}")


if __name__ == "__main__":
    main()
