"""Figures in, places out."""

import itertools

import pytest

from turnpike_ui.charts import Bar, Series, bar_chart, below, line_chart, scale


@pytest.mark.parametrize(
    ("high", "values"),
    [(500, [0, 100, 200, 300, 400, 500]), (5400, [0, 2000, 4000, 6000]), (0, [0, 1]), (3, [0, 1, 2, 3]), (0.4, [0, 0.1, 0.2, 0.3, 0.4])],
)
def test_grid_values_are_round_reach_the_top_and_are_at_most_six(high: float, values: list[float]) -> None:
    assert scale(high) == pytest.approx(values)
    assert len(values) <= 6


def test_a_line_starts_and_ends_where_its_figures_are() -> None:
    payg = Series("PAYG", [(0, 0), (100, 500)], accent=True, here=250)
    chart = line_chart("Cost", [payg], across=100, top=500, here=50)
    assert chart.lines[0].path == "M0.0 1000.0L1000.0 0.0"
    assert (chart.here, chart.lines[0].here, chart.lines[0].name_at) == (50, (50, 50), 0)


@pytest.mark.parametrize(
    ("points", "pieces"),
    [
        ([(0, 1), (10, 3)], [[(0, 1), (10, 3)]]),
        ([(0, 0), (10, 8)], [[(0, 0), (5, 4)]]),
        ([(0, 8), (10, 0)], [[(5, 4), (10, 0)]]),
        ([(0, 5), (10, 8)], []),
        ([(0, 0), (5, 4), (5.001, 12), (10, 0)], [[(0, 0), (5, 4), (5, 4)], [(8.334, 4), (10, 0)]]),
    ],
)
def test_a_line_is_cut_where_it_leaves_the_scale(points: list[tuple[float, float]], pieces: list[list[tuple[float, float]]]) -> None:
    found = below(points, 4)
    assert [[pytest.approx(point, abs=0.01) for point in piece] for piece in pieces] == found


def test_a_line_that_stops_early_has_a_ring_there_and_no_name_at_the_edge() -> None:
    chart = line_chart("Cost", [Series("Basic", [(0, 5), (40, 5)], ends_early=True)], across=100, top=10)
    assert (chart.lines[0].stop, chart.lines[0].name_at) == ((40, 50), None)


def test_a_line_above_the_scale_has_no_path_and_no_mark() -> None:
    chart = line_chart("Cost", [Series("Dear", [(0, 50), (100, 50)], here=50)], across=100, top=10, here=10)
    assert (chart.lines[0].path, chart.lines[0].here) == ("", None)


def test_lines_of_one_colour_differ_in_dash_and_mark_and_the_chosen_one_is_whole() -> None:
    many = [Series(f"S{place}", [(0, 0), (10, place)], place=place) for place in range(40)]
    lines = line_chart("Cost", many, across=10, top=40).lines
    assert len({(line.style, line.dash, line.mark) for line in lines}) == 40
    chosen = line_chart("Cost", [Series("S1", [(0, 0), (10, 1)], place=1, accent=True)], across=10, top=40).lines[0]
    assert chosen.dash == "none"


@pytest.mark.parametrize("values", [[100, 101, 102, 103], [1, 1, 1, 1], [0, 0.5, 99, 100]])
def test_names_at_line_ends_never_cover_each_other_nor_leave_the_plot(values: list[float]) -> None:
    lines = [Series(f"S{index}", [(0, 0), (10, value)]) for index, value in enumerate(values)]
    chart = line_chart("Cost", lines, across=10, top=110)
    ends = sorted(line.name_at or 0 for line in chart.lines)
    assert all(later - earlier >= 7 - 1e-9 for earlier, later in itertools.pairwise(ends))
    assert 0 <= ends[0] <= ends[-1] <= 100


def test_bars_fill_their_share_and_an_unfinished_one_is_marked() -> None:
    chart = bar_chart("Calls", [Bar("1 May", 50), Bar("2 May", 100, unfinished=True)], heading="Day", unit="Calls")
    assert [(bar.top, bar.height, bar.unfinished) for bar in chart.bars] == [(50, 50, False), (0, 100, True)]
    assert chart.table == [["1 May", "50"], ["2 May", "100"]]


@pytest.mark.parametrize(("bars", "labelled"), [(1, 1), (3, 3), (5, 5), (7, 4), (14, 5), (28, 4), (31, 5)])
def test_few_bars_have_more_labels_and_a_month_one_a_week(bars: int, labelled: int) -> None:
    chart = bar_chart("Calls", [Bar(f"{day} May", day) for day in range(1, bars + 1)], heading="Day", unit="Calls")
    assert len(chart.columns) == labelled


def test_a_chart_without_usage_has_an_empty_plot_and_a_scale() -> None:
    chart = bar_chart("Calls", [Bar("1 May", 0)], heading="Day", unit="Calls")
    assert [bar.height for bar in chart.bars] == [0]
    assert len(chart.rows) == 2
