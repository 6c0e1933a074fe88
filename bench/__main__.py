"""`python -m bench [NAME ...] [--runs N] [--cold]`: measures, writes bench/results/<name>.json and prints what was found."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import access, demo, footprint, rating
from bench.usage import bad_input, growth, ingest, memory, outage, reconcile, reporting, rolling, stream, takeover, visible

RESULTS = Path(__file__).parent / "results"
WARM: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "access": lambda asked: access.measure(asked.runs),
    "footprint": lambda asked: footprint.measure(asked.runs),
    "rating": lambda asked: rating.measure(asked.runs),
    "demo": lambda asked: demo.measure(asked.runs, cold=False),
}
USAGE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "usage_stream": lambda asked: stream.measure(asked.runs, asked.events),
    "usage_ingest": lambda asked: ingest.measure(asked.runs),
    "usage_bad_input": lambda asked: bad_input.measure(asked.runs),
    "usage_visible": lambda _asked: visible.measure(),
    "usage_takeover": lambda asked: takeover.measure(asked.runs),
    "usage_growth": lambda asked: growth.measure(asked.runs, asked.events),
    "usage_rolling": lambda asked: rolling.measure(asked.runs, asked.events),
    "usage_memory": lambda asked: memory.measure(asked.events),
    "usage_outage": lambda asked: outage.measure(asked.runs),
    "usage_reconcile": lambda asked: reconcile.measure(asked.events),
    "usage_reporting": lambda asked: reporting.measure(asked.runs),
}
ALL = WARM | USAGE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Turnpike on this machine.")
    parser.add_argument(
        "names",
        nargs="*",
        choices=[[], "usage", *ALL],
        metavar="NAME",
        help=f"one of {', '.join(ALL)}, or usage for all of usage; all by default",
    )
    parser.add_argument("--runs", type=int, help="how often; each measurement has its own default")
    parser.add_argument("--events", type=int, help="how many usage events; each measurement of usage has its own default")
    parser.add_argument("--cold", action="store_true", help="only `make demo EXIT=1` in a fresh clone, with every download")
    asked = parser.parse_args()
    if asked.cold:
        _keep("cold", demo.measure(None, cold=True))
        return
    for name in asked.names or ALL:
        for one in USAGE if name == "usage" else [name]:
            _keep(one, ALL[one](asked))


def _keep(name: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    seen = found["machine"]
    print(f"\n{name}  ({seen['cores']} cores, load {seen['load_before']} at the start, {seen['measured_at']})")
    for limit, value in found.get("limits", {}).items():
        print(f"  {'limit: ' + limit:<24} {value:>10}")
    for figure, values in found["figures"].items():
        shown = values.items() if isinstance(values, dict) else [("", values)]
        text = "  ".join(f"{key} {value}".strip() for key, value in shown if not isinstance(value, dict) and key != "way")
        print(f"  {figure:<24} {text}")


if __name__ == "__main__":
    main()
