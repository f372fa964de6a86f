import math

import pytest

from jaxch5.plots.chart import CANVAS, MOST_POINTS, line_chart


def chart(values, **options):
    return line_chart("title", range(len(values)), {"a": values}, "x", "y", **options)


def texts(ticks):
    return [tick.text for tick in ticks]


def test_points_lie_where_their_values_are():
    (line,) = chart([0.0, 5.0, 10.0]).lines
    middle = (CANVAS.left + CANVAS.right) / 2, (CANVAS.top + CANVAS.bottom) / 2
    assert line.dots == ((CANVAS.left, CANVAS.bottom), middle, (CANVAS.right, CANVAS.top))
    assert line.stretches == ("68,200 228,113 388,26",)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_none_is_a_gap(bad):
    result = chart([1.0, 2.0, bad, 4.0, bad])
    assert [len(stretch.split()) for stretch in result.lines[0].stretches] == [2, 1]
    assert result.description == "a: from 1 to 4, lowest 1, highest 4."


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.07, 0.93], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([3.0, 1234.0], ["0", "500", "1,000", "1,500"]),
        ([0.0, 2e-6], ["0", "5e-07", "1e-06", "1.5e-06", "2e-06"]),
        ([0.0, 0.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([math.nan], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([-1.0, 1.0], ["-1", "-0.5", "0", "0.5", "1"]),
    ],
)
def test_axes_are_marked_with_round_numbers(values, shown):
    assert texts(chart(values).y_ticks) == shown


def test_few_epochs_are_marked_with_whole_numbers():
    assert texts(chart([1.0, 2.0, 3.0]).x_ticks) == ["0", "1", "2"]
    assert texts(chart([1.0]).x_ticks) == ["0"]


def test_a_logarithmic_axis_leaves_out_the_dive_at_the_end():
    result = chart([0.0, 1e-4, 1e-3, 1e-9], log=True)
    assert texts(result.y_ticks) == ["10⁻⁵", "10⁻⁴", "10⁻³"]
    assert [len(stretch.split()) for stretch in result.lines[0].stretches] == [2]
    assert result.lines[0].dots[-1][1] == CANVAS.top


def test_many_steps_are_thinned_and_keep_their_ends():
    (line,) = chart([float(step) for step in range(10_001)]).lines
    points = line.stretches[0].split()
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS + 1
    assert points[0].startswith(f"{CANVAS.left},")
    assert points[-1].startswith(f"{CANVAS.right},")
    assert line.dots == ()


def test_an_early_spike_leaves_the_chart_and_says_how_high_it_was():
    """An early spike is cut off and labelled with its height; a late one stays in the chart.

    A spike in the second half is what the reader has to see.
    """
    (line,) = chart([1.0, 50.0, 0.5, 0.4, 0.3, 0.2]).lines
    assert line.peak.text == "50"
    assert len(line.dots) == 5
    result = chart([1.0, 50.0, 0.5, 0.4, 0.3, 0.2])
    assert texts(result.y_ticks)[-1] == "1"
    assert "highest 50" in result.description
    late = chart([0.2, 0.3, 0.4, 0.5, 50.0, 1.0])
    assert late.lines[0].peak is None
    assert texts(late.y_ticks)[-1] == "50"
