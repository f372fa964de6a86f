"""Line charts as places on a small canvas: the arithmetic of a chart, without its markup.

The report draws them as SVG while training runs, after every epoch, so that they must cost next to
nothing; what is drawn stays in the report's template, which escapes all text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

# More points than this are finer than the canvas, and dots on more than this merge.
MOST_POINTS = 240
MOST_DOTS = 40
# On a logarithmic scale: how far the lowest line is followed below its peak.
DECADES_BELOW_PEAK = 2
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Canvas(NamedTuple):
    """Sides of the canvas, and of the field for the curves on it, in units of SVG."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


# About pixels: text of 12 is legible where the canvas is as narrow as a phone.
CANVAS = Canvas(400, 240, left=50, right=388, top=26, bottom=200)


class Tick(NamedTuple):
    """A mark on an axis: its place on the canvas and what is written there."""

    place: float
    text: str


class Line(NamedTuple):
    """A curve: its name, its unbroken stretches, and dots on its points where they are few.

    A stretch is written as the `points` of an SVG polyline.
    """

    name: str
    stretches: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """All that is to be drawn.

    Attributes:
        title, description: for people who cannot see it, and the title for all.
        x_label, y_label: what the axes show.
        x_ticks, y_ticks: their marks.
        lines: the curves.
        dividers: places on the x axis where something changes.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    dividers: tuple[float, ...]


def line_chart(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    from_zero: bool = True,
    log: bool = False,
    dividers: Sequence[float] = (),
) -> Chart:
    """Lays out curves over whole numbers, such as epochs or steps.

    Args:
        title: of the chart.
        x: of each point, growing.
        series: a curve's name to its value at each point; one that is no finite number is a gap.
        x_label, y_label: of the axes.
        from_zero: whether a linear y axis begins at 0.
        log: whether the y axis is logarithmic; values that are not above 0 are gaps then.
        dividers: of x, where something changes.

    Example:
        >>> chart = line_chart("Loss", [0, 1, 2], {"training": [3, 2, 1]}, "epoch", "loss")
        >>> chart.description
        'training: from 3 to 1, lowest 1, highest 3.'
        >>> [tick.text for tick in chart.x_ticks], [tick.text for tick in chart.y_ticks]
        (['0', '1', '2'], ['0', '1', '2', '3'])
    """
    finite = {name: [v for v in values if math.isfinite(v)] for name, values in series.items()}
    low_x, high_x = (x[0], x[-1]) if len(x) > 1 else (x[0] - 1, x[0] + 1)
    low, high, marks = _log_axis(finite) if log else _linear_axis(finite, from_zero)
    if log:
        # Below the axis the line leaves the chart; drawn along the bottom it would be a value.
        series = {n: [v if v >= low else math.nan for v in values] for n, values in series.items()}
    scale = math.log10 if log else float

    def place_x(value: float) -> float:
        return round(
            CANVAS.left + (CANVAS.right - CANVAS.left) * (value - low_x) / (high_x - low_x), 1
        )

    def place_y(value: float) -> float:
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        return round(CANVAS.bottom - (CANVAS.bottom - CANVAS.top) * share, 1)

    lines = []
    for name, values in series.items():
        stretches = _stretches(x, values)
        places = tuple(tuple((place_x(a), place_y(b)) for a, b in points) for points in stretches)
        dots = tuple(place for stretch in places for place in stretch)
        lines.append(
            Line(
                name,
                tuple(" ".join(f"{a:g},{b:g}" for a, b in stretch) for stretch in places),
                dots if len(x) <= MOST_DOTS else (),
            )
        )
    x_values = [v for v in _round_numbers(low_x, high_x, least=1) if low_x <= v <= high_x]
    return Chart(
        title,
        " ".join(_describe(name, values) for name, values in finite.items()),
        x_label,
        y_label,
        tuple(Tick(place_x(v), f"{v:,.0f}") for v in x_values if len(x) > 1 or v == x[0]),
        tuple(Tick(place_y(v), text) for v, text in marks),
        tuple(lines),
        tuple(place_x(v) for v in dividers),
    )


class _Axis(NamedTuple):
    """The ends of an axis, and numbers to mark on it with their texts."""

    low: float
    high: float
    marks: list[tuple[float, str]]


def _linear_axis(finite: Mapping[str, Sequence[float]], from_zero: bool) -> _Axis:
    everything = [v for values in finite.values() for v in values] or [0.0, 1.0]
    low = min(0.0, *everything) if from_zero else min(everything)
    # Errors that are all 0 lie on the axis, not in the middle between less than none and some.
    high = max(everything) or (1.0 if from_zero else 0.0)
    values = _round_numbers(low, high)
    return _Axis(values[0], values[-1], list(zip(values, _texts(values), strict=True)))


def _log_axis(finite: Mapping[str, Sequence[float]]) -> _Axis:
    """From whole power of ten to whole power of ten, however deep a curve dives at its end."""
    peaks = [max(values) for values in finite.values() if values and max(values) > 0] or [1.0]
    first = math.floor(math.log10(min(peaks)) + 1e-9) - DECADES_BELOW_PEAK
    last = math.ceil(math.log10(max(peaks)) - 1e-9)
    powers = range(first, last + 1, max(1, (last - first) // 4))
    marks = [(10.0**power, "10" + str(power).translate(SUPERSCRIPTS)) for power in powers]
    return _Axis(10.0**first, 10.0**last, marks)


def _describe(name: str, finite: Sequence[float]) -> str:
    if not finite:
        return f"{name}: no finite value."
    first, last, low, high = (f"{v:.4g}" for v in (finite[0], finite[-1], min(finite), max(finite)))
    return f"{name}: from {first} to {last}, lowest {low}, highest {high}."


def _stretches(x: Sequence[float], values: Sequence[float]) -> list[list[tuple[float, float]]]:
    """The points between gaps, thinned to what the canvas can show."""
    stride = max(1, math.ceil(len(x) / MOST_POINTS))
    stretches: list[list[tuple[float, float]]] = [[]]
    for number, (place, value) in enumerate(zip(x, values, strict=True)):
        if not math.isfinite(value):
            if stretches[-1]:
                stretches.append([])
        elif number % stride == 0 or number == len(x) - 1:
            stretches[-1].append((place, value))
    return [stretch for stretch in stretches if stretch]


def _round_numbers(low: float, high: float, count: int = 5, least: float = 0.0) -> list[float]:
    """About `count` round numbers around a range, their steps no smaller than `least`.

    Example:
        >>> _round_numbers(0.0, 0.93)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * 0.999)
    step = max(step, least)
    # Division before multiplication would leave 0.6000000000000001.
    digits = max(0, -math.floor(math.log10(step)))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [round(number * step, digits) for number in range(first, last + 1)]


def _texts(values: Sequence[float]) -> list[str]:
    """Numbers with as many digits as tell them apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    if step < 1e-4:
        return [f"{v:.3g}" for v in values]
    return [f"{v:,.{max(0, -math.floor(math.log10(step) + 1e-6))}f}" for v in values]
