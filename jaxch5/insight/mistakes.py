"""Figures of where a model is wrong; each function returns a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

from jaxch5.insight.plots import TITLE_LENGTH, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jaxch5.insight.calibration import Calibration
    from jaxch5.insight.figure import Figure

# Of a letter, in parts of the font's size: matplotlib's own font, on average.
LETTER_WIDTH = 0.62
LINE_HEIGHT = 1.25
POINTS = 72
# Inches that a matrix may take: a page, and a screen at 100 dots an inch.
LARGEST_MATRIX = 12.0
SMALLEST_FONT = 6.0


def plot_confusion(
    matrix: Num[np.ndarray, "classes classes"], classes: Sequence[str], unit: str = "items"
) -> Figure:
    """Actual classes down, predicted ones across; right answers and mistakes have a scale each.

    With one scale for both, the diagonal of a good model would make its mistakes invisible. Cells
    hold their number while it fits; beyond that there are colour bars. Names that would overlap
    are left out evenly.

    Args:
        matrix: as `Interpretation.confusion_matrix` returns it, counts or shares.
        classes: names.
        unit: what the numbers count, for the colour bars.

    Example:
        >>> figure = plot_confusion(np.array([[5, 1], [0, 4]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['5', '4', '1']
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    from jaxch5.insight.figure import Figure

    count = len(classes)
    side = min(1.6 + 0.28 * count, LARGEST_MATRIX)
    cell = side * POINTS / count
    form = "d" if np.issubdtype(matrix.dtype, np.integer) else ".2f"
    letters = len(format(matrix.max(), form))
    number_font = min(10.0, 0.8 * cell, 0.85 * cell / (LETTER_WIDTH * letters))
    with_numbers = number_font >= SMALLEST_FONT

    names = [shortened(name) for name in classes]
    font = min(10.0, max(SMALLEST_FONT, cell / LINE_HEIGHT))
    every = math.ceil(font * LINE_HEIGHT / cell)
    shown = range(0, count, every)
    longest = max(len(names[place]) for place in shown) * LETTER_WIDTH * font
    level = longest < 0.9 * cell

    # Beside the matrix: an axis label, the names, the colour bars.
    left = 0.6 + longest / POINTS
    below = 0.6 + (font if level else longest) / POINTS
    right = 0.1 if with_numbers else 1.0
    # Cells come out almost square; exact squares would leave names no room where they are wide.
    figure = Figure(figsize=(left + side + right, side + below), layout="constrained")
    axes = figure.subplots()
    diagonal = np.eye(count, dtype=bool)
    # The palest colours would not stand out from the white of empty cells.
    shades = np.linspace(0.2, 1.0, 256)
    parts = (("right", "Blues", diagonal, 0.54), ("mistakes", "Oranges", ~diagonal, 0.06))
    for label, colors, part, height in parts:
        filled = part & (matrix != 0)
        values = np.ma.masked_where(~filled, matrix)
        scale = Normalize(0, matrix[filled].max() if filled.any() else 1)
        colored = ListedColormap(colormaps[colors](shades))
        image = axes.imshow(values, colored, scale, aspect="auto", interpolation="nearest")
        if with_numbers:
            for row, column in np.argwhere(filled):
                color = "white" if scale(matrix[row, column]) > 0.6 else "black"
                text = format(matrix[row, column], form)
                _write(axes, int(row), int(column), text, number_font, color)
        else:
            bar = axes.inset_axes((1.02, height, 0.02, 0.4))
            ticks = MaxNLocator(6, integer=form == "d")
            figure.colorbar(image, cax=bar, label=f"{label}, {unit}", ticks=ticks)

    plain: dict[str, Any] = {"fontsize": font, "parse_math": False}
    axes.set_xticks(shown, [names[place] for place in shown], rotation=0 if level else 90, **plain)
    axes.set_yticks(shown, [names[place] for place in shown], **plain)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    _separate_cells(axes, count, every)
    return figure


def _write(axes: Axes, row: int, column: int, text: str, font: float, color: str) -> None:
    """A number in the middle of a cell."""
    axes.text(column, row, text, fontsize=font, color=color, ha="center", va="center_baseline")


def _separate_cells(axes: Axes, count: int, every: int) -> None:
    """Faint lines lead the eye from a cell to its names."""
    edges = np.arange(0, count + 1, every) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(True)


def plot_mistakes(
    pictures: Sequence[Float[np.ndarray, "height width 3"]],
    predicted: Sequence[str],
    actual: Sequence[str],
    losses: Sequence[float],
    probabilities: Sequence[float],
    inches: float = 2.2,
) -> Figure:
    """Pictures, each under its prediction, actual class, loss and probability of the prediction.

    Args:
        pictures: values from 0 to 1.
        predicted, actual: class names, of each picture.
        losses, probabilities: of each picture.
        inches: side of a cell.

    Example:
        >>> figure = plot_mistakes([np.zeros((8, 8, 3))], ["cat"], ["dog"], [2.5], [0.75])
        >>> figure.axes[0].get_title()
        'cat / dog\\n2.50 / 0.75'
    """
    from jaxch5.insight.figure import Figure

    pairs = [
        (shortened(one), shortened(other)) for one, other in zip(predicted, actual, strict=True)
    ]
    fit = all(len(one) + len(other) + 3 <= TITLE_LENGTH for one, other in pairs)
    between, lines = (" / ", 2) if fit else (" /\n", 3)
    ncols = math.ceil(math.sqrt(len(pictures)))
    nrows = math.ceil(len(pictures) / ncols)
    # The line above the pictures is wider than one of them.
    size = (max(inches * ncols, 3.0), (inches + 0.16 * lines) * nrows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle("prediction / actual / loss / probability", fontsize=10)
    cells = figure.subplots(nrows, ncols, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
        # Titles of a row stand on one line, whatever the pictures' shapes.
        axes.set_anchor("N")
    for axes, picture, pair, loss, probability in zip(
        cells, pictures, pairs, losses, probabilities, strict=False
    ):
        axes.imshow(np.asarray(picture, np.float32), vmin=0, vmax=1)
        title = f"{between.join(pair)}\n{loss:.2f} / {probability:.2f}"
        axes.set_title(title, fontsize=9, parse_math=False)
    return figure


def plot_calibration(calibration: Calibration) -> Figure:
    """Accuracy against confidence, and below it how many items have which confidence.

    Args:
        calibration: as `Interpretation.calibration` returns it.

    Example:
        >>> from jaxch5.insight.calibration import calibrate
        >>> figure = plot_calibration(calibrate(np.array([0.6, 0.8]), np.array([True, True])))
        >>> figure.axes[0].get_title()
        'expected calibration error 30.0 %'
    """
    from matplotlib.ticker import MaxNLocator

    from jaxch5.insight.figure import Figure

    filled = calibration.count > 0
    confidence, accuracy = (
        100 * means[filled] for means in (calibration.confidence, calibration.accuracy)
    )
    edges = np.linspace(0, 100, len(filled) + 1)
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], "--", color="tab:gray", label="confidence = accuracy")
    upper.plot(confidence, accuracy, "o-", color="tab:blue", label="the model", clip_on=False)
    error = 100 * calibration.expected_error
    upper.set_title(f"expected calibration error {error:.1f} %", fontsize=10)
    upper.set_ylabel("accuracy, %")
    upper.set_xlim(0, 100)
    upper.set_ylim(0, 100)
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges[:-1], calibration.count, width=np.diff(edges), align="edge", edgecolor="white")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_xlabel("confidence, %")
    lower.set_ylabel("items")
    return figure
