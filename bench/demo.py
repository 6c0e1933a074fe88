"""How long a person waits: for the stack to be up, for the whole story, and for all of it on a machine that has nothing yet."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from embedded_servers import places

RUNS = 3
LIMIT_SECONDS = 900
TARGETS = {"demo": 60, "cold": 180}
PASSED = ", 0 failed"


class RunError(Exception):
    """A measured command failed; the message is the end of what it printed."""


def _run(command: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Return the seconds a command took and its last line. Raises RunError."""
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | dict(environment or {}), capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
    took = time.monotonic() - started
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0:
        raise RunError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n" + "\n".join(lines[-15:]))
    return took, lines[-1] if lines else ""


def _warm(runs: int) -> dict[str, Any]:
    """Everything is installed: the first start in an empty folder, further starts, and the whole story with its start and stop."""
    checkout, data = places.checkout(), Path(tempfile.mkdtemp(prefix="turnpike-bench-"))
    turnpike: list[str | Path] = [Path(sys.executable).with_name("turnpike")]
    first, warm, demo, loads = [], [], [], []
    try:
        for number in range(runs):
            loads.append(machine.load())
            folder: list[str | Path] = ["--data", data / str(number)]
            first.append(_run([*turnpike, "up", *folder], folder=checkout)[0])
            _run([*turnpike, "down", *folder], folder=checkout)
            warm.append(_run([*turnpike, "up", *folder], folder=checkout)[0])
            _run([*turnpike, "down", *folder], folder=checkout)
            took, last = _run([*turnpike, "demo", "--exit", *folder], folder=checkout)
            if not last.endswith(PASSED):
                raise RunError(f"the story did not hold: {last}")
            demo.append(took)
    finally:
        for number in range(runs):
            _run([*turnpike, "down", "--data", data / str(number)], folder=checkout)
        shutil.rmtree(data, ignore_errors=True)
    figures = {"first_up": _seconds(first), "warm_up": _seconds(warm), "warm_demo": _seconds(demo) | {"target_s": TARGETS["demo"]}}
    return figures | {"load_average_before_each": loads}


def _cold() -> dict[str, Any]:
    """A fresh clone with an empty download cache of its own: `make demo EXIT=1`, installs included."""
    place = Path(tempfile.mkdtemp(prefix="turnpike-cold-"))
    load = machine.load()
    try:
        _run(["git", "clone", "-q", places.checkout(), place / "clone"], folder=place)
        environment = {"UV_CACHE_DIR": str(place / "cache"), "PIP_CACHE_DIR": str(place / "pip"), "XDG_CACHE_HOME": str(place / "xdg")}
        took, last = _run(["make", "demo", "EXIT=1"], folder=place / "clone", environment=environment)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if not last.endswith(PASSED):
        raise RunError(f"the story did not hold: {last}")
    return {"cold_demo": _seconds([took]) | {"target_s": TARGETS["cold"], "load_before": load, "last_line": last}}


def _seconds(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    return {"runs": len(ordered), "median_s": round(ordered[len(ordered) // 2], 1), "all_s": [round(value, 1) for value in values]}


def measure(runs: int | None, *, cold: bool) -> dict[str, Any]:
    """Measure `runs` times; the cold start once, and only when asked for: it downloads everything again."""
    found = machine.facts()
    try:
        figures = _cold() if cold else _warm(runs or RUNS)
    except RunError as error:
        sys.exit(str(error))
    return {"machine": found | {"load_after": machine.load()}, "figures": figures}
