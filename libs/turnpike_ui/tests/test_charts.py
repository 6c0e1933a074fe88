"""Figures in, places out."""

import itertools

import pytest

from turnpike_ui.charts import Bar, Series, bar_chart, line_chart, scale, spread_ends


@pytest.mark.parametrize(
    ("high", "values"),
    [(500, [0, 100, 200, 300, 400, 500]), (5400, [0, 2000, 4000, 6000]), (0, [0, 1]), (3, [0, 1, 2, 3]), (0.4, [0, 0.1, 0.2, 0.3, 0.4])],
)
def test_grid_values_are_round_reach_the_top_and_are_at_most_six(high: float, values: list[float]) -> None:
    assert scale(high) == pytest.approx(values)
    assert len(values) <= 6


def test_a_line_starts_and_ends_where_its_figures_are() -> None:
    chart = line_chart("Cost", [Series("PAYG", [(0, 0), (100, 500)], accent=True)], x_heading="Calls", here=(50, 250))
    assert chart.lines[0].path == "M0.0 1000.0L1000.0 0.0"
    assert chart.here == (50, 50)
    assert chart.table == [["0", "0"], ["100", "500"]]


def test_names_at_line_ends_never_cover_each_other() -> None:
    chart = line_chart("Cost", [Series(f"S{index}", [(0, 0), (10, 100 + index)]) for index in range(4)], x_heading="Calls")
    ends = sorted(line.end for line in spread_ends(chart.lines))
    assert all(later - earlier >= 8 for earlier, later in itertools.pairwise(ends))


def test_bars_fill_their_share_and_an_unfinished_one_is_marked() -> None:
    chart = bar_chart("Calls", [Bar("1 May", 50), Bar("2 May", 100, unfinished=True)], heading="Day", unit="Calls")
    assert [(bar.top, bar.height, bar.unfinished) for bar in chart.bars] == [(50, 50, False), (0, 100, True)]
    assert chart.table == [["1 May", "50"], ["2 May", "100"]]


def test_a_chart_without_usage_has_an_empty_plot_and_a_scale() -> None:
    chart = bar_chart("Calls", [Bar("1 May", 0)], heading="Day", unit="Calls")
    assert [bar.height for bar in chart.bars] == [0]
    assert len(chart.rows) == 2
