"""Plays the scenarios against an app that uses an SDK: `python3 drive.py --app 'node app.js' [--only NAME ...]`.

The app is started with TURNPIKE_URL, TURNPIKE_KEY, TURNPIKE_SOURCE, TURNPIKE_SPOOL_DIR and TURNPIKE_OPTIONS (JSON, names as in
sdks/README.md). It prints `listening PORT`, takes a call's subject from the header x-subject and answers the routes of `shapes.json`.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

from fake_ingest import Fault
from world import ScenarioError, World

HERE = Path(__file__).parent
SCENARIOS: list[dict[str, Any]] = json.loads((HERE / "scenarios.json").read_text())
OPTIONS = {
    "flush_seconds": 0.05,
    "backoff_seconds": 0.05,
    "backoff_max_seconds": 0.4,
    "unauthorized_pause_seconds": 0.3,
    "timeout_seconds": 10,
    "shutdown_seconds": 5,
}


def play(scenario: dict[str, Any], app: list[str]) -> str | None:
    """Return what did not hold, or None."""
    with tempfile.TemporaryDirectory(prefix="turnpike-sdk-") as folder:
        world = World(app, Path(folder), {**OPTIONS, **scenario.get("options", {})}, scenario)
        try:
            for step in scenario["steps"]:
                arguments = {name: value for name, value in step.items() if name != "do"}
                if step["do"] == "fault":
                    world.ingest.fault = Fault(**arguments)
                else:
                    getattr(world, step["do"])(**arguments)
            check(world, scenario["expect"])
        except (ScenarioError, OSError, HTTPException) as error:
            return f"{error or repr(error)}\n    {world.story()}"
        finally:
            world.close()
    return None


def check(world: World, expected: dict[str, Any]) -> None:
    """Raise ScenarioError with what differs."""
    ingest = world.ingest
    twice = {subject: count for subject, count in ingest.subjects.items() if count > 1}
    _hold(not twice, f"counted more than once: {twice}")
    _hold(not ingest.complaints, f"the door complains: {ingest.complaints[:3]}")
    _hold(set(ingest.subjects) <= world.started, "something was counted that was never called")
    refused = {subject for subject, _ in expected.get("rejected", [])}
    if "sum" not in expected:
        lost = world.answered - set(ingest.subjects) - refused
        _hold(not lost, f"{len(lost)} of {len(world.answered)} answered calls were lost")
    if expected.get("exact"):
        _hold(set(ingest.subjects) | refused == world.answered, "counted is not what was answered")
    stats = world.final_stats()
    low, high = expected.get("dropped", (0, 1 << 30))
    _hold(low <= stats["dropped"] <= high, f"{stats['dropped']} were dropped, not between {low} and {high}")
    if expected.get("sum"):
        _hold(len(ingest.subjects) + stats["dropped"] == len(world.answered), "counted and dropped are not all that were answered")
    if "rejected" in expected:
        told = sorted(world.rejected())
        _hold(told == sorted(expected["rejected"]), f"rejected: {told}")
        _hold(stats["rejected"] == len(told), f"stats say {stats['rejected']} rejected")
    _check_manner(world, expected, stats)


def _check_manner(world: World, expected: dict[str, Any], stats: dict[str, Any]) -> None:
    """Check not what was counted but how it was sent."""
    requests = world.ingest.requests
    if "seconds_max" in expected:
        _hold(world.longest <= expected["seconds_max"], f"a call took {world.longest:.2f} s")
    if "retries_min" in expected:
        _hold(stats["retries"] >= expected["retries_min"], f"only {stats['retries']} retries")
    _hold(world.ingest.repeats >= expected.get("repeats_min", 0), "nothing was sent again")
    _hold(world.ingest.repeats <= expected.get("repeats_max", 1 << 30), f"{world.ingest.repeats} events were sent again")
    _hold(len(requests) <= expected.get("requests_max", 1 << 30), f"{len(requests)} requests were made")
    if pause := expected.get("pause_after"):
        gaps = [after.at - before.at for before, after in pairwise(requests) if before.status == pause["status"]]
        _hold(bool(gaps) and min(gaps) >= pause["seconds"], f"after {pause['status']} the pauses were {gaps}")


def _hold(held: bool, otherwise: str) -> None:
    if not held:
        raise ScenarioError(otherwise)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--parallel", type=int, default=4)
    chosen = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if not chosen.only or scenario["name"] in chosen.only]

    def timed(scenario: dict[str, Any]) -> tuple[str | None, float]:
        started = time.monotonic()
        return play(scenario, shlex.split(chosen.app)), time.monotonic() - started

    with ThreadPoolExecutor(chosen.parallel) as pool:
        outcomes = list(pool.map(timed, scenarios))
    for scenario, (problem, seconds) in zip(scenarios, outcomes, strict=True):
        print(f"{'ok' if problem is None else 'FAILED'}  {scenario['name']} ({seconds:.1f} s)", flush=True)
        if problem is not None:
            print(f"    {scenario['says']}\n    {problem}")
    failed = sum(problem is not None for problem, _ in outcomes)
    print(f"conformance: {len(outcomes) - failed} scenarios hold, {failed} do not")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
