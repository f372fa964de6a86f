"""Lays out line charts on a small canvas: the arithmetic of a chart, without its markup.

The report draws its charts as SVG after every epoch, so they must be cheap: matplotlib chooses the
ticks, but would take some 40 times as long to draw a chart. The markup is in the report's template,
which escapes all text and has colours for light and dark screens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# More than `MOST_POINTS` points would look no finer; more than `MOST_DOTS` dots would merge.
MOST_POINTS = 240
MOST_DOTS = 40
# Values above this many times the third quartile are a spike, except in a curve's second half.
SPIKE = 4
# A logarithmic axis begins this many powers of ten below the lowest of the curves' peaks.
DECADES_BELOW_PEAK = 2
# A round number is one of these times a power of ten.
STEPS = (1, 2, 5, 10)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Canvas(NamedTuple):
    """The sides of the canvas, and the edges of the area that curves are drawn in, in SVG units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


# These are roughly pixels. The left margin has room for the text 0.00015 in a font size of 14, as
# on a phone.
CANVAS = Canvas(400, 240, left=68, right=388, top=26, bottom=200)


class Tick(NamedTuple):
    """A tick on an axis: its place on the canvas and its text."""

    place: float
    text: str


class Line(NamedTuple):
    """A curve: its name, its unbroken stretches, and dots on its points if these are few.

    A stretch is written as in the attribute `points` of an SVG polyline. If the curve leaves the
    chart at the top, `peak` marks its highest value.
    """

    name: str
    stretches: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    peak: Tick | None = None


@dataclass(frozen=True)
class Chart:
    """A chart that is ready to be drawn.

    Attributes:
        title, description: Title, and a description for people who cannot see the chart.
        x_label, y_label: Labels of the axes.
        x_ticks, y_ticks: Ticks of the axes.
        lines: The curves.
        dividers: Horizontal positions on the canvas at which something changes, such as training's
            phase.
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
        title: Title of the chart.
        x: X value of each point, ascending.
        series: Values of each curve, keyed by its name; a value that is not finite leaves a gap.
        x_label, y_label: Labels of the axes.
        from_zero: Whether a linear y axis includes 0; an early spike is then cut off at the top.
        log: Whether the y axis is logarithmic; values that are not above 0 then leave gaps.
        dividers: X values at which something changes, such as the phase of training.

    Example:
        >>> chart = line_chart("Loss", [0, 1, 2], {"training": [3, 2, 1]}, "epoch", "loss")
        >>> chart.description
        'training: from 3 to 1, lowest 1, highest 3.'
        >>> [tick.text for tick in chart.x_ticks], [tick.text for tick in chart.y_ticks]
        (['0', '1', '2'], ['0', '1', '2', '3'])
    """
    from matplotlib.ticker import MaxNLocator

    places, curves = np.asarray(x, float), {}
    for name, values in series.items():
        curve = np.asarray(values, float)
        curves[name] = np.where(np.isfinite(curve), curve, np.nan)
    finite = {name: curve[np.isfinite(curve)] for name, curve in curves.items()}
    shown = _without_spike(curves.values()) if from_zero and not log else finite.values()
    ends = (places[0], places[-1]) if len(places) > 1 else (places[0] - 1, places[0] + 1)
    marks = _log_marks(finite) if log else _linear_marks(shown, from_zero)
    low, high = marks[[0, -1]]
    scale = np.log10 if log else np.asarray

    def place_x(values: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        return np.interp(values, ends, (CANVAS.left, CANVAS.right)).round(1)

    def place_y(values: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
        return np.interp(scale(values), scale((low, high)), (CANVAS.bottom, CANVAS.top)).round(1)

    kept = np.unique(
        [*range(0, len(places), math.ceil(len(places) / MOST_POINTS)), len(places) - 1]
    )
    lines = []
    for name, curve in curves.items():
        # Values below the axis leave a gap, since a line along the bottom would look like a value.
        curve = np.where(curve < low, np.nan, curve)
        points = np.stack([place_x(places), place_y(curve)], axis=1)[kept]
        gaps = np.ma.masked_invalid(points[:, 1])
        stretches = [points[there].tolist() for there in np.ma.clump_unmasked(gaps)]
        texts = tuple(" ".join(f"{a:g},{b:g}" for a, b in stretch) for stretch in stretches)
        within = points[(curve <= high)[kept]] if len(places) <= MOST_DOTS else points[:0]
        peak = None
        if len(above := np.flatnonzero(curve > high)):
            top = above[np.argmax(curve[above])]
            peak = Tick(float(place_x(places[top])), f"{curve[top]:,.3g}")
        lines.append(Line(name, texts, tuple(map(tuple, within.tolist())), peak))
    whole = MaxNLocator(nbins=5, steps=STEPS, integer=True).tick_values(*ends)
    x_values = whole[(whole >= places[0]) & (whole <= places[-1])]
    return Chart(
        title,
        " ".join(_describe(name, values) for name, values in finite.items()),
        x_label,
        y_label,
        tuple(map(Tick, place_x(x_values).tolist(), map(_text, x_values))),
        tuple(map(Tick, place_y(marks).tolist(), map(_power if log else _text, marks))),
        tuple(lines),
        tuple(place_x(np.asarray(dividers, float)).tolist()),
    )


def _without_spike(curves: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields each curve's finite values, except those early ones that are far above the rest.

    A loss that jumps in an early epoch would flatten everything else; a late jump is what the
    reader has to see.
    """
    curves = list(curves)
    known = [values for curve in curves if len(values := curve[np.isfinite(curve)])]
    limit = SPIKE * np.quantile(np.concatenate(known), 0.75) if known else 0.0
    for curve in curves:
        late = np.arange(len(curve)) >= len(curve) // 2
        yield curve[np.isfinite(curve) & ((curve <= limit) | late)]


def _linear_marks(finite: Iterable[np.ndarray], from_zero: bool) -> Float[np.ndarray, "marks"]:
    from matplotlib.ticker import MaxNLocator

    everything = np.concatenate(list(finite))
    everything = everything if len(everything) else np.array([0.0, 1.0])
    low = min(0.0, everything.min()) if from_zero else everything.min()
    # If all values are 0, as errors may be, they are drawn on the axis, not halfway up.
    high = everything.max() or (1.0 if from_zero else 0.0)
    locator = MaxNLocator(nbins=5, steps=STEPS)
    return np.asarray(locator.tick_values(*locator.nonsingular(low, high)))


def _log_marks(finite: Mapping[str, np.ndarray]) -> Float[np.ndarray, "marks"]:
    """Returns powers of ten as ticks; how deep a curve drops at its end does not change them."""
    peaks = [values.max() for values in finite.values() if len(values) and values.max() > 0] or [1]
    first = math.floor(math.log10(min(peaks)) + 1e-9) - DECADES_BELOW_PEAK
    last = math.ceil(math.log10(max(peaks)) - 1e-9)
    step = max(1, (last - first) // 4)
    return 10.0 ** np.arange(first, last + step, step)


def _describe(name: str, finite: np.ndarray) -> str:
    if not len(finite):
        return f"{name}: no finite value."
    first, last, low, high = (f"{v:.4g}" for v in (*finite[[0, -1]], finite.min(), finite.max()))
    return f"{name}: from {first} to {last}, lowest {low}, highest {high}."


def _text(value: float) -> str:
    """Formats a number for an axis.

    Example:
        >>> [_text(value) for value in (0.0, 0.6000000000000001, 1500.0, 5e-7)]
        ['0', '0.6', '1,500', '5e-07']
    """
    return f"{value:,.6g}"


def _power(value: float) -> str:
    """Formats a power of ten for an axis.

    Example:
        >>> _power(1e-05)
        '10⁻⁵'
    """
    return "10" + f"{math.log10(value):.0f}".translate(SUPERSCRIPTS)
