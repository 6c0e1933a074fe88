"""The geometry of charts: figures in, places in percent out; the template draws them as SVG without any script."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnpike_ui.formats import short_count

DASHES = ("none", "7 4", "4 3", "2 3", "9 3 2 3")
GRID_LINES_MAX = 6


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    accent: bool = False


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    unfinished: bool = False


@dataclass(frozen=True)
class Tick:
    place: float  # percent from the left or from the top
    label: str


@dataclass(frozen=True)
class Line:
    name: str
    path: str  # in a square of 1000 by 1000
    end: float  # percent from the top, where the name stands
    accent: bool
    dash: str


@dataclass(frozen=True)
class LineChart:
    title: str
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    lines: Sequence[Line]
    here: tuple[float, float] | None  # percent: the point that is talked about
    headings: Sequence[str]
    table: Sequence[Sequence[str]]


@dataclass(frozen=True)
class BarPlace:
    left: float
    top: float
    width: float
    height: float
    unfinished: bool
    text: str


@dataclass(frozen=True)
class BarChart:
    title: str
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    bars: Sequence[BarPlace]
    headings: Sequence[str]
    table: Sequence[Sequence[str]]


def scale(high: float, *, step_min: float = 0) -> list[float]:
    """Return round grid values from zero to at least `high`, at most six of them; counts have no steps below 1."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / (GRID_LINES_MAX - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    step = max(step, step_min)
    return [index * step for index in range(math.ceil(high / step - 1e-9) + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_heading: str,
    x_text: Callable[[float], str] = short_count,
    y_text: Callable[[float], str] = short_count,
    here: tuple[float, float] | None = None,
) -> LineChart:
    """Place lines from zero to the largest value; where points repeat an x, the line steps."""
    columns = scale(max(x for line in series for x, _ in line.points))
    rows = scale(max(y for line in series for _, y in line.points))
    across, up = columns[-1], rows[-1]
    lines = [
        Line(
            name=line.name,
            path="M" + "L".join(f"{x / across * 1000:.1f} {1000 - y / up * 1000:.1f}" for x, y in line.points),
            end=round(100 - line.points[-1][1] / up * 100, 2),
            accent=line.accent,
            dash="none" if line.accent else DASHES[1 + index % (len(DASHES) - 1)],
        )
        for index, line in enumerate(series)
    ]
    places = sorted({x for line in series for x, _ in line.points})
    figures = [dict(line.points) for line in series]
    return LineChart(
        title=title,
        rows=[Tick(round(100 - value / up * 100, 2), y_text(value)) for value in rows],
        columns=[Tick(round(value / across * 100, 2), x_text(value)) for value in columns],
        lines=spread_ends(lines),
        here=None if here is None else (round(here[0] / across * 100, 2), round(100 - here[1] / up * 100, 2)),
        headings=[x_heading, *(line.name for line in series)],
        table=[[x_text(x), *(y_text(figure[x]) if x in figure else "" for figure in figures)] for x in places],
    )


def spread_ends(lines: Sequence[Line], gap: float = 8.0) -> list[Line]:
    """Move the names at the line ends apart, so that none covers another."""
    ordered = sorted(lines, key=lambda line: line.end)
    placed: list[Line] = []
    for line in ordered:
        end = line.end if not placed else max(line.end, placed[-1].end + gap)
        placed.append(Line(line.name, line.path, round(end, 2), line.accent, line.dash))
    return sorted(placed, key=lambda line: line.accent)  # the accent line is drawn last, above the others


def bar_chart(
    title: str, bars: Sequence[Bar], *, heading: str, unit: str, every: int = 7, text: Callable[[float], str] = short_count
) -> BarChart:
    """Place bars side by side; only every n-th is labelled, so that labels never touch."""
    rows = scale(max((bar.value for bar in bars), default=0), step_min=1)
    slot = 100 / max(1, len(bars))
    places = [
        BarPlace(
            left=round(index * slot + slot * 0.16, 3),
            top=round(100 - bar.value / rows[-1] * 100, 3),
            width=round(slot * 0.68, 3),
            height=round(bar.value / rows[-1] * 100, 3),
            unfinished=bar.unfinished,
            text=f"{bar.label}: {text(bar.value)}",
        )
        for index, bar in enumerate(bars)
    ]
    return BarChart(
        title=title,
        rows=[Tick(round(100 - value / rows[-1] * 100, 2), text(value)) for value in rows],
        columns=[Tick(round(index * slot + slot / 2, 2), bar.label) for index, bar in enumerate(bars) if index % every == 0],
        bars=places,
        headings=[heading, unit],
        table=[[bar.label, f"{bar.value:,.10g}"] for bar in bars],
    )
