"""Draws figures of where a model is wrong; each function returns a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

from jaxch5.plots.training import TITLE_LENGTH, grid, shortened

if TYPE_CHECKING:
    from jaxch5.plots.figure import Figure
    from jaxch5.results.calibration import Calibration, Selection

# Average width of a letter in matplotlib's default font, as a fraction of the font size.
LETTER_WIDTH = 0.62
LINE_HEIGHT = 1.25
POINTS = 72
# Longest side of a matrix without its labels, inches; larger ones would hardly fit a screen.
LARGEST_MATRIX = 12.0
SMALLEST_FONT = 6.0


def plot_confusion(
    matrix: Num[np.ndarray, "classes classes"], classes: Sequence[str], unit: str = "items"
) -> Figure:
    """Draws a confusion matrix; each row is an actual class and each column a predicted one.

    Right answers and mistakes have separate colour scales: with a common scale, the diagonal of a
    good model would make its mistakes invisible. Cells other than 0 show their numbers if all
    these numbers fit; if not, colour bars are drawn. If names would overlap, only every n-th name
    is shown.

    Args:
        matrix: Matrix of counts or shares, such as `Interpretation.confusion_matrix` returns.
        classes: Names of the classes.
        unit: What the numbers count; the labels of the colour bars name it.

    Example:
        >>> figure = plot_confusion(np.array([[5, 1], [0, 4]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['5', '4', '1']
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    from jaxch5.plots.figure import Figure

    count, whole = len(classes), np.issubdtype(matrix.dtype, np.integer)
    side = min(1.6 + 0.28 * count, LARGEST_MATRIX)
    cell = side * POINTS / count
    texts = np.vectorize(lambda number: f"{number:{'d' if whole else '.2f'}}")(matrix)
    longest_text = max(map(len, texts.flat))
    number_font = min(10.0, 0.8 * cell, 0.85 * cell / (LETTER_WIDTH * longest_text))
    font = min(10.0, max(SMALLEST_FONT, cell / LINE_HEIGHT))
    every = math.ceil(font * LINE_HEIGHT / cell)
    names = [shortened(name) for name in classes[::every]]
    longest = max(map(len, names)) * LETTER_WIDTH * font
    room = 0.6 + longest / POINTS

    # Cells come out almost square; exact squares would leave no room for wide names.
    bars = 0.0 if number_font >= SMALLEST_FONT else 1.8
    figure = Figure(figsize=(side + room + bars, side + room), layout="constrained")
    axes = figure.subplots()
    diagonal = np.eye(count, dtype=bool)
    # The palest colours would not stand out from the white of empty cells.
    shades = np.linspace(0.2, 1.0, 256)
    for label, colors, part in (("right", "Blues", diagonal), ("mistakes", "Oranges", ~diagonal)):
        filled = part & (matrix != 0)
        values = np.ma.masked_where(~filled, matrix)
        colored = ListedColormap(colormaps[colors](shades))
        top = (part * matrix).max() or 1
        image = axes.imshow(values, colored, vmin=0, vmax=top, aspect="auto")
        if bars:
            counts = MaxNLocator(6, integer=whole)
            figure.colorbar(image, ax=axes, label=f"{label}, {unit}", ticks=counts, shrink=0.5)
            continue
        for row, column in np.argwhere(filled):
            color = "white" if matrix[row, column] > 0.6 * top else "black"
            style = {"size": number_font, "color": color}
            axes.text(column, row, texts[row, column], style, ha="center", va="center_baseline")

    ticks, edges = range(0, count, every), np.arange(0, count + 1, every) - 0.5
    plain: dict[str, Any] = {"fontsize": font, "parse_math": False}
    axes.set_xticks(ticks, names, rotation=0 if longest < 0.9 * cell else 90, **plain)
    axes.set_yticks(ticks, names, **plain)
    axes.set(xlabel="predicted", ylabel="actual")
    # Faint lines guide the eye from a cell to its names.
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(True)
    return figure


def plot_mistakes(
    pictures: Sequence[Float[np.ndarray, "height width 3"]],
    predicted: Sequence[str],
    actual: Sequence[str],
    losses: Sequence[float],
    probabilities: Sequence[float],
    inches: float = 2.2,
) -> Figure:
    """Draws pictures, each titled with its prediction, actual class, loss and probability.

    Args:
        pictures: Pictures with values from 0 to 1.
        predicted, actual: Class names for each picture.
        losses, probabilities: Loss of each picture, and probability of its prediction.
        inches: Side of a cell, inches.

    Example:
        >>> figure = plot_mistakes([np.zeros((8, 8, 3))], ["cat"], ["dog"], [2.5], [0.75])
        >>> figure.axes[0].get_title()
        'cat / dog\\n2.50 / 0.75'
    """
    pairs = [tuple(map(shortened, pair)) for pair in zip(predicted, actual, strict=True)]
    fit = all(len(one) + len(other) + 3 <= TITLE_LENGTH for one, other in pairs)
    between, lines = (" / ", 2) if fit else (" /\n", 3)
    titles = [
        f"{between.join(pair)}\n{loss:.2f} / {probability:.2f}"
        for pair, loss, probability in zip(pairs, losses, probabilities, strict=True)
    ]
    ncols = math.ceil(math.sqrt(len(pictures)))
    nrows = math.ceil(len(pictures) / ncols)
    figure = grid(pictures, titles, nrows, ncols, inches, lines)
    width, height = figure.get_size_inches()
    # The line above the pictures is wider than a single picture.
    figure.set_size_inches(max(width, 3.0), height + 0.4)
    figure.suptitle("prediction / actual / loss / probability", fontsize=10)
    return figure


def plot_answers(
    pictures: Sequence[Float[np.ndarray, "height width 3"]],
    predicted: Sequence[str],
    actual: Sequence[str],
    nrows: int,
    ncols: int,
) -> Figure:
    """Draws pictures, each titled with its prediction and, if that is wrong, the actual class.

    A mark (✓ or ✗) and the colours of the confusion matrix tell right predictions from wrong ones.

    Args:
        pictures: Pictures with values from 0 to 1.
        predicted, actual: Class names for each picture.
        nrows, ncols: Rows and columns of the grid.

    Example:
        >>> figure = plot_answers([np.zeros((8, 8, 3))] * 2, ["cat", "cat"], ["cat", "dog"], 1, 2)
        >>> [axes.get_title() for axes in figure.axes]
        ['✓ cat', '✗ cat\\nis dog']
    """
    # Entire names are compared, since two long names may be shortened to the same text.
    titles = [
        f"✓ {shortened(one)}" if one == other else f"✗ {shortened(one)}\nis {shortened(other)}"
        for one, other in zip(predicted, actual, strict=True)
    ]
    figure = grid(pictures, titles, nrows, ncols, inches=2.0, lines=2)
    for axes, title in zip(figure.axes, titles, strict=False):
        axes.title.set_color("tab:blue" if title.startswith("✓") else "#b34700")
    return figure


def plot_calibration(calibration: Calibration) -> Figure:
    """Draws accuracy against confidence, and below it a histogram of the confidence.

    Args:
        calibration: What `Interpretation.calibration` returns.

    Example:
        >>> from jaxch5.results.calibration import calibrate
        >>> figure = plot_calibration(calibrate(np.array([0.6, 0.8]), np.array([True, True])))
        >>> figure.axes[0].get_title()
        'expected calibration error 30.0 %'
    """
    from matplotlib.ticker import MaxNLocator

    from jaxch5.plots.figure import Figure

    filled, edges = calibration.count > 0, np.linspace(0, 100, len(calibration.count) + 1)
    confidence, accuracy = 100 * calibration.confidence[filled], 100 * calibration.accuracy[filled]
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], "--", color="tab:gray", label="confidence = accuracy")
    upper.plot(confidence, accuracy, "o-", color="tab:blue", label="the model", clip_on=False)
    error = 100 * calibration.expected_error
    upper.set_title(f"expected calibration error {error:.1f} %", fontsize=10)
    upper.set(ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 100))
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges[:-1], calibration.count, width=np.diff(edges), align="edge", edgecolor="white")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set(xlabel="confidence, %", ylabel="items")
    return figure


def plot_selection(selection: Selection, marks: Mapping[str, float]) -> Figure:
    """Draws the error of a classifier's answers against the share of items left unanswered.

    Args:
        selection: What `select` returns.
        marks: Thresholds to mark, keyed by their names; at most four are marked.

    Example:
        >>> from jaxch5.results.calibration import select
        >>> selection = select(np.array([0.6, 0.8]), np.array([False, True]))
        >>> (axes,) = plot_selection(selection, {"suggested": 0.7}).axes
        >>> [text.get_text() for text in axes.get_legend().texts]
        ['suggested: 0.7']
    """
    from jaxch5.plots.figure import Figure

    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * (1 - selection.answered), 100 * selection.error, color="tab:blue")
    for (name, threshold), marker in zip(marks.items(), "os^v", strict=False):
        answered, error = selection.at(threshold)
        x, y, label = 100 * (1 - answered), 100 * error, f"{name}: {threshold:g}"
        axes.plot(x, y, marker, label=label, clip_on=False, zorder=3)
    axes.set(xlabel="left unanswered, % of the items", ylabel="errors, % of the answers")
    axes.set(xlim=(0, 100), ylim=(0, None))
    axes.grid(color="0.9", linewidth=0.5)
    axes.legend(title="threshold", frameon=False)
    return figure
