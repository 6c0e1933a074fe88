"""2,000 random subscriptions at running sandboxes: each invoice of Stripe's against the rating function, line by line."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench import machine

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT / "tests" / "invoices"
RESULT = ROOT / "bench" / "results" / "invoices_deep.json"
STORIES_OF_A_SHOP = 4
CHUNK = 25  # shops that share one sandbox
AT_ONCE = 3  # shops that are alive at the same time: one asks while another waits for its answer
SHARE_MIN = 0.01  # of all stories, for each feature


def compare(first: int, count: int) -> Counter[str]:
    """Live the stories of some catalogues at a sandbox of their own; returns how many had which feature."""
    sys.path.insert(0, str(SHARED))
    from comparing import compare_shop, sandbox
    from stripe_life import connected

    async def live(address: str) -> Counter[str]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with connected(address) as stripe:

            async def one(shop: int) -> Counter[str]:
                async with gate:
                    return await compare_shop(stripe, shop)

            found = await asyncio.gather(*(one(shop) for shop in range(first, first + count)))
        return sum(found, Counter())

    with sandbox() as address:
        return asyncio.run(live(address))


def run(first: int, shops: int, workers: int) -> Counter[str]:
    """Share the catalogues among processes and show how far they are."""
    starts = range(first, first + shops, CHUNK)
    sizes = [min(CHUNK, first + shops - start) for start in starts]
    found: Counter[str] = Counter()
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(compare, starts, sizes):
            found += part
            text = f"{found['stories']:,} subscriptions, {found['invoices']:,} invoices, {found['lines']:,} lines compared, all equal"
            print(f"\r{text}", end="", flush=True)
    print()
    return found


def rare(features: dict[str, int], stories: int) -> list[str]:
    """Return what was compared too seldom to mean anything."""
    return [name for name, count in features.items() if count < max(1, stories * SHARE_MIN)]


def main() -> int:
    """Run, print the table of features and write the figures; 1 when something differs or was hardly there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=2000)
    parser.add_argument("--first-seed", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    asked = parser.parse_args()
    print(f"random subscriptions, seeds {asked.first_seed} to {asked.first_seed + asked.stories - 1}, {asked.workers} processes")
    began, facts = time.perf_counter(), machine.facts()
    try:
        found = run(asked.first_seed // STORIES_OF_A_SHOP, -(-asked.stories // STORIES_OF_A_SHOP), asked.workers)
    except AssertionError as error:
        print(f"\nStripe's invoices and the rating function differ. Again: --first-seed SEED --stories 4\n{error}", file=sys.stderr)
        return 1
    sizes = {name: found.pop(name) for name in ("stories", "invoices", "lines")}
    features = dict(sorted(found.items()))
    for name, count in features.items():
        print(f"  {count:6,}  {name}")
    seldom = rare(features, sizes["stories"])
    figures: dict[str, Any] = {
        "machine": facts,
        **sizes,
        "different": 0,
        "first_seed": asked.first_seed,
        "workers": asked.workers,
        "seconds": round(time.perf_counter() - began, 1),
        "features": features,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{sizes['stories']:,} subscriptions, {sizes['invoices']:,} invoices, 0 different, {figures['seconds']} s")
    if seldom:
        print(f"hardly compared: {', '.join(seldom)}", file=sys.stderr)
    return 1 if seldom else 0


if __name__ == "__main__":
    raise SystemExit(main())
