"""Draws docs/images/usage-*.svg from bench/results/*.json; `--check` fails when a picture is not what the figures say."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

ROOT = Path(__file__).resolve().parent.parent
RESULTS, IMAGES = ROOT / "bench" / "results", ROOT / "docs" / "images"
STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    foreground="#535b6a",
    foreground_strong="#171b24",
    foreground_subtle="#dfe3ea",
    colors=("#2a4fb0", "#7f8899"),
    font_family="system-ui, sans-serif",
    title_font_size=18,
    label_font_size=13,
    legend_font_size=13,
    value_font_size=13,
    value_colors=("#171b24", "#171b24"),
)
Bars = dict[str, tuple[float, float]]  # label -> a value of each series


def main() -> None:
    pictures = {
        "usage-rates.svg": chart("Events a second, and what this machine could do at best", ("Turnpike", "limit in the same run"), rates()),
        "usage-growth.svg": chart("Postgres's processor for an event (µs), by what is stored", ("over 40 days", "in one day"), growth()),
    }
    wrong = [name for name, picture in pictures.items() if not (IMAGES / name).exists() or (IMAGES / name).read_text() != picture]
    if "--check" in sys.argv[1:]:
        if wrong:
            sys.exit(f"not what bench/results says: {', '.join(wrong)}; run tools/charts.py")
        return
    for name in wrong:
        (IMAGES / name).write_text(pictures[name])


def rates() -> Bars:
    stream, ingest = read("usage_stream"), read("usage_ingest")
    bars = {"stream to windows": (figure(stream, "stream to windows"), next(iter(stream["limits"].values())))}
    for name in ("batches of 100, 32 connections, 1 door", "single events, 32 connections, 1 door"):
        bars[name.replace(" connections, ", " conn., ")] = figure(ingest, name), ingest["limits"][name]
    return bars


def growth() -> Bars:
    figures = read("usage_growth")["figures"]
    sizes = [name.removesuffix(" over 40 days") for name in figures if name.endswith(" stored over 40 days")]
    cost = "postgres_cpu_us_per_event"
    return {size: (figures[f"{size} over 40 days"][cost], figures[f"{size} in one day"][cost]) for size in sizes}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def figure(result: dict[str, Any], name: str) -> float:
    return float(result["figures"][name]["events_per_second"])


def chart(title: str, series: tuple[str, str], bars: Bars) -> str:
    """Return bars as SVG without scripts, the same for the same figures."""
    drawn = pygal.HorizontalBar(
        style=STYLE,
        js=(),
        width=860,
        height=120 + 80 * len(bars),
        margin=16,
        print_values=True,
        legend_at_bottom=True,
        value_formatter=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:,.1f}",
        disable_xml_declaration=True,
        show_x_guides=False,
        show_x_labels=False,
    )
    drawn.title = title
    drawn.x_labels = list(reversed(bars))
    for place, name in enumerate(series):
        drawn.add(name, [values[place] for values in reversed(bars.values())])
    picture: str = re.sub(r"<script.*?</script>", "", drawn.render(), flags=re.DOTALL)  # for pictures that move: these do not
    return re.sub(re.escape(str(drawn.uuid)), "turnpike", picture) + "\n"


if __name__ == "__main__":
    main()
