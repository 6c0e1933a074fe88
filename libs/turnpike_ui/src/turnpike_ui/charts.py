"""The geometry of charts: figures in, places in percent out; the template draws them as SVG without any script."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from turnpike_ui.formats import short_count

GRID_LINES_MAX = 6
FEW_LABELS = 5  # fit below a chart as wide as a phone
DAYS_OF_WEEK = 7
STYLES = 8  # colours; dashes and marks repeat at other numbers, so that two lines of one colour differ in both
DASHES = ("none", "9 4", "2 3", "12 3 2 3", "5 3")
MARKS = ("disc", "square", "triangle", "diamond", "cross", "ring")


@dataclass(frozen=True)
class Series:
    """A line by its corners. `place` decides its colour, dash and mark; `here` is its value at the place that is talked about.

    The accent line is thick and whole.
    """

    name: str
    points: Sequence[tuple[float, float]]
    place: int = 0
    accent: bool = False
    ends_early: bool = False
    here: float | None = None


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
    """A line to draw. Places are in percent from the left and from the top; None: not on this scale."""

    name: str
    path: str  # in a square of 1000 by 1000
    style: int
    dash: str
    mark: str
    accent: bool
    name_at: float | None  # where the name stands at the right edge
    stop: tuple[float, float] | None  # where the line ends before the edge
    here: tuple[float, float] | None


@dataclass(frozen=True)
class LineChart:
    title: str
    description: str
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    lines: Sequence[Line]
    here: float | None  # percent: the place that is talked about
    across: float  # the value at the right edge
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
    across: float,
    top: float,
    description: str = "",
    headings: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
    x_text: Callable[[float], str] = short_count,
    y_text: Callable[[float], str] = short_count,
    here: float | None = None,
    y_step_min: float = 0,
) -> LineChart:
    """Place lines from zero to `across`, cut off above the grid's last line; two points one above the other make a step."""
    columns, rows = scale(across), scale(top, step_min=y_step_min)
    width, height = columns[-1], rows[-1]
    lines = [_line(one, width, height, here) for one in series]
    return LineChart(
        title=title,
        description=description,
        rows=[Tick(_from_top(value, height), y_text(value)) for value in rows],
        columns=[Tick(_share(value, width), x_text(value)) for value in columns],
        lines=sorted(spread_names(lines), key=lambda line: line.accent),  # the accent line is drawn last, above the others
        here=None if here is None else _share(here, width),
        across=width,
        headings=headings,
        table=table,
    )


def _line(series: Series, width: float, height: float, here: float | None) -> Line:
    last_x, last_y = series.points[-1]
    reaches_edge, visible = last_x >= width * 0.999, last_y <= height
    here_y = series.here if here is not None and series.here is not None and series.here <= height else None
    return Line(
        name=series.name,
        path="".join(_path(piece, width, height) for piece in below(series.points, height)),
        style=series.place % STYLES,
        dash="none" if series.accent else DASHES[series.place % len(DASHES)],
        mark=MARKS[series.place % len(MARKS)],
        accent=series.accent,
        name_at=_from_top(last_y, height) if reaches_edge and visible else None,
        stop=(_share(last_x, width), _from_top(last_y, height)) if series.ends_early and visible else None,
        here=None if here_y is None or here is None else (_share(here, width), _from_top(here_y, height)),
    )


def _share(value: float, whole: float) -> float:
    return round(value / whole * 100, 2)


def _from_top(value: float, height: float) -> float:
    return round(100 - value / height * 100, 2)


def _path(points: Sequence[tuple[float, float]], width: float, height: float) -> str:
    return "M" + "L".join(f"{x / width * 1000:.1f} {1000 - y / height * 1000:.1f}" for x, y in points)


def below(points: Sequence[tuple[float, float]], height: float) -> list[list[tuple[float, float]]]:
    """Return the pieces of a line that are not above a height, each cut where it crosses."""
    pieces: list[list[tuple[float, float]]] = [[points[0]]] if points[0][1] <= height else []
    for (x1, y1), (x2, y2) in pairwise(points):
        if y1 <= height and y2 <= height:
            pieces[-1].append((x2, y2))
        elif y1 <= height or y2 <= height:
            crossing = (x1 + (x2 - x1) * (height - y1) / (y2 - y1), height)
            if y1 <= height:
                pieces[-1].append(crossing)
            else:
                pieces.append([crossing, (x2, y2)])
    return pieces


def spread_names(lines: Sequence[Line], gap: float = 7.0) -> list[Line]:
    """Move the names at the right edge apart, so that none covers another and none leaves the plot."""
    named = sorted((line for line in lines if line.name_at is not None), key=lambda line: line.name_at or 0)
    places = [line.name_at or 0.0 for line in named]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    limit = 100.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    moved = {line.name: round(place, 2) for line, place in zip(named, places, strict=True)}
    return [replace(line, name_at=moved.get(line.name)) for line in lines]


def bar_chart(
    title: str, bars: Sequence[Bar], *, heading: str, unit: str, every: int | None = None, text: Callable[[float], str] = short_count
) -> BarChart:
    """Place bars side by side; only every n-th is labelled, so that labels never touch: of few about five, else one a week."""
    every = every or (DAYS_OF_WEEK if len(bars) > 2 * DAYS_OF_WEEK else math.ceil(len(bars) / FEW_LABELS))
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
